"""Embeddings and cheap text features to an expected gain, by closed-form ridge regression. Knows no topics.

The normal equations need only sums over the labelled prompts, so new labels are added to the sums and
the weights follow: the same as fitting everything again.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows

Floats = NDArray[np.float64]

FEATURES = 5
"""ln chars, ln(1 + words), digit share, ln(1 + numbers), ln(1 + newlines)."""
FEATURE_SCALE = 0.2
"""Weight of a standardised text feature beside a unit embedding."""
PENALTIES = 10.0 ** np.arange(-2.0, 4.25, 0.25)
"""Values of α that are tried."""
_CONSTANT = 1e-10
"""Variance, relative to the mean square, under which a text feature is a constant and says nothing."""
_BLOCK = 1024
_NUMBER = re.compile(r"\d+")


def text_features(texts: Sequence[str]) -> Floats:
    """Return (n, 5), not yet standardised; a number is a run of digits, a word what white space parts."""
    found = np.empty((len(texts), FEATURES))
    for i, text in enumerate(texts):
        numbers = _NUMBER.findall(text)
        digits = sum(map(len, numbers))
        found[i] = (max(1, len(text)), len(text.split()), digits, len(numbers), text.count("\n"))
    found[:, 2] /= found[:, 0]
    found[:, 0] = np.log(found[:, 0])
    found[:, (1, 3, 4)] = np.log1p(found[:, (1, 3, 4)])
    return found


@dataclass(frozen=True, slots=True)
class Ridge:
    """gain ≈ intercept + weights · [embedding, text features]; standardisation is inside the weights."""

    weights: Floats  # (d + 5,)
    intercept: float

    def predict(self, rows: Rows, features: Floats) -> Floats:
        """Return expected gains (m,) for unit rows (m, d) and text features (m, 5)."""
        d = rows.shape[1]
        return self.intercept + rows @ self.weights[:d] + features @ self.weights[d:]


@dataclass(frozen=True, slots=True)
class Moments:
    """Σ uuᵀ over the labelled prompts' u = [1, embedding, text features, gain]: all that the fit needs."""

    sums: Floats  # (d + 7, d + 7)

    def add(self, rows: Rows, features: Floats, gains: Floats) -> "Moments":
        """Return the sums with n prompts more: unit rows (n, d), text features (n, 5), gains (n,)."""
        total = self.sums.copy()
        for block in _blocks(len(rows)):
            one = np.ones((len(rows[block]), 1))
            u = np.hstack([one, rows[block], features[block], gains[block, None]])
            total += u.T @ u
        return Moments(total)

    def solve(self, alpha: float) -> Ridge:
        """Return the weights that minimise squared error + α · |weights|², the intercept left free."""
        centred = _centre(self)
        system = centred.gram + alpha * np.eye(len(centred.gram))
        weights = centred.scale * np.linalg.solve(system, centred.products)
        return Ridge(weights, float(centred.gain - centred.mean @ weights))


def no_moments(dimensions: int) -> Moments:
    """Return the sums over nothing, for embeddings of that many dimensions."""
    size = 1 + dimensions + FEATURES + 1
    return Moments(np.zeros((size, size)))


def choose_alpha(
    moments: Moments,
    rows: Rows,
    features: Floats,
    gains: Floats,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Return the α with the least squared leave-one-out error over the prompts that `moments` are of.

    The left-out residual is the residual over 1 − h_i, h the diagonal of the hat matrix (Allen, 'The
    relationship between variable selection and data augmentation and a method for prediction', 1974);
    means and scales are those of all prompts. One eigendecomposition serves every α. `progress` is told
    how many prompts more are done.
    """
    centred = _centre(moments)
    n = moments.sums[0, 0]
    values, vectors = np.linalg.eigh(centred.gram)
    inverse = 1.0 / (np.maximum(values, 0.0)[:, None] + PENALTIES)  # (d + 5, a)
    weights = (vectors.T @ centred.products)[:, None] * inverse
    errors = np.zeros(len(PENALTIES))
    for block in _blocks(len(rows)):
        x = (np.hstack([rows[block], features[block]]) - centred.mean) * centred.scale
        z = x @ vectors
        residuals = (gains[block] - centred.gain)[:, None] - z @ weights  # (b, a)
        leverage = 1.0 / n + (z * z) @ inverse
        errors += ((residuals / np.maximum(1.0 - leverage, 1e-12)) ** 2).sum(axis=0)
        if progress:
            progress(len(x))
    return float(PENALTIES[errors.argmin()])


@dataclass(frozen=True, slots=True)
class _Centred:
    """The normal equations of centred and scaled inputs."""

    gram: Floats  # (d + 5, d + 5)
    products: Floats  # (d + 5,), inputs times gain
    mean: Floats  # (d + 5,), before scaling
    scale: Floats  # (d + 5,), 1 for the embedding
    gain: float


def _centre(moments: Moments) -> _Centred:
    n = moments.sums[0, 0]
    means = moments.sums[0] / n
    covered = moments.sums - n * np.outer(means, means)
    scale = np.ones(len(means) - 2)
    variances = np.diag(covered)[-1 - FEATURES : -1] / n
    squares = np.diag(moments.sums)[-1 - FEATURES : -1] / n
    speaks = variances > _CONSTANT * np.maximum(squares, 1e-300)
    scale[-FEATURES:] = np.where(speaks, FEATURE_SCALE / np.sqrt(np.where(speaks, variances, 1.0)), 0.0)
    gram = covered[1:-1, 1:-1] * np.outer(scale, scale)
    return _Centred(gram, covered[1:-1, -1] * scale, means[1:-1], scale, float(means[-1]))


def _blocks(n: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, n, _BLOCK)]
