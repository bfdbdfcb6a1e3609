"""Labelled answers to how sure an answer must be to stand: a logistic curve over signals, and a risk that holds.

The curve is fitted on some of the labels; the others set the threshold, by the same test as for routing
(`promise`: learn then test, Clopper-Pearson), so the promise does not depend on the curve being right. The
source of the scheme: cheapest model first, escalate on low confidence (Chen, Zaharia and Zou, 'FrugalGPT', 2023).
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.promise import NOTHING_LOCAL, Bound, Verdicts, control_risk, sigmoid
from pointsman.decision.signals import unsure_at_all, words_of
from pointsman.values.cascade import AnswerCurve, AnswerModel, Signals

_NUMBERS = ("lowest", "lowest_three", "mean", "total", "repeated", "cut", "refusal", "invalid", "repaired")
_SAID = ("strange", "altered", "borrowed", "twice")
_LEFT_OUT = ("unnamed", "unsaid", "untold")
FEATURES = (*_NUMBERS, *_SAID, *_LEFT_OUT)
_SHARED_FEATURES = (*_NUMBERS, "strange")
"""Of a curve that several share: what has to be said, and how, differs between them."""
_OWN_FROM = 2
"""Other right answers that hold a word which their prompts do not, or leave out one that these hold, from which it
is no sign of error."""
_C = 0.1
"""Inverse strength of the ridge. Chosen on validation answers of the shipped specialists: a curve from 50 of them
tells right from wrong better than with 1, one from 400 as well."""
_TELLS_WHAT_IS_LEFT_OUT = 200
"""Labels from which it is known which words of a question need not be said; from 50, `untold` makes a curve worse."""
_LEAST_OF_EACH = 10
"""Right and wrong answers under which a specialist gets no curve of its own."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A labelled answer. `fitting`: it shapes the curve; else it sets the threshold."""

    signals: Signals
    right: bool
    fitting: bool


def fit(
    answers: Mapping[str, Sequence[Judged]], hashes: Mapping[str, str], risk: float, confidence: float
) -> list[AnswerModel]:
    """Return a model for each specialist, from its labelled answers; `hashes` are its `answers_hash`.

    A specialist with few labels shares the curve of all; its threshold is its own always. Where all labels
    are of one kind, the curve is the mean of that kind: flat.
    """
    fitting = {name: [j for j in group if j.fitting] for name, group in answers.items()}
    bare = {name: _without_own_words(group) for name, group in fitting.items()}
    shared = _curve([judged for group in bare.values() for judged in group], _SHARED_FEATURES)
    models = []
    for name, group in sorted(answers.items()):
        right = sum(judged.right for judged in fitting[name])
        alone = min(right, len(fitting[name]) - right) >= _LEAST_OF_EACH
        tells = len(fitting[name]) >= _TELLS_WHAT_IS_LEFT_OUT
        features = [feature for feature in FEATURES if tells or feature != "untold"]
        curve = _curve(bare[name], features) if alone else shared
        curve = replace(curve, words=_own_words(fitting[name]), passed_over=_passed_over(fitting[name]))
        models.append(_model(name, hashes[name], curve, group, risk, confidence, shared=not alone))
    return models


def confidence_of(curve: AnswerCurve, signals: Signals) -> float | None:
    """Return the probability that an answer is right, in [0, 1]; None without log-probabilities."""
    if not signals.tokens:
        return None
    return float(_confidences(curve, [signals])[0])


