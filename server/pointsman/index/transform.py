"""Embeddings to the space in which classes stand apart: regularised LDA beside the embedding itself.

Source: linear discriminant analysis with the within-class scatter shrunk half-way to a sphere
(Ledoit and Wolf, 'A well-conditioned estimator for large-dimensional covariance matrices', 2004, with a
fixed weight), concatenated with the untransformed embedding. Measured in benchmarks/results/quality.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows

_SHRINKAGE = 0.5
_HALF = np.float32(np.sqrt(0.5))


@dataclass(frozen=True, slots=True)
class Transform:
    """x to v = [√½ norm(Pᵀ(x − m̄)) ; √½ x]; with fewer than two classes P is empty and v = x."""

    projection: Rows  # (d, k), k = min(C - 1, d)
    mean: Rows  # (d,)

    def apply(self, x: Rows) -> Rows:
        """Return unit rows (n, k + d) for unit rows (n, d)."""
        if self.projection.shape[1] == 0:
            return x
        k = self.projection.shape[1]
        v = np.empty((len(x), k + x.shape[1]), np.float32)
        z = (x - self.mean) @ self.projection
        z *= _HALF / np.maximum(np.sqrt(np.einsum("ij,ij->i", z, z)), np.float32(1e-12))[:, None]
        v[:, :k] = z
        np.multiply(x, _HALF, out=v[:, k:])
        return v


def fit_transform(x: Rows, labels: NDArray[np.int64], classes: int) -> Transform:
    """Fit the projection on unit rows (n, d) with labels (n,) in [0, classes); each class has a row."""
    from scipy.linalg import cholesky, solve_triangular

    d = x.shape[1]
    k = min(classes - 1, d)
    rows = x.astype(np.float64)
    means = np.zeros((classes, d))
    np.add.at(means, labels, rows)
    means /= np.bincount(labels, minlength=classes)[:, None]
    centre = means.mean(axis=0)
    if k <= 0:
        return Transform(np.zeros((d, 0), np.float32), centre.astype(np.float32))
    residuals = rows - means[labels]
    scatter = residuals.T @ residuals / max(1, len(x) - classes)
    sphere = np.trace(scatter) / d
    # One exemplar a class leaves no scatter at all; then every direction counts alike.
    covariance = (1 - _SHRINKAGE) * scatter + _SHRINKAGE * (sphere or 1.0) * np.eye(d)
    root = cholesky(covariance, lower=True)  # to whiten by; any other root gives the same axes
    _, _, axes = np.linalg.svd(solve_triangular(root, (means - centre).T, lower=True).T, full_matrices=False)
    projection = solve_triangular(root, axes[:k].T, lower=True, trans=1)
    return Transform(np.ascontiguousarray(projection, np.float32), centre.astype(np.float32))
