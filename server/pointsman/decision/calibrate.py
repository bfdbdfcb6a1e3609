"""Exemplars alone to the score from which an intent is accepted, and to how sure a choice is.

Everything is fitted on held-out scores (`cross_fit`). Offsets are class means of those scores, shrunk to the
overall mean (James and Stein's idea); the threshold is a low quantile of held-out margins
(split conformal prediction: Vovk, Gammerman and Shafer, 'Algorithmic Learning in a Random World', 2005).
Confidence is Platt's logistic curve ('Probabilistic outputs for support vector machines', 1999) over margin
and gap; exemplars of left-out intents stand for the out-of-scope prompts that no catalog holds.
"""

from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.cross_fit import CrossFitted, cross_fit, cross_fit_strays
from pointsman.embedding.encoder import Rows

_SHRINK_WEIGHT = 20.0
"""Of the overall mean beside the exemplars of a class; where classes have more on average, as many. So no offset goes
more than half its way. Chosen on CLINC150's validation split: with all 15,000 exemplars, the more the better."""
SCORING = 6
"""Number of the rule that thresholds and confidences come from: a promise made under another one is stale."""
LEAST_KEPT_OUT = 20
"""From how many exemplars that a tuned encoder has not seen a 5 % quantile is taken."""
_LEAST_HELD_OUT = 10
"""Under this many held-out scores a 5 % quantile means nothing; the fixed threshold holds instead."""
FIXED_THRESHOLD = 0.5
_LEAST_CLASSES = 3
"""Under this many intents none can be left out."""
SURE = 0.9999
"""The greatest confidence: 1 is what no prompt reaches."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Confidence as a logistic curve: σ(intercept + margin · d + gap · g)."""

    intercept: float
    margin: float
    gap: float

    def raw(self, margin: NDArray[np.float64], gap: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the logits (n,) of margins (n,) and gaps (n,)."""
        return self.intercept + self.margin * margin + self.gap * gap

    def __call__(self, margin: float, gap: float) -> float:
        """Return a probability in [0, 1)."""
        logit = self.intercept + self.margin * margin + self.gap * gap
        return min(SURE, 1.0 / (1.0 + exp(-min(max(logit, -50.0), 50.0))))


FIXED_CURVE = Curve(0.0, 12.0, 10.0)
"""For catalogs too small to fit one: even at the threshold of a tie, near certain 0.3 above it."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """offsets μ (C,), rejection margin τ, and the curve of confidence.

    second_head: whether the second head wins in cross-fitting
    named: whether the names of the intents win there
    """

    offsets: NDArray[np.float64]
    margin: float
    curve: Curve
    second_head: bool
    named: bool = False

    def threshold(self, label: int) -> float:
        """Return the score from which a class is accepted: μ_c + τ."""
        return float(self.offsets[label] + self.margin)

    def confidence(self, label: int, score: float, gap: float) -> float:
        """Return the probability that the class is the right one, in [0, 1)."""
        return self.curve(score - float(self.offsets[label]), gap)


def calibrate(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    rejection: float,
    out_of_scope: float = 0.1,
    *,
    names: Rows | None = None,
    seen: NDArray[np.bool_] | None = None,
) -> Calibration:
    """Calibrate on exemplars (n, d) with labels (n,): about `rejection` of in-scope prompts are refused.

    Names (C, d) of the classes may be exemplars too; see `cross_fit`. `seen` (n,) says which exemplars the encoder
    was tuned on: it drew them together, so that even an index without them scores them like no new prompt (a
    threshold from them rejected 10 % of CLINC150's validation prompts instead of 5). Where fewer than 20 are left,
    all count, which rejects too much: on the safe side.

    t_i is the held-out score of exemplar i for its own class; μ_c = (Σ t_i + w t̄) / (n_c + w), w = max(20, n̄);
    d_i = S_p − μ_p for the chosen class p; τ is the `rejection` quantile of d, at rank (n + 1) · `rejection` of
    n, and 1 at least: below it lies that share of new prompts, on average. `out_of_scope` is the share of prompts
    that confidence expects to be out of scope.
    """
    held = cross_fit(rows, labels, classes, names, seen)
    if seen is not None and seen.any() and held.known.sum() < LEAST_KEPT_OUT:
        return calibrate(rows, labels, classes, rejection, out_of_scope, names=names)
    if held.known.sum() < _LEAST_HELD_OUT:
        return Calibration(np.zeros(classes), FIXED_THRESHOLD, FIXED_CURVE, held.second_head, held.named)
    strays = None
    if classes >= _LEAST_CLASSES and out_of_scope > 0:
        strays = cross_fit_strays(rows, labels, classes, held, names, seen)
    return calibrate_held_out(held, labels, rejection, strays, out_of_scope)


def calibrate_held_out(
    held: CrossFitted,
    labels: NDArray[np.int64],
    rejection: float,
    strays: CrossFitted | None,
    out_of_scope: float,
) -> Calibration:
    """Calibrate on scores of exemplars by indexes without them; see `calibrate`."""
    known = held.known
    classes = held.scores.shape[1]
    own = held.scores[np.arange(len(labels)), labels].astype(np.float64)[known]
    mean = own.mean()
    counts = np.bincount(labels[known], minlength=classes)
    sums = np.bincount(labels[known], weights=own, minlength=classes)
    weight = max(_SHRINK_WEIGHT, counts.mean())
    offsets = (sums + weight * mean) / (counts + weight)
    margins = _margins(held, offsets)[known]
    curve = _fit_curve(
        np.stack([margins, held.gap[known]], axis=1),
        (held.predicted == labels)[known],
        np.zeros((0, 2)) if strays is None else np.stack([_margins(strays, offsets), strays.gap], axis=1),
        out_of_scope,
    )
    margin = float(np.quantile(margins, rejection, method="weibull"))  # rank (n + 1) · rejection
    return Calibration(offsets, margin, curve, held.second_head, held.named)


def _margins(held: CrossFitted, offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(held.best - offsets[held.predicted], np.float64)


def _fit_curve(
    inside: NDArray[np.float64], right: NDArray[np.bool_], outside: NDArray[np.float64], share: float
) -> Curve:
    """Fit the curve on (n, 2) margins and gaps of exemplars, right or wrong, and (k, 2) of strays, all wrong."""
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate([inside, outside])
    truth = np.concatenate([right, np.zeros(len(outside), np.bool_)])
    if truth.all() or not truth.any():
        return FIXED_CURVE
    weights = np.ones(len(features))
    if len(outside):
        weights[: len(inside)] = 1 - share
        weights[len(inside) :] = share * len(inside) / len(outside)
    centre, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
    model = LogisticRegression().fit((features - centre) / spread, truth, weights)
    # A prompt that is nearer, or farther ahead, is never the less sure one.
    slopes = np.maximum(model.coef_[0], 0.0) / spread
    return Curve(float(model.intercept_[0] - slopes @ centre), float(slopes[0]), float(slopes[1]))
