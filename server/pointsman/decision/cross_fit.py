"""Exemplars scored by an index that was fitted without them: what every later promise is built on.

Never in-sample: an exemplar is its own nearest neighbour, so its own score says nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex, Scores

FOLDS = 5
_COPY = 0.9
"""Cosine from which an exemplar is a near copy of another one. Copies vouch for each other as no new prompt's do:
with each in a fold of its own, the threshold from CLINC150's 15,000 exemplars rejected 7.5 % of its validation prompts
where 5 % were meant, so 6.6 %. Of BANKING77 and of ten exemplars a class it rejects 4 to 5 % either way."""
_BLOCK = 1024
ABSENT = -1.0
"""The score of a class none of whose exemplars was left in the fold."""


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """Held-out class scores of n exemplars against C classes.

    scores: (n, C); −1 where the class was absent from the fold
    predicted: (n,), the class that was chosen for each exemplar
    gap: (n,), by how much it was ahead of the next one
    known: (n,), whether the exemplar's own class was present; false for the only exemplar of a class
    second_head: whether the second head took part in choosing
    """

    scores: Rows
    predicted: NDArray[np.int64]
    gap: Rows
    known: NDArray[np.bool_]
    second_head: bool

    @property
    def best(self) -> Rows:
        """(n,), the score of the chosen class."""
        return self.scores[np.arange(len(self.predicted)), self.predicted]

    def right(self, labels: NDArray[np.int64]) -> int:
        """Return how many exemplars with labels (n,) were given their own class."""
        return int((self.predicted == labels)[self.known].sum())


def folds_of(labels: NDArray[np.int64], seed: int = 0, rows: Rows | None = None) -> NDArray[np.int64]:
    """Return a fold (n,) in [0, 5) for each label (n,): every class spread as evenly as it can be.

    Of unit rows (n, d), near copies within a class are in one fold, unless they are more than two and more than a
    fifth of it; so the folds are no longer quite as even.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % FOLDS
    if rows is None or not len(labels):
        return folds
    _, first, group, sizes = np.unique(
        _near_copies(rows, labels), return_index=True, return_inverse=True, return_counts=True
    )
    room = np.maximum(2, np.bincount(labels)[labels] // FOLDS)
    return np.where(sizes[group] <= room, folds[first[group]], folds)


def _near_copies(rows: Rows, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a group (n,) for each of unit rows (n, d): near copies within a class, and copies of those, share one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    order = np.argsort(labels, kind="stable")
    ones, others = [], []
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        for start in range(0, len(members), _BLOCK):
            some = members[start : start + _BLOCK]
            i, j = np.nonzero(rows[some] @ rows[members].T >= _COPY)
            ones.append(some[i])
            others.append(members[j])
    pairs = np.concatenate(ones), np.concatenate(others)
    linked = coo_array((np.ones(len(pairs[0]), np.bool_), pairs), shape=(len(labels), len(labels)))
    return np.asarray(connected_components(linked, directed=False)[1], np.int64)


def cross_fit(rows: Rows, labels: NDArray[np.int64], classes: int) -> CrossFitted:
    """Score exemplars (n, d) with labels (n,), with the head that is right more often; with one at a tie."""
    folds = folds_of(labels, rows=rows)
    one, two = (_Gathered(len(rows), classes) for _ in range(2))
    for fold in range(FOLDS):
        held, present, found = _score_fold(rows, labels, folds == fold, second_head=classes > 1)
        one.add(held, labels, present, found.scores, found.scores)
        two.add(held, labels, present, found.scores, found.choice)
    single, double = one.done(second_head=False), two.done(second_head=True)
    return double if double.right(labels) > single.right(labels) else single


def cross_fit_strays(
    rows: Rows, labels: NDArray[np.int64], classes: int, *, second_head: bool, enough: int = 1000
) -> CrossFitted:
    """Score exemplars of left-out classes: they stand for the out-of-scope prompts that no catalog holds.

    Whole folds of classes are left out, one after the other, until there are `enough` exemplars.
    """
    folds = np.asarray(np.random.default_rng(0).permutation(classes) % FOLDS)[labels]
    gathered = _Gathered(len(rows), classes)
    scored = np.zeros(len(rows), np.bool_)
    for fold in range(FOLDS):
        if scored.sum() >= enough:
            break
        held, present, found = _score_fold(rows, labels, folds == fold, second_head=second_head)
        gathered.add(held, labels, present, found.scores, found.choice)
        scored[held] = True
    return gathered.done(second_head=second_head, only=scored)


class _Gathered:
    """Folds, put together."""

    def __init__(self, n: int, classes: int) -> None:
        self._scores = np.full((n, classes), ABSENT, np.float32)
        self._predicted = np.zeros(n, np.int64)
        self._gap = np.zeros(n, np.float32)
        self._known = np.zeros(n, np.bool_)

    def add(
        self,
        held: NDArray[np.int64],
        labels: NDArray[np.int64],
        present: NDArray[np.int64],
        scores: Rows,
        choice: Rows,
    ) -> None:
        if not len(present):
            return
        self._scores[held[:, None], present] = scores
        self._predicted[held] = present[choice.argmax(axis=1)]
        self._gap[held] = gap_of(choice)
        self._known[held] = np.isin(labels[held], present)

    def done(self, *, second_head: bool, only: NDArray[np.bool_] | None = None) -> CrossFitted:
        rows = slice(None) if only is None else only
        return CrossFitted(
            self._scores[rows], self._predicted[rows], self._gap[rows], self._known[rows], second_head
        )


def _score_fold(
    rows: Rows, labels: NDArray[np.int64], out: NDArray[np.bool_], *, second_head: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], Scores]:
    """Return the held-out row numbers, the classes (p,) of the rest, and scores against those."""
    held, kept = np.flatnonzero(out), np.flatnonzero(~out)
    present = np.unique(labels[kept])  # a class of one exemplar is absent from its own fold
    if not len(held) or not len(kept):
        nothing = np.zeros((len(held), 0), np.float32)
        return held, present[:0], Scores(nothing, nothing, np.zeros((len(held), 0), np.int64))
    compact = np.searchsorted(present, labels[kept])
    index = ExemplarIndex(rows[kept], compact, len(present), second_head=second_head)
    return held, present, index.score(rows[held])


def gap_of(choice: Rows) -> Rows:
    """Return by how much the best of (m, C) is ahead of the next one, (m,); 1 with a single class."""
    if choice.shape[1] < 2:
        return np.ones(len(choice), np.float32)
    best = np.partition(choice, -2, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - np.maximum(best[:, 0], -1.0), np.float32)
