"""The second head: a linear classifier whose logits join the class scores where cross-fitting says they help.

Source: multinomial logistic regression (scikit-learn, L-BFGS). Strength and weight were chosen on the
validation split of CLINC150 and by cross-validation on the training split of BANKING77, in full and with 10
exemplars an intent.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows

_STRENGTH = 300_000.0
_GREATEST_STRENGTH = 100.0
"""C is the one over the number of exemplars, at most the other: each exemplar counts the less, the more there are."""
_WEIGHT = np.float32(0.1)
"""Of a logit beside a class score, which lies in [-1, 1]."""
_ITERATIONS = 500
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
    from sklearn.linear_model import LogisticRegression

    strength = min(_GREATEST_STRENGTH, _STRENGTH / len(x))
    model = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(x, labels)
    weights, bias = model.coef_.T, model.intercept_  # (d, C), (C,); one column for two classes
    if classes == 2:
        weights, bias = np.hstack([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights = weights - weights.mean(axis=1, keepdims=True)
    return Head((_WEIGHT * weights).astype(np.float32), (_WEIGHT * (bias - bias.mean())).astype(np.float32))
