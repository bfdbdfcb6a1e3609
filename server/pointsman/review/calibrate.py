"""Labelled traffic to a `Promise`, on the routes that would be taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from pointsman.catalog.schema import normalise
from pointsman.catalog.targets import specialist_of
from pointsman.decision.promise import (
    LOGITS,
    NOTHING_LOCAL,
    Verdicts,
    control_risk,
    expected_calibration_error,
    fit_line,
    sigmoid,
)
from pointsman.embedding.encoder import Rows
from pointsman.errors import PreconditionError
from pointsman.review.traffic import Labelled
from pointsman.router.basis import basis_of
from pointsman.router.conversation import Conversation
from pointsman.router.snapshot import Matcher
from pointsman.sections import Conversations, Routing
from pointsman.values.catalog import CLOUD, Mid
from pointsman.values.decision import Evidence
from pointsman.values.promise import LabelCounts, Promise

_MOST_REPEATED = 0.1
"""A share of labelled prompts that are exemplars, above which the labels cannot be held-out traffic."""
_REQUIRED = sigmoid(LOGITS)


@dataclass(frozen=True, slots=True)
class Serving:
    """The settings that routes of labelled traffic depend on."""

    routing: Routing
    conversations: Conversations


def unseen(matcher: Matcher, traffic: Sequence[Labelled]) -> tuple[list[Labelled], int]:
    """Return the labelled prompts that are no exemplars, and how many are.

    Raises:
        PreconditionError: too many are: a promise from them would be false.

    """
    seen = {normalise(text) for text in matcher.texts}
    kept = [item for item in traffic if seen.isdisjoint(map(normalise, (*item.before, item.text)))]
    left_out = len(traffic) - len(kept)
    if left_out > _MOST_REPEATED * len(traffic):
        raise PreconditionError(
            f"{left_out} of {len(traffic)} labelled prompts are exemplars themselves; a promise from them would "
            "be false: give held-out traffic"
        )
    return kept, left_out


def calibrate_on(
    matcher: Matcher,
    encoder_hash: str,
    traffic: Sequence[Labelled],
    encode: Callable[[Sequence[str]], Rows],
    left_out: int,
    risk: float,
    confidence: float,
    prompts: int | None,
    serving: Serving,
) -> Promise:
    """Make a promise from labelled prompts; `matcher` must hold none itself. `encode` makes unit rows."""
    turns = serving.conversations.turns
    asked = [(*item.before, item.text)[-turns:] for item in traffic]
    number = {text: i for i, text in enumerate(dict.fromkeys(text for texts in asked for text in texts))}
    rows = encode(tuple(number))
    verdicts = judge_traffic(
        matcher,
        traffic,
        [rows[[number[text] for text in texts]] for texts in asked],
        serving.routing.mid_tier,
        serving.conversations.hysteresis,
    )
    bound = control_risk(verdicts, risk, confidence, prompts)
    slope, intercept = fit_line(verdicts.logit, verdicts.right)
    calibrated = sigmoid(slope * verdicts.logit + intercept)
    required = NOTHING_LOCAL if bound.logit is None else float(sigmoid(slope * bound.logit + intercept))
    in_scope = sum(item.intent is not None for item in traffic)
    later = sum(bool(item.before) for item in traffic)
    return Promise(
        encoder_hash=encoder_hash,
        exemplar_hash=matcher.catalog.exemplar_hash,
        made_at=datetime.now(UTC).replace(microsecond=0),
        labels=LabelCounts(len(traffic), in_scope, len(traffic) - in_scope, left_out, later),
        risk=risk,
        confidence=confidence,
        slope=slope,
        intercept=intercept,
        required_confidence=required,
        wrong=bound.wrong,
        bound=bound.upper,
        local_share=bound.local_share,
        labels_missing=bound.labels_missing,
        ece=expected_calibration_error(calibrated, verdicts.right),
        brier=float(((calibrated - verdicts.right) ** 2).mean()),
        basis=basis_of(serving.routing, matcher.catalog),
        prompts=prompts,
    )


def judge_prompts(
    matcher: Matcher, traffic: Sequence[Labelled], rows: Rows, mid: Mid | None = None
) -> Verdicts:
    """Return how single prompts with unit rows (n, d) would be routed if confidence did not matter."""
    found = [matcher.read(matcher.match(row), item.text) for row, item in zip(rows, traffic, strict=True)]
    specialists = [_specialist(evidence, mid) for evidence in found]
    return Verdicts(
        logit=_logits(found),
        local=np.array([e.near and s is not None for e, s in zip(found, specialists, strict=True)]),
        wrong=np.array([s != due for s, due in zip(specialists, _due(matcher, traffic, mid), strict=True)]),
        right=np.array([e.intent == item.intent for e, item in zip(found, traffic, strict=True)]),
    )


def judge_traffic(
    matcher: Matcher,
    traffic: Sequence[Labelled],
    turns: Sequence[Rows],
    mid: Mid | None,
    hysteresis: float,
) -> Verdicts:
    """Return how prompts would be routed, each after the turns before it, as a server reads a conversation.

    turns: of each prompt, unit rows (k, d) of the turns before it and of itself, in order
    """
    alone = judge_prompts(matcher, traffic, np.stack([rows[-1] for rows in turns]), mid)
    if all(len(rows) == 1 for rows in turns):
        return alone
    steps = range(len(LOGITS))
    local = np.stack([alone.taken(step) for step in steps])  # (L, n)
    wrong = np.stack([alone.wrong for _ in steps])  # (L, n)
    logit, right = alone.logit.copy(), alone.right.copy()
    due = _due(matcher, traffic, mid)
    for i, rows in enumerate(turns):
        if len(rows) == 1:
            continue
        read = Conversation(matcher, matcher.leaning, hysteresis).read(rows).evidence
        logit[i], right[i] = _logits([read])[0], read.intent == traffic[i].intent
        for step, specialist in enumerate(_specialists_by_step(matcher, rows, mid, hysteresis)):
            local[step, i], wrong[step, i] = specialist is not None, specialist != due[i]
    return Verdicts(logit, local, wrong, right)


def _specialists_by_step(
    matcher: Matcher, rows: Rows, mid: Mid | None, hysteresis: float
) -> list[str | None]:
    """Return which specialist would answer the last turn of (k, d) at each step of `LOGITS`; None is the cloud.

    What is required changes the course of a conversation only where it passes the confidence of one of its turns.
    """
    sure = np.array([matcher.match(row).confidence for row in rows])
    known: dict[int, str | None] = {}
    found = []
    for required in _REQUIRED.tolist():
        passing = int((sure >= required).sum())
        if passing not in known:
            read = Conversation(matcher, matcher.leaning, hysteresis, required).read(rows).evidence
            known[passing] = _specialist(read, mid) if read.accepted else None
        found.append(known[passing])
    return found


def _specialist(evidence: Evidence, mid: Mid | None) -> str | None:
    return specialist_of(evidence.target or CLOUD, mid)


def _due(matcher: Matcher, traffic: Sequence[Labelled], mid: Mid | None) -> list[str | None]:
    """Return who should answer each; what is out of scope is the cloud's."""
    targets = {intent.name: specialist_of(intent.target, mid) for intent in matcher.catalog.intents}
    return [None if item.intent is None else targets[item.intent] for item in traffic]


def _logits(found: Sequence[Evidence]) -> NDArray[np.float64]:
    confidences = np.clip([evidence.confidence for evidence in found], 1e-6, 1 - 1e-6)
    return np.asarray(np.log(confidences / (1 - confidences)))
