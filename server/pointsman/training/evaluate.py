"""Zero-shot, few-shot and adapter, as the engine answers: how often right, how nearly, how surely, how fast."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.generation.backend import Question
from pointsman.training.engine import Answer, Engine
from pointsman.training.examples import Example
from pointsman.values.request import Message, Role

_LOWEST = 3


@dataclass(frozen=True, slots=True)
class Confidence:
    """AUROC for 'the answer is exactly right' of three readings of its token log-probabilities."""

    mean: float
    least: float
    three_least: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What one way of answering reached.

    exact: share of answers that equal the expected one, but for white space around them
    field_f1: of JSON keys with their values, `KEY: value` lines, or words, whichever the expected answers are
    json_valid: share of answers that are JSON; None where JSON is not expected
    confidence: None where all answers are right, or none
    tokens_per_s: said by the engine, four answers at once, prompts included in the time
    """

    answers: int
    exact: float
    field_f1: float
    json_valid: float | None
    confidence: Confidence | None
    tokens_per_s: float


def questions(
    examples: Sequence[Example],
    system: str,
    shots: Sequence[Example],
    max_tokens: int,
    adapters: tuple[float, ...],
) -> list[Question]:
    """Return what the engine is asked: greedy answers, with log-probabilities."""
    before = [Message(Role.SYSTEM, system)] if system else []
    for shot in shots:
        before += [Message(Role.USER, shot.user), Message(Role.ASSISTANT, shot.answer)]
    return [
        Question(
            messages=(*before, Message(Role.USER, example.user)),
            max_tokens=max_tokens,
            temperature=0.0,
            top_p=1.0,
            logprobs=True,
            adapters=adapters,
        )
        for example in examples
    ]


def evaluate(
    engine: Engine, asked: Sequence[Question], examples: Sequence[Example], said: Callable[[int], None]
) -> Figures:
    """Ask the engine everything, and measure its answers against those of the examples."""
    answers, seconds = engine.answers(asked, said)
    return measure(answers, [example.answer for example in examples], seconds)


def measure(answers: Sequence[Answer], expected: Sequence[str], seconds: float) -> Figures:
    """Measure answers that took `seconds` in all."""
    right = np.array([a.text.strip() == e.strip() for a, e in zip(answers, expected, strict=True)])
    read = fields_of(expected)
    found = wanted = shared = 0
    for answer, text in zip(answers, expected, strict=True):
        mine, theirs = read(answer.text), read(text)
        found, wanted = found + mine.total(), wanted + theirs.total()
        shared += (mine & theirs).total()
    return Figures(
        answers=len(answers),
        exact=float(right.mean()),
        field_f1=2 * shared / max(1, found + wanted),
        json_valid=_share_of_json(answers) if read is _json_fields else None,
        confidence=_confidence(answers, right),
        tokens_per_s=sum(answer.tokens for answer in answers) / seconds,
    )


def fields_of(expected: Sequence[str]) -> Callable[[str], "Counter[str]"]:
    """Return how to take answers apart: as JSON objects, `KEY: value` lines, or words."""
    if all(isinstance(_parsed(text), dict) for text in expected):
        return _json_fields
    if all(": " in line for text in expected for line in text.strip().splitlines()):
        return _line_fields
    return _words


def _json_fields(text: str) -> "Counter[str]":
    parsed = _parsed(text)
    if not isinstance(parsed, dict):
        return Counter()
    return Counter(json.dumps([key, value], sort_keys=True) for key, value in parsed.items())


def _line_fields(text: str) -> "Counter[str]":
    return Counter(line.strip() for line in text.strip().splitlines() if line.strip())


def _words(text: str) -> "Counter[str]":
    return Counter(text.split())


def _parsed(text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed


def _share_of_json(answers: Sequence[Answer]) -> float:
    return sum(isinstance(_parsed(answer.text), dict) for answer in answers) / len(answers)


def _confidence(answers: Sequence[Answer], right: "np.typing.NDArray[np.bool_]") -> Confidence | None:
    from sklearn.metrics import roc_auc_score

    if right.all() or not right.any():
        return None
    logprobs = [np.nan_to_num(np.array(a.logprobs or (-np.inf,)), neginf=-1e3) for a in answers]
    return Confidence(
        mean=float(roc_auc_score(right, [values.mean() for values in logprobs])),
        least=float(roc_auc_score(right, [values.min() for values in logprobs])),
        three_least=float(roc_auc_score(right, [np.sort(values)[:_LOWEST].mean() for values in logprobs])),
    )
