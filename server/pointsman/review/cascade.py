"""Labelled answers of specialists to a cascade, and to figures on it.

A line is `{"specialist": "…", "prompt": "…", "answer": "…", "logprobs": [-0.1, …], "right": true}`, with
`"finish": "length"` where the token limit ended the answer, and `"answers_hash"` of the specialist that made it,
which `pointsman cascade collect` writes, `"repaired": true` where the first answer broke its format and this one was
held to it, and `"twin": true` where an adapter that was trained on another part of the
same examples made it. A null log-probability is no confidence. Other fields are ignored.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pointsman.catalog.files import shown
from pointsman.catalog.output_format import format_of
from pointsman.decision.answer_model import Judged, auroc, confidences, fit
from pointsman.decision.signals import SignalReader
from pointsman.errors import CatalogError
from pointsman.values.cascade import AnswerModel, Cascade, Signals
from pointsman.values.catalog import Catalog, Problem, Specialist

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3)
"""Escalated shares that a report shows."""
_MOST_PROBLEMS = 100
_FLAGS = ("repaired", "twin")
"""Fields of a line that are left out where they are false."""
_PARTS = 1 << 32


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """An answer of a specialist, and whether it is right. `answers_hash` is empty where it is not known.

    twin: made by an adapter that was trained on another part of the specialist's examples; it tells how right and
        wrong answers differ, and not how many of the specialist's own are wrong
    """

    specialist: str
    prompt: str
    answer: str
    logprobs: tuple[float | None, ...]
    right: bool
    cut: bool = False
    answers_hash: str = ""
    repaired: bool = False
    twin: bool = False


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one specialist on answers that did not shape its curve.

    auroc: of the confidence for 'the answer is right'; None with right or wrong answers only
    accuracy: share of right answers by escalated share, the least confident first
    escalated, standing_wrong: shares of all answers, at the threshold that is in use
    """

    specialist: str
    answers: int
    auroc: float | None
    accuracy: Mapping[float, float]
    escalated: float
    standing_wrong: float


def read_answers(path: Path, catalog: Catalog) -> list[LabelledAnswer]:
    """Read labelled answers.

    Raises:
        CatalogError: every bad line with its field and value; an unreadable file, or one without answers.

    """
    answers: list[LabelledAnswer] = []
    problems: list[Problem] = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise CatalogError([Problem(str(path), 0, "", "", "not UTF-8")]) from None
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or len(problems) >= _MOST_PROBLEMS:
            continue
        found = list(_problems(line, catalog))
        problems += [Problem(str(path), number, *fault) for fault in found]
        if not found:
            answers.append(_answer(json.loads(line)))
    if problems:
        raise CatalogError(problems)
    if not answers:
        raise CatalogError([Problem(str(path), 0, "", "", "holds no answers")])
    return answers


def fit_cascade(
    answers: Sequence[LabelledAnswer],
    catalog: Catalog,
    risk: float,
    confidence: float,
    calibration_share: float = 0.5,
) -> Cascade:
    """Fit on some of the answers, and set thresholds on the others, so that the risk holds with this confidence.

    Which is which depends on the prompt alone, so that a repeated one never stands on both sides. Where twins of a
    specialist answered too, theirs shape the curve, and all of its own set the threshold.
    """
    groups: dict[str, list[Judged]] = {}
    with_twins = {answer.specialist for answer in answers if answer.twin}
    for answer in answers:
        specialist = _specialist(catalog, answer.specialist)
        with_twin = answer.specialist in with_twins
        fitting = answer.twin if with_twin else not is_held_out(answer, calibration_share)
        groups.setdefault(specialist.name, []).append(
            Judged(signals_of(answer, specialist), answer.right, fitting)
        )
    hashes = {name: _specialist(catalog, name).answers_hash for name in groups}
    made_at = datetime.now(UTC).replace(microsecond=0)
    return Cascade(made_at, risk, confidence, tuple(fit(groups, hashes, risk, confidence)))


def figures_on(
    answers: Sequence[LabelledAnswer], catalog: Catalog, cascade: Cascade, cloud_accuracy: float = 1.0
) -> list[Figures]:
    """Return figures of every specialist that has a model and answers; the cloud is right that often."""
    found = []
    for model in cascade.models:
        group = [answer for answer in answers if answer.specialist == model.specialist]
        if group:
            found.append(_figures(group, _specialist(catalog, model.specialist), model, cloud_accuracy))
    return found


