"""Exemplars to what taking out each one, alone, would change. Knows no texts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.cross_fit import folds_of
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex

Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effects:
    """What taking out each of n exemplars, alone, would change among held-out exemplars.

    mended: (n,), of other intents, wrong with it and right without
    broken: (n,), of its own intent, right with it and wrong without
    """

    mended: Labels
    broken: Labels

    @property
    def balance(self) -> Labels:
        """(n,), how many more would be right without it."""
        return self.mended - self.broken


def removal_effects(rows: Rows, labels: Labels) -> Effects:
    """Count the leave-one-out effect of exemplars (n, d) with labels (n,), in five folds.

    Each held-out exemplar is scored by the exemplars of the other folds. Its prediction may hang on one of
    them: the best hit of the predicted class. That one is taken away (the class falls back to its next hit
    and to the mean of the rest; projection and other classes stay), and the prediction made again. The
    second head takes no part.
    """
    mended, broken = (np.zeros(len(labels), np.int64) for _ in range(2))
    folds = folds_of(labels, rows=rows)
    for fold in np.unique(folds).tolist():
        held, kept = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        present = np.unique(labels[kept])
        if len(present) < 2:  # one intent alone always wins
            continue
        fitted = _Fold(rows[kept], np.searchsorted(present, labels[kept]), len(present))
        for number, hit, winner in fitted.without_best_hit(rows[held]):
            truth, taken = labels[held[number]], kept[hit]
            if labels[taken] != truth and present[winner] == truth:
                mended[taken] += 1
            elif labels[taken] == truth and present[winner] != truth:
                broken[taken] += 1
    return Effects(mended, broken)


class _Fold:
    """An index over exemplars (n, d) with compact labels (n,), and what it would say without one of them."""

    def __init__(self, rows: Rows, labels: Labels, classes: int) -> None:
        self._index = ExemplarIndex(rows, labels, classes)
        self._labels = labels
        self._vectors = self._index.transform.apply(rows)
        self._sums = np.zeros((classes, self._vectors.shape[1]), np.float32)
        np.add.at(self._sums, labels, self._vectors)

    def without_best_hit(self, queries: Rows) -> Iterator[tuple[int, int, int]]:
        """Yield query number, best hit of the predicted class, and the class predicted without that hit."""
        found = self._index.score(queries)
        vectors = self._index.transform.apply(queries)
        order = np.argpartition(-found.scores, 1, axis=1)[:, :2]
        for number, hits in enumerate(found.hits):
            scores = found.scores[number]
            first, second = sorted(order[number].tolist(), key=lambda c: -scores[c])
            own = hits[self._labels[hits] == first][:2].tolist()
            if not own:  # the class won by its mean alone
                continue
            left = self._sums[first] - self._vectors[own[0]]
            length = float(np.linalg.norm(left))
            gone = length < 1e-6  # it was the only exemplar of the class
            best = float(self._vectors[own[1]] @ vectors[number]) if len(own) > 1 else -1.0
            score = -1.0 if gone else 0.5 * (best + float(left @ vectors[number]) / length)
            yield number, own[0], second if scores[second] > score else first
