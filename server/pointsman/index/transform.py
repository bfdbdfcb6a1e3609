"""Embeddings to the space in which classes stand apart: regularised LDA beside the embedding itself.

Source: linear discriminant analysis with the within-class scatter shrunk half-way to a sphere
(Ledoit and Wolf, 'A well-conditioned estimator for large-dimensional covariance matrices', 2004, with a
fixed weight), concatenated with the untransformed embedding. Measured in benchmarks/results/quality.md.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows

_SHRINKAGE = 0.5
_ENOUGH_AXES = 25
"""From which the projection counts as much as the embedding. With two axes each prompt points near some class: catalogs
of three intents accepted 13 % of what is out of their scope, and 2 % with the projection counting less
(benchmarks/results/small_catalogs.md). Chosen among 25, 50, 100 and 200 on validation prompts of CLINC150."""
HALF = 0.5


@dataclass(frozen=True, slots=True)
class Transform:
    """x to v = [√s norm(Pᵀ(x − m̄)) ; √(1 − s) x]; with fewer than two classes P is empty and v = x.

    share: s, ½ from 25 axes on, and with fewer in proportion
    """

    projection: Rows  # (d, k), k = min(C - 1, d)
    mean: Rows  # (d,)
    share: float = HALF

    def apply(self, x: Rows) -> Rows:
        """Return unit rows (n, k + d) for unit rows (n, d)."""
        if self.projection.shape[1] == 0:
            return x
        k = self.projection.shape[1]
        v = np.empty((len(x), k + x.shape[1]), np.float32)
        z = (x - self.mean) @ self.projection
        lengths = np.maximum(np.sqrt(np.vecdot(z, z)), np.float32(1e-12))
        z *= (sqrt(self.share) / lengths)[:, None]
        v[:, :k] = z
        np.multiply(x, sqrt(1 - self.share), out=v[:, k:])
        return v


def share_of(classes: int, d: int) -> float:
    """Return how much the projection of unit rows (n, d) of that many classes counts, in [0, ½]."""
    return HALF * min(1.0, _axes(classes, d) / _ENOUGH_AXES)


def _axes(classes: int, d: int) -> int:
    return max(0, min(classes - 1, d))


def fit_transform(x: Rows, labels: NDArray[np.int64], classes: int, share: float | None = None) -> Transform:
    """Fit the projection on unit rows (n, d) with labels (n,) in [0, classes); each class has a row.

    share: of the projection; None: that of so many classes
    """
    from scipy.linalg import cholesky, solve_triangular

    d = x.shape[1]
    k = _axes(classes, d)
    rows = x.astype(np.float64)
    means = np.zeros((classes, d))
    np.add.at(means, labels, rows)
    means /= np.bincount(labels, minlength=classes)[:, None]
    centre = means.mean(axis=0)
    if k == 0:
        return Transform(np.zeros((d, 0), np.float32), centre.astype(np.float32))
    residuals = rows - means[labels]
    scatter = residuals.T @ residuals / max(1, len(x) - classes)
    sphere = np.trace(scatter) / d
    # One exemplar a class leaves no scatter at all; then every direction counts alike.
    covariance = (1 - _SHRINKAGE) * scatter + _SHRINKAGE * (sphere or 1.0) * np.eye(d)
    root = cholesky(covariance, lower=True)  # to whiten by; any other root gives the same axes
    _, _, axes = np.linalg.svd(solve_triangular(root, (means - centre).T, lower=True).T, full_matrices=False)
    projection = solve_triangular(root, axes[:k].T, lower=True, trans=1)
    share = share_of(classes, d) if share is None else share
    return Transform(np.ascontiguousarray(projection, np.float32), centre.astype(np.float32), share)
