"""Labelled traffic to the confidence from which a route may be taken: a risk that holds, not one that is hoped for.

Source: Angelopoulos, Bates, Candès, Jordan and Lei, 'Learn then test: calibrating predictive algorithms to
achieve risk control' (2021), with fixed-sequence testing. Each hypothesis 'more than `risk` of all prompts go
to a wrong specialist' is tested by the exact binomial bound (Clopper and Pearson, 'The use of confidence or
fiducial limits illustrated in the case of the binomial', 1934). Prompts must be drawn as traffic is drawn and
must not be exemplars.

'All' may be a stated number of prompts to come. Labels and those are then one exchangeable sample, cut at random:
c wrong of n labels speak against more than R wrong of the next m as strongly as a hypergeometric draw of n from
n + m, of which c + R + 1 are wrong, falls on c or fewer (Thatcher, 'Relationships between Bayesian and confidence
limits for predictions', 1964). The sequence costs nothing here either: with c the most that is allowed, a promise is
broken only where R + 1 of the prompts to come go wrong before the (c + 1)th label does, which is that one event. What
went wrong at an earlier step counts as wrong from then on, as a later turn of a conversation may come right again.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from numpy.typing import NDArray

LOGITS = np.linspace(9.0, -6.0, 301)
"""The fixed sequence: required confidence from 0.9999 down to 0.002, in logits."""
_MOST_LABELS = 1_000_000
_ROUNDING = 1e-9
"""Of a share times a count: 0.29 · 100 is 29."""
NOTHING_LOCAL = 1.0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """How n labelled prompts would be routed if confidence did not matter.

    logit: (n,), of the confidence that exemplars alone give
    local: (n,), whether the prompt is near enough to a local intent
    wrong: (n,), whether that intent's specialist is the wrong one
    right: (n,), whether the intent itself is the right one

    Where a prompt goes may depend on more confidences than its own, as in a conversation. Then `local` and `wrong`
    are (L, n): where it goes at each of the L steps of `LOGITS`, confidence considered.
    """

    logit: NDArray[np.float64]
    local: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    right: NDArray[np.bool_]

    def taken(self, step: int) -> NDArray[np.bool_]:
        """Return which are answered locally at that step of `LOGITS`, (n,)."""
        if self.local.ndim > 1:
            return np.asarray(self.local[step])
        return np.asarray(self.local & (self.logit >= LOGITS[step]))

    def rows(self, chosen: slice | NDArray[np.int64]) -> "Verdicts":
        """Return those of the prompts that are chosen."""
        local, wrong = self.local[..., chosen], self.wrong[..., chosen]
        return Verdicts(self.logit[chosen], local, wrong, self.right[chosen])

    def wrong_at(self, step: int) -> NDArray[np.bool_]:
        """Return for which the specialist is then the wrong one, if one answers, (n,)."""
        return np.asarray(self.wrong[step] if self.wrong.ndim > 1 else self.wrong)


@dataclass(frozen=True, slots=True)
class Bound:
    """What testing found. `logit` is None when not even the first step could be taken.

    wrong: labels that went wrong at that logit or at a higher one
    """

    logit: float | None
    wrong: int
    upper: float
    local_share: float
    labels_missing: int | None


def control_risk(verdicts: Verdicts, risk: float, confidence: float, prompts: int | None = None) -> Bound:
    """Return the lowest logit at which the risk still holds with this confidence.

    Among the next `prompts`, which must be 1 / risk or more; None: among all there will ever be.
    """
    n = len(verdicts.logit)
    allowed = _most_wrong(n, risk, confidence, prompts)
    passed = list(takewhile(lambda wrong: wrong <= allowed, _wrong_by_step(verdicts)))
    last = len(passed) - 1
    if not passed or not verdicts.taken(last).any():
        return Bound(None, 0, 0.0, 0.0, _labels_missing(verdicts, risk, confidence, prompts))
    upper = upper_bound(passed[last], n, confidence, prompts)
    return Bound(float(LOGITS[last]), passed[last], upper, float(verdicts.taken(last).mean()), 0)


def _wrong_by_step(verdicts: Verdicts) -> Iterator[int]:
    """Yield how many went wrong at each step of `LOGITS` or at one before it."""
    gone = np.zeros(len(verdicts.logit), np.bool_)
    for step in range(len(LOGITS)):
        gone |= verdicts.taken(step) & verdicts.wrong_at(step)
        yield int(gone.sum())


def upper_bound(wrong: int, n: int, confidence: float, prompts: int | None = None) -> float:
    """Return the one-sided upper bound of a share of which `wrong` of n were seen.

    Clopper and Pearson's of the share itself, or of that among the next `prompts`.
    """
    from scipy.stats import beta

    if wrong >= n:
        return 1.0
    if prompts is None:
        return float(beta.ppf(confidence, wrong + 1, n - wrong))
    doubtful = 1 - confidence
    return (
        bisect_left(range(prompts), True, key=lambda most: _doubt(wrong, n, most, prompts) <= doubtful)
        / prompts
    )


def fit_line(logit: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept of Platt's curve over logits (n,); the identity when n or slope forbid one."""
    from sklearn.linear_model import LogisticRegression

    if right.all() or not right.any():
        return 1.0, 0.0
    model = LogisticRegression(C=1e3).fit(logit[:, None], right)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    return (slope, intercept) if slope > 0 else (1.0, 0.0)


