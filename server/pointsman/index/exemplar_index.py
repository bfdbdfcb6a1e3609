"""The FAISS index of exemplars, and the class score over it."""

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.index.head import Head, fit_head
from pointsman.index.search import search
from pointsman.index.transform import Transform, fit_transform

HITS = 50
"""Nearest exemplars that take part in a score."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of m queries against C classes.

    scores: (m, C), by which a class is accepted or refused
    choice: (m, C), by which the class is chosen: names and the second head add to the scores, where they take part
    """

    scores: Rows
    choice: Rows
    hits: NDArray[np.int64]  # (m, h), row numbers of exemplars, best first


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fitting finds. `head` is None where the scores alone choose; `vectors` are the indexed (n, k + d)."""

    transform: Transform
    head: Head | None
    vectors: Rows


class _Rivals:
    """Classes with negatives: the exemplars of each against its negatives."""

    def __init__(
        self, vectors: Rows, labels: NDArray[np.int64], negatives: Rows, negative_labels: NDArray[np.int64]
    ) -> None:
        """Set negatives (k, d') with labels (k,) against exemplars (n, d') with labels (n,)."""
        self.labels = np.unique(negative_labels)  # (R,)
        sides = (vectors, labels), (negatives, negative_labels)
        groups = [rows[owners == label] for label in self.labels for rows, owners in sides]
        self._rows = np.concatenate(groups)
        self._begins = np.cumsum([0, *map(len, groups[:-1])])

    def outdone(self, queries: Rows) -> NDArray[np.bool_]:
        """Return by which of the classes a negative is nearer to a query (m, d') than every exemplar, (m, R)."""
        nearest = np.maximum.reduceat(queries @ self._rows.T, self._begins, axis=1)  # (m, 2 R)
        return np.asarray(nearest[:, 1::2] > nearest[:, ::2])


class ExemplarIndex:
    """Exemplars (n, d) with labels (n,), searchable; immutable once built, so threads may share it."""

    def __init__(
        self,
        rows: Rows,
        labels: NDArray[np.int64],
        classes: int,
        negatives: Rows | None = None,
        negative_labels: NDArray[np.int64] | None = None,
        *,
        names: Rows | None = None,
        second_head: bool = False,
        share: float | None = None,
        fitted: Fitted | None = None,
    ) -> None:
        """Fit, unless `fitted` is given, and build the index; each class needs a row. `share`: see `fit_transform`.

        Negatives: (k, d) and (k,). Names of the classes, (C, d), are one more exemplar each in all that is fitted, in
        the means and in what chooses; they are no hits, and no reason to accept.
        """
        self.names = names
        self.rows = rows
        self.labels = labels
        self.classes = classes
        self.negatives = np.zeros((0, rows.shape[1]), np.float32) if negatives is None else negatives
        self.fitted = fitted or _fit(rows, labels, classes, names, share, second_head=second_head)
        self.transform = self.fitted.transform
        vectors = self.fitted.vectors
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(vectors)
        named = None if names is None else self.transform.apply(names)
        centroids = np.zeros((classes, vectors.shape[1]), np.float32)
        np.add.at(centroids, labels, vectors)
        if named is not None:
            centroids += named
        centroids /= np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
        # (C, k + d), or with names (2 C, k + d)
        self._classes = centroids if named is None else np.concatenate([centroids, named])
        self._rivals = None
        if negative_labels is not None and len(negative_labels):
            self._rivals = _Rivals(vectors, labels, self.transform.apply(self.negatives), negative_labels)

    def score(self, queries: Rows) -> Scores:
        """Score unit rows (m, d) against every class.

        S_c = ½ · (best of the top-50 hits in c) + ½ · (similarity to the normalised mean of c); a class
        without a hit gets ½ · (its mean's similarity − 1). A class one of whose negatives is nearer than its
        nearest exemplar is out of the question: its score is −1. To what chooses, the second head adds, and names
        are hits.
        """
        vectors = self.transform.apply(queries)
        similarities, hits = search(self._index, vectors, min(HITS, len(self.labels)))  # (m, h) each
        best = np.full((len(queries), self.classes), -1.0, np.float32)
        owners = self.labels[hits]  # (m, h)
        np.maximum.at(best, (np.arange(len(queries))[:, None], owners), similarities)
        near = vectors @ self._classes.T
        central, named = near[:, : self.classes], near[:, self.classes :]
        scores = np.float32(0.5) * (best + central)
        choice = (
            scores.copy() if self.names is None else np.float32(0.5) * (np.maximum(best, named) + central)
        )
        if self.fitted.head is not None:
            choice += self.fitted.head(queries)
        if self._rivals is not None:
            query, rival = self._rivals.outdone(vectors).nonzero()
            scores[query, self._rivals.labels[rival]] = -1.0
            choice[query, self._rivals.labels[rival]] = -np.inf
        return Scores(scores, choice, hits)


def with_names(rows: Rows, labels: NDArray[np.int64], names: Rows | None) -> tuple[Rows, NDArray[np.int64]]:
    """Return exemplars (n, d) with labels (n,), and the name of each class (C, d), if any, as one more at their end."""
    if names is None:
        return rows, labels
    return np.concatenate([rows, names]), np.concatenate([labels, np.arange(len(names))])


def _fit(
    rows: Rows,
    labels: NDArray[np.int64],
    classes: int,
    names: Rows | None,
    share: float | None,
    *,
    second_head: bool,
) -> Fitted:
    everything = with_names(rows, labels, names)
    transform = fit_transform(*everything, classes, share)
    head = fit_head(*everything, classes) if second_head else None
    return Fitted(transform, head, transform.apply(rows))
