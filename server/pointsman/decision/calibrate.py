"""Exemplars alone to the score from which an intent is accepted, by cross-fitting.

Never in-sample: an exemplar is its own nearest neighbour, so its own score says nothing. Every exemplar
is scored by an index that was fitted without it; offsets are class means of those scores, shrunk to the
overall mean (James and Stein's idea, weight 20); the threshold is a low quantile of held-out margins
(split conformal prediction: Vovk, Gammerman and Shafer, 'Algorithmic Learning in a Random World', 2005).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex

FOLDS = 5
_SHRINK_WEIGHT = 20.0
_LEAST_HELD_OUT = 10
"""Under this many held-out scores a 5 % quantile means nothing; the fixed threshold holds instead."""
FIXED_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """offsets μ (C,), rejection margin τ, and the held-out margins in ascending order."""

    offsets: NDArray[np.float64]
    margin: float
    held_out: NDArray[np.float64]

    def threshold(self, label: int) -> float:
        """Return the score from which a class is accepted: μ_c + τ."""
        return float(self.offsets[label] + self.margin)

    def confidence(self, label: int, score: float) -> float:
        """Return the share of held-out exemplars whose margin was at most this one's, in [0, 1]."""
        if not len(self.held_out):
            return 0.0
        rank = np.searchsorted(self.held_out, score - self.offsets[label], side="right")
        return float(rank / len(self.held_out))


def folds_of(labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.int64]:
    """Return a fold (n,) in [0, 5) for each row: every class spread as evenly as it can be."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    return folds


def calibrate(rows: Rows, labels: NDArray[np.int64], classes: int, rejection: float) -> Calibration:
    """Calibrate on exemplars (n, d) with labels (n,): about `rejection` of in-scope prompts are refused.

    t_i is the held-out score of exemplar i for its own class; μ_c = (Σ t_i + 20 t̄) / (n_c + 20);
    d_i = S_p − μ_p for the predicted class p; τ is the `rejection` quantile of d.
    """
    own = np.full(len(rows), np.nan)
    best_score = np.full(len(rows), np.nan)
    best_class = np.zeros(len(rows), np.int64)
    folds = folds_of(labels)
    for fold in range(FOLDS):
        held = np.flatnonzero(folds == fold)
        kept = np.flatnonzero(folds != fold)
        if not len(held) or not len(kept):
            continue
        present = np.unique(labels[kept])  # a class of one exemplar is absent from its own fold
        compact = np.searchsorted(present, labels[kept])
        scores = ExemplarIndex(rows[kept], compact, len(present)).score(rows[held]).scores
        best_class[held] = present[scores.argmax(axis=1)]
        best_score[held] = scores.max(axis=1)
        column = np.searchsorted(present, labels[held])
        known = np.isin(labels[held], present)
        own[held[known]] = scores[known, column[known]]
    usable = ~np.isnan(own)
    if usable.sum() < _LEAST_HELD_OUT:
        return Calibration(np.zeros(classes), FIXED_THRESHOLD, np.zeros(0))
    mean = own[usable].mean()
    counts = np.bincount(labels[usable], minlength=classes)
    sums = np.bincount(labels[usable], weights=own[usable], minlength=classes)
    offsets = (sums + _SHRINK_WEIGHT * mean) / (counts + _SHRINK_WEIGHT)
    held_out = np.sort((best_score - offsets[best_class])[usable])
    return Calibration(offsets, float(np.quantile(held_out, rejection)), held_out)