def is_held_out(answer: LabelledAnswer, calibration_share: float = 0.5) -> bool:
    """Whether an answer sets the threshold, and does not shape the curve."""
    number = int.from_bytes(hashlib.sha256(answer.prompt.encode()).digest()[:4])
    return number < calibration_share * _PARTS


def signals_of(answer: LabelledAnswer, specialist: Specialist) -> Signals:
    """Return what the tokens of an answer say."""
    reader = SignalReader(answer.prompt, answer.prompt)
    for logprob in answer.logprobs:
        reader.take(-math.inf if logprob is None else logprob)
    checks = format_of(specialist.output)
    invalid = checks is not None and bool(checks.why_not(answer.answer))
    return reader.signals(answer.answer, cut=answer.cut, invalid=invalid, repaired=answer.repaired)


def answer_line(answer: LabelledAnswer) -> str:
    """Return an answer as a line of the file."""
    fields = {
        "specialist": answer.specialist,
        "prompt": answer.prompt,
        "answer": answer.answer,
        "logprobs": [None if p is None or not math.isfinite(p) else round(p, 5) for p in answer.logprobs],
        "right": answer.right,
        "finish": "length" if answer.cut else "stop",
        "answers_hash": answer.answers_hash,
    } | {name: True for name in _FLAGS if getattr(answer, name)}
    return json.dumps(fields, ensure_ascii=False) + "\n"


def _figures(
    group: Sequence[LabelledAnswer], specialist: Specialist, model: AnswerModel, cloud_accuracy: float
) -> Figures:
    right = np.array([answer.right for answer in group], bool)
    confidence = confidences(model.curve, [signals_of(answer, specialist) for answer in group])
    order = np.argsort(confidence, kind="stable")
    n = len(group)
    accuracy = {}
    for share in SHARES:
        moved = round(share * n)
        accuracy[share] = (moved * cloud_accuracy + float(right[order[moved:]].sum())) / n
    stands = (confidence >= model.required_confidence) & model.holds
    return Figures(
        specialist=specialist.name,
        answers=n,
        auroc=auroc(confidence, right),
        accuracy=accuracy,
        escalated=float((~stands).mean()),
        standing_wrong=float((stands & ~right).mean()),
    )


def _problems(line: str, catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    """Yield field, value and message of everything that is wrong with a line."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        yield "", shown(line), f"not JSON: {error}"
        return
    if not isinstance(fields, dict):
        yield "", shown(fields), "expected an object with specialist, prompt, answer, logprobs and right"
        return
    kinds = {"specialist": str, "prompt": str, "answer": str, "logprobs": list, "right": bool}
    kinds |= dict.fromkeys((name for name in _FLAGS if name in fields), bool)
    for field, kind in kinds.items():
        if not isinstance(fields.get(field), kind):
            value = shown(fields[field]) if field in fields else ""
            yield field, value, f"expected {'true or false' if kind is bool else kind.__name__}"
            return
    if fields.get("finish", "stop") not in {"stop", "length"}:
        yield "finish", shown(fields["finish"]), "expected stop or length"
    for i, logprob in enumerate(fields["logprobs"]):
        if logprob is not None and not _is_logprob(logprob):
            yield f"logprobs.{i}", shown(logprob), "expected a number of at most 0, or null"
            break
    specialist = catalog.specialist(fields["specialist"])
    if specialist is None:
        known = ", ".join(s.name for s in catalog.specialists) or "none"
        yield "specialist", shown(fields["specialist"]), f"no such specialist; known: {known}"
    elif fields.get("answers_hash") not in {None, "", specialist.answers_hash}:
        message = "made by another base, adapter or prompt than the specialist has now; collect again"
        yield "answers_hash", shown(fields["answers_hash"]), message


def _is_logprob(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 1e-6


def _answer(fields: dict[str, Any]) -> LabelledAnswer:
    return LabelledAnswer(
        specialist=fields["specialist"],
        prompt=fields["prompt"],
        answer=fields["answer"],
        logprobs=tuple(fields["logprobs"]),
        right=fields["right"],
        cut=fields.get("finish") == "length",
        answers_hash=fields.get("answers_hash") or "",
        **{name: fields.get(name, False) for name in _FLAGS},
    )


def _specialist(catalog: Catalog, name: str) -> Specialist:
    specialist = catalog.specialist(name)
    assert specialist is not None  # noqa: S101 - `read_answers` refuses others
    return specialist
