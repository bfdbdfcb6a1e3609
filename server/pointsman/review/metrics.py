"""Judged prompts, as arrays, to figures. Knows no texts and no files.

A figure that does not exist for the given prompts is None, never a number that looks like one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.promise import expected_calibration_error

NONE = -1
"""The label of no intent, and the target that is no specialist: the cloud, or the middle tier."""

_BINS = 10
_COVERAGES = np.linspace(0.05, 1.0, 20)
_Z = 1.959964
"""Normal quantile of two-sided 95 %."""

Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of` prompts; `of` is at least one."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Least and greatest share that go with it at 95 %.

        Source: Wilson, 'Probable inference, the law of succession, and statistical inference', 1927.
        """
        n, p = self.of, self.value
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)


def share(flags: Flags) -> Share | None:
    """Return the share of true flags (n,); None without any prompt."""
    return Share(int(flags.sum()), len(flags)) if len(flags) else None


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What was asked of n prompts, and what became of them, each (n,); n is at least one.

    expected: label of the intent that is asked for; NONE is out of scope
    best: label of the best intent, accepted or not
    accepted: whether that intent was near and sure enough
    hard: whether the difficulty model sends it up a tier, accepted or not
    margin: score less threshold
    confidence: stated probability that the best intent is right, in [0, 1]
    expected_target, best_target: the specialist of each, as a number, or NONE
    """

    expected: Labels
    best: Labels
    accepted: Flags
    hard: Flags
    margin: NDArray[np.float64]
    confidence: NDArray[np.float64]
    expected_target: Labels
    best_target: Labels

    @property
    def in_scope(self) -> Flags:
        """Whether a prompt asks for an intent of the catalog."""
        return np.asarray(self.expected != NONE)

    @property
    def right(self) -> Flags:
        """Whether the best intent is the one that is asked for; never true out of scope."""
        return np.asarray(self.best == self.expected)

    @property
    def chosen(self) -> Labels:
        """The intent that was decided for; NONE where the best one was refused."""
        return np.where(self.accepted, self.best, NONE)

    @property
    def local(self) -> Flags:
        """Whether a specialist answers."""
        return np.asarray(self.accepted & (self.best_target != NONE) & ~self.hard)

    @property
    def wrong_specialist(self) -> Flags:
        """Whether a specialist answers that is not the one of the intent asked for."""
        return np.asarray(self.local & (self.best_target != self.expected_target))


@dataclass(frozen=True, slots=True)
class Quality:
    """How well intents are told apart, and from everything else.

    accuracy: of in-scope prompts, those whose best intent is right, accepted or not
    joint_accuracy: of all, those whose right intent is accepted, or that are refused out of scope
    in_scope_refused: of in-scope prompts, those whose best intent is not accepted
    oos_recall: of out-of-scope prompts, those whose best intent is not accepted
    oos_auroc, oos_auroc_confidence: how often an in-scope prompt has more margin, or more confidence,
        than an out-of-scope one
    """

    accuracy: Share | None
    joint_accuracy: Share
    in_scope_refused: Share | None
    oos_recall: Share | None
    oos_auroc: float | None
    oos_auroc_confidence: float | None


def quality(outcomes: Outcomes) -> Quality:
    """Measure intents over all prompts."""
    inside = outcomes.in_scope
    refused = ~outcomes.accepted
    return Quality(
        accuracy=share(outcomes.right[inside]),
        joint_accuracy=Share(int((outcomes.chosen == outcomes.expected).sum()), len(inside)),
        in_scope_refused=share(refused[inside]),
        oos_recall=share(refused[~inside]),
        oos_auroc=_auroc(inside, outcomes.margin),
        oos_auroc_confidence=_auroc(inside, outcomes.confidence),
    )


def _auroc(positive: Flags, values: NDArray[np.float64]) -> float | None:
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, values))


@dataclass(frozen=True, slots=True)
class Routing:
    """Where prompts go. A specialist is right when it is the one that the intent asked for names.

    local: of all, those that a specialist answers
    wrong_specialist: of all, those that a wrong specialist answers
    right_when_local: of those that a specialist answers, those with the right one
    not_local: of those whose intent names a specialist, those that none answers: refused, or too hard
    oos_not_local: of out-of-scope prompts, those that no specialist answers, whether an intent took them or not
    """

    local: Share
    wrong_specialist: Share
    right_when_local: Share | None
    not_local: Share | None
    oos_not_local: Share | None


def routing(outcomes: Outcomes) -> Routing:
    """Measure specialists over all prompts."""
    local, wrong = outcomes.local, outcomes.wrong_specialist
    return Routing(
        local=Share(int(local.sum()), len(local)),
        wrong_specialist=Share(int(wrong.sum()), len(wrong)),
        right_when_local=share(~wrong[local]),
        not_local=share(~local[outcomes.expected_target != NONE]),
        oos_not_local=share(~local[~outcomes.in_scope]),
    )


@dataclass(frozen=True, slots=True)
class IntentFigures:
    """One intent as decided, in [0, 1]; None where there is nothing to take a share of.

    precision: of prompts decided for it, those that ask for it; out-of-scope prompts count
    recall: of prompts that ask for it, those decided for it; a refusal counts as a miss
    support: prompts that ask for it
    """

    name: str | None
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def per_intent(outcomes: Outcomes, names: Sequence[str]) -> tuple[IntentFigures, ...]:
    """Return figures of every intent by label, and last those of 'no intent' under the name None."""
    from sklearn.metrics import precision_recall_fscore_support

    labels = [*range(len(names)), NONE]
    found = precision_recall_fscore_support(
        outcomes.expected, outcomes.chosen, labels=labels, zero_division=nan
    )
    precision, recall, f1, support = (column.tolist() for column in found)
    return tuple(
        IntentFigures(name, _number(p), _number(r), _number(f), int(n))
        for name, p, r, f, n in zip([*names, None], precision, recall, f1, support, strict=True)
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


@dataclass(frozen=True, slots=True)
class RiskPoint:
    """What a cut on confidence alone would do: from `confidence` on, the best intent is accepted.

    coverage: of all prompts, those accepted
    risk: of those accepted, those whose intent is wrong
    wrong_specialist: of all, those that a wrong specialist answers
    """

    confidence: float
    coverage: float
    risk: float
    wrong_specialist: float


def risk_coverage(outcomes: Outcomes) -> tuple[RiskPoint, ...]:
    """Return the curve at every 5 % of coverage, as near as equal confidences allow; least first.

    Source: El-Yaniv and Wiener, 'On the foundations of noise-free selective classification', 2010.
    """
    order = np.argsort(-outcomes.confidence, kind="stable")
    values = outcomes.confidence[order]
    ends = np.flatnonzero(np.append(values[:-1] != values[1:], True)) + 1  # prompts accepted by each cut
    coverage = ends / len(values)
    mistakes = np.cumsum(~outcomes.right[order])[ends - 1]
    elsewhere = (outcomes.best_target != NONE) & (outcomes.best_target != outcomes.expected_target)
    wrong = np.cumsum(elsewhere[order])[ends - 1]
    picked = np.unique(np.abs(coverage[None, :] - _COVERAGES[:, None]).argmin(axis=1))
    return tuple(
        RiskPoint(
            confidence=float(values[ends[i] - 1]),
            coverage=float(coverage[i]),
            risk=float(mistakes[i] / ends[i]),
            wrong_specialist=float(wrong[i] / len(values)),
        )
        for i in picked
    )


@dataclass(frozen=True, slots=True)
class Bin:
    """Prompts of like confidence: how sure the mean was, and how many were right."""

    low: float
    high: float
    count: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether 'confidence 0.9' is right nine times of ten; out-of-scope prompts count as wrong.

    ece: mean distance of confidence and truth over 15 bins of equal count
    brier: mean squared distance of confidence and truth
    bins: of equal width, for the eye; empty ones are left out
    """

    ece: float
    brier: float
    bins: tuple[Bin, ...]


def reliability(outcomes: Outcomes) -> Reliability:
    """Measure confidence.

    Source: Brier, 'Verification of forecasts expressed in terms of probability', 1950.
    """
    from sklearn.metrics import brier_score_loss

    right, confidence = outcomes.right, outcomes.confidence
    owners = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    bins = tuple(
        Bin(
            low=i / _BINS,
            high=(i + 1) / _BINS,
            count=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            right=float(right[inside].mean()),
        )
        for i in range(_BINS)
        if (inside := owners == i).any()
    )
    ece = expected_calibration_error(confidence, right)
    return Reliability(ece, float(brier_score_loss(right, confidence, pos_label=True)), bins)
