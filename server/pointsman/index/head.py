"""The second head: a linear classifier whose logits join the class scores where cross-fitting says they help.

Source: multinomial logistic regression by L-BFGS (scipy; Byrd, Lu, Nocedal and Zhu, 'A limited memory algorithm for
bound constrained optimization', 1995) on whitened rows: on the rows as they are, a third more steps stop short of where
it ends, and every change of the catalog waits for up to eleven of these. Strength and weight were chosen on the
validation split of CLINC150 and by cross-validation on the training split of BANKING77, in full and with 10 exemplars
an intent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows

_STRENGTH = 300_000.0
_GREATEST_STRENGTH = 100.0
"""C is the one over the number of exemplars, at most the other: each exemplar counts the less, the more there are."""
_WEIGHT = np.float32(0.15)
"""Of a logit beside a class score, which lies in [-1, 1]."""
_STOP = {"gtol": 1e-4, "ftol": 1e-14, "maxiter": 500, "maxls": 50, "maxcor": 5}
"""Of L-BFGS. The slope of the mean loss ends it: on the spot with tens of classes, with hundreds some percent before."""
_SPHERE = 0.3
"""Share of a sphere in what rows are whitened by: it changes how many steps there are, hardly where they lead."""
_NARROWEST = 1e-6
"""Variance (a dimension) from which rows differ by more than rounding."""
_LEAST_ROWS = 3
"""Of a class, on average; with fewer there is nothing to fit."""


@dataclass(frozen=True, slots=True)
class Head:
    """Weights (d, C) and bias (C,); both are centred over the classes and scaled to class scores."""

    weights: Rows
    bias: Rows

    def __call__(self, x: Rows) -> Rows:
        """Return what is added to the class scores (m, C) of unit rows (m, d)."""
        return x @ self.weights + self.bias


def fit_head(x: Rows, labels: NDArray[np.int64], classes: int) -> Head | None:
    """Fit on unit rows (n, d) with labels (n,) in [0, classes); None where there is nothing to fit."""
    if classes < 2 or len(x) < _LEAST_ROWS * classes:
        return None
    weights, bias = _regress(x, labels, classes, min(_GREATEST_STRENGTH, _STRENGTH / len(x)))
    weights -= weights.mean(axis=1, keepdims=True)
    return Head((_WEIGHT * weights).astype(np.float32), (_WEIGHT * (bias - bias.mean())).astype(np.float32))


def _regress(
    x: Rows, labels: NDArray[np.int64], classes: int, strength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weights W (d, C) and bias (C,) of the least mean loss + |W|² / (2 · strength · n)."""
    from scipy.optimize import minimize

    n, d = x.shape
    mean = x.mean(axis=0)
    centred = x - mean
    whiten = _whitening(centred)
    white = centred @ whiten
    square = whiten.T @ whiten
    everyone, penalty = np.arange(n), 1 / (strength * n)

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return value and slope at weights V of whitened rows, with the bias in the last row; W is whiten · V."""
        v, bias = flat.reshape(d + 1, classes)[:d], flat[-classes:]
        v = v.astype(np.float32)
        p = white @ v + bias.astype(np.float32)  # (n, C): logits, then probabilities, …
        p -= p.max(axis=1, keepdims=True)
        own = p[everyone, labels]
        np.exp(p, out=p)
        total = p.sum(axis=1)
        p /= total[:, None]
        p[everyone, labels] -= 1  # … then what is too much of each
        pull = square @ v
        value = np.mean(np.log(total) - own, dtype=np.float64) + penalty / 2 * np.vdot(v, pull)
        slope = np.vstack([(white.T @ p) / n + penalty * pull, p.mean(axis=0, dtype=np.float64)])
        return float(value), slope.ravel()

    found = minimize(loss, np.zeros((d + 1) * classes), jac=True, method="L-BFGS-B", options=_STOP).x
    weights = whiten @ found.reshape(d + 1, classes)[:d]
    return weights, found[-classes:] - mean @ weights


def _whitening(x: Rows) -> Rows:
    """Return a matrix (d, d) that makes rows (n, d) of mean 0 about equally wide in all directions."""
    from scipy.linalg import cholesky, solve_triangular

    n, d = x.shape
    covariance = x.T @ x / n
    width = max(np.trace(covariance) / d, np.float32(_NARROWEST))
    unit = np.eye(d, dtype=np.float32)
    root = cholesky((1 - _SPHERE) * covariance + _SPHERE * width * unit, lower=True)
    return np.asarray(solve_triangular(root, unit, lower=True).T, np.float32)