def sigmoid(logit: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return probabilities of the shape of the logits."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -50.0, 50.0))))


def expected_calibration_error(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> float:
    """Return the mean distance of confidence (n,) from truth over bins of equal count (adaptive ECE).

    Source: Nixon et al., 'Measuring calibration in deep learning' (2019).
    """
    order = np.argsort(confidence, kind="stable")
    gaps = [abs(float((confidence[part] - right[part]).sum())) for part in np.array_split(order, bins)]
    return sum(gaps) / len(confidence)


def _most_wrong(n: int, risk: float, confidence: float, prompts: int | None) -> int:
    """Return how many wrong ones of n labels still show that the risk holds; −1 where not even none does."""
    return (
        bisect_left(range(n), True, key=lambda wrong: not _is_shown(wrong, n, risk, confidence, prompts)) - 1
    )


def _is_shown(wrong: int, n: int, risk: float, confidence: float, prompts: int | None) -> bool:
    """Return whether `wrong` of n labels show that the risk holds."""
    if prompts is None:
        return upper_bound(wrong, n, confidence) <= risk
    return wrong < n and _doubt(wrong, n, int(risk * prompts + _ROUNDING), prompts) <= 1 - confidence


def _doubt(wrong: int, n: int, most: int, prompts: int) -> float:
    """Return how likely `wrong` or fewer of n labels are at most, if more than `most` of the next `prompts` are."""
    from scipy.stats import hypergeom

    return float(hypergeom.cdf(wrong, n + prompts, wrong + most + 1, n))


def _labels_missing(verdicts: Verdicts, risk: float, confidence: float, prompts: int | None) -> int | None:
    """Return the fewest labels more that would support some local share if errors stay as frequent as seen."""
    n = len(verdicts.logit)
    for step, wrong in enumerate(_wrong_by_step(verdicts)):
        if verdicts.taken(step).any():  # further on, more go wrong
            needed = _needed(wrong / n, risk, confidence, prompts)
            return None if needed is None else max(1, needed - n)
    return None


def _needed(rate: float, risk: float, confidence: float, prompts: int | None) -> int | None:
    """Return the least n at which `rate` of n wrong keeps the bound under the risk."""

    def suffices(n: int) -> bool:
        return _is_shown(int(np.ceil(rate * n)), n, risk, confidence, prompts)

    return 1 + bisect_left(range(1, _MOST_LABELS), True, key=suffices) if suffices(_MOST_LABELS) else None