def auroc(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    """Return the probability that a right answer has the greater confidence, ties half; None with one kind only."""
    from scipy.stats import rankdata

    n, k = len(right), int(right.sum())
    if k in {0, n}:
        return None
    ranks = rankdata(confidence)
    return float((ranks[right].sum() - k * (k + 1) / 2) / (k * (n - k)))


def confidences(curve: AnswerCurve, signals: Sequence[Signals]) -> NDArray[np.float64]:
    """Return the probabilities (n,) of answers; 0 for those without log-probabilities."""
    found = _confidences(curve, signals)
    found[[not s.tokens for s in signals]] = 0.0
    return found


def _confidences(curve: AnswerCurve, signals: Sequence[Signals]) -> NDArray[np.float64]:
    rows = _rows(signals, curve.features, curve.words, curve.passed_over)
    scaled = (rows - np.array(curve.centre)) / np.array(curve.scale)
    found = sigmoid(scaled @ np.array(curve.weights) + curve.intercept)
    found[[unsure_at_all(s) for s in signals]] = 0.0
    return found


def _curve(judged: Sequence[Judged], features: Sequence[str]) -> AnswerCurve:
    from sklearn.linear_model import LogisticRegression

    rows = _rows([j.signals for j in judged], features, frozenset(), frozenset())
    right = np.array([j.right for j in judged], bool)
    centre = rows.mean(axis=0) if len(rows) else np.zeros(len(features))
    spread = rows.std(axis=0) if len(rows) else np.zeros(len(features))
    scale = np.where(spread > 1e-9, spread, 1.0)
    weights, intercept = np.zeros(len(features)), 0.0
    if right.any() and not right.all():
        model = LogisticRegression(C=_C, max_iter=1000).fit((rows - centre) / scale, right)
        weights, intercept = model.coef_[0], float(model.intercept_[0])
    elif len(right):  # Laplace's rule of succession
        rate = (right.sum() + 1) / (len(right) + 2)
        intercept = float(np.log(rate / (1 - rate)))
    return AnswerCurve(
        tuple(features), tuple(centre.tolist()), tuple(scale.tolist()), tuple(map(float, weights)), intercept
    )


def _own_words(judged: Sequence[Judged]) -> frozenset[str]:
    return _common(_held(judged))


def _passed_over(judged: Sequence[Judged]) -> frozenset[str]:
    return _common(_left_out(judged))


def _common(counts: Counter[str]) -> frozenset[str]:
    return frozenset(word for word, count in counts.items() if count >= _OWN_FROM)


def _without_own_words(judged: Sequence[Judged]) -> list[Judged]:
    """Take away the words that the other right answers hold or leave out: no answer vouches for itself."""
    held, left_out = _held(judged), _left_out(judged)
    own, passed_over = _common(held), _common(left_out)
    found = []
    for j in judged:
        said, missing = _vouching(j) if j.right else (frozenset(), frozenset())
        others_own = own - {word for word in said if held[word] == _OWN_FROM}
        others_passed_over = passed_over - {word for word in missing if left_out[word] == _OWN_FROM}
        telling: dict[str, Any] = {
            name: _telling(name, j.signals, others_own, others_passed_over) for name in (*_SAID, *_LEFT_OUT)
        }
        found.append(replace(j, signals=replace(j.signals, **telling)))
    return found


def _vouching(judged: Judged) -> tuple[frozenset[str], frozenset[str]]:
    """Return the words that an answer, if it is right, makes nothing strange, and nothing that has to be said."""
    signals = judged.signals
    return signals.strange, signals.unnamed | signals.unsaid | signals.untold


def _telling(name: str, signals: Signals, own: frozenset[str], passed_over: frozenset[str]) -> frozenset[str]:
    """Return the words of a signal that are a sign of error: not the specialist's own, and not to be left out."""
    words: frozenset[str] = getattr(signals, name)
    if name in _LEFT_OUT:
        return words - passed_over
    if name == "altered":
        return frozenset(quote for quote in words if not words_of(quote) <= own)
    return words - own


def _held(judged: Sequence[Judged]) -> Counter[str]:
    """Count in how many right answers a word stands that is not of the prompt."""
    return Counter(word for j in judged if j.right for word in _vouching(j)[0])


def _left_out(judged: Sequence[Judged]) -> Counter[str]:
    """Count how many right answers leave a word of the prompt out."""
    return Counter(word for j in judged if j.right for word in _vouching(j)[1])


def _model(
    name: str,
    answers_hash: str,
    curve: AnswerCurve,
    group: Sequence[Judged],
    risk: float,
    confidence: float,
    *,
    shared: bool,
) -> AnswerModel:
    held_out = [judged for judged in group if not judged.fitting]
    right = np.array([judged.right for judged in held_out], bool)
    found = confidences(curve, [judged.signals for judged in held_out])
    logit = np.log(np.clip(found, 1e-6, 1 - 1e-6) / np.clip(1 - found, 1e-6, 1))
    verdicts = Verdicts(logit, np.ones(len(right), bool), ~right, right)
    nothing = Bound(None, 0, 0.0, 0.0, _least_labels(risk, confidence))
    bound = control_risk(verdicts, risk, confidence) if len(right) else nothing
    return AnswerModel(
        specialist=name,
        answers_hash=answers_hash,
        curve=curve,
        shared=shared,
        fitting=len(group) - len(held_out),
        calibration=len(held_out),
        right=sum(judged.right for judged in group),
        required_confidence=NOTHING_LOCAL if bound.logit is None else float(sigmoid(bound.logit)),
        wrong=bound.wrong,
        bound=bound.upper,
        kept=bound.local_share,
        labels_missing=bound.labels_missing,
        auroc=auroc(found, right) if len(right) else None,
    )


def _least_labels(risk: float, confidence: float) -> int:
    """Return how many labels show a risk if none of them is wrong."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - risk))


def _rows(
    signals: Sequence[Signals], features: Sequence[str], own: frozenset[str], passed_over: frozenset[str]
) -> NDArray[np.float64]:
    """Return the features (n, k). Counts of words enter by their logarithm: answers differ in length by orders."""
    rows = np.zeros((len(signals), len(features)))
    for i, name in enumerate(features):
        if name in {*_SAID, *_LEFT_OUT}:
            rows[:, i] = np.log1p([len(_telling(name, s, own, passed_over)) for s in signals])
        else:
            rows[:, i] = [getattr(s, name) for s in signals]
    return rows
