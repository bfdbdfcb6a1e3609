"""Whether a turn leans on the turn before it: follow-ups as an intent of their own, by exemplars.

Two facts of a turn's row tell: on which side of Fisher's linear discriminant it lies ('The use of multiple
measurements in taxonomic problems', 1936; scatter shrunk half-way to a sphere, as in `index.transform`), and
whether a leaning phrase is nearer than any standing one. Their weights come from phrases that the discriminant
was fitted without (Platt, 'Probabilistic outputs for support vector machines', 1999). The catalog's exemplars
count as standing. Never the length: the phrases of both kinds are short and long.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pointsman.catalog.file_model import Text
from pointsman.catalog.files import read_document, validate
from pointsman.decision.cross_fit import FOLDS, folds_of
from pointsman.embedding.encoder import Rows

SHIPPED_PHRASES = Path(__file__).with_name("turns.yaml")
_LEAST_PHRASES = 10
_MOST_EXEMPLARS = 2000
"""Of a larger catalog every k-th exemplar is taken, so that fitting stays a matter of tenths of a second."""
_SHRINKAGE = 0.5
_SUREST = 3.0
"""The greatest log-odds, 20 to 1: phrases that are all of one author's making do not bear more."""

Phrase = Annotated[list[Text], Field(min_length=_LEAST_PHRASES)]


class Phrases(BaseModel):
    """What turns sound like that lean on the turn before them, and what those that stand alone sound like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    leaning: Phrase
    standing: Phrase


@dataclass(frozen=True, slots=True)
class Leaning:
    """Fitted on phrases; threads may share it.

    direction, offset: (d,) and the point between the classes, of the discriminant
    leaning, standing: (l, d) and (s, d), the phrases
    weights: of the discriminant and of the lead in cosine; never negative
    """

    direction: Rows
    offset: float
    leaning: Rows
    standing: Rows
    weights: tuple[float, float]
    intercept: float

    def log_odds(self, row: Rows, nearest: float) -> float:
        """Return the log-odds that a turn (d,) leans, in [-3, 3].

        `nearest` is the cosine of the catalog's exemplar that is nearest to it.
        """
        lead = (self.leaning @ row).max() - max((self.standing @ row).max(), nearest)
        discriminant = self.direction @ row - self.offset
        logit = self.weights[0] * discriminant + self.weights[1] * lead + self.intercept
        return float(np.clip(logit, -_SUREST, _SUREST))


def read_phrases(path: Path = SHIPPED_PHRASES) -> Phrases:
    """Read a file of phrases.

    Raises:
        CatalogError: every problem of the file, with its line.

    """
    file = path.name
    document = read_document(path, file, "leaning")
    return validate(document.data, Phrases, file, document)


def fit_leaning(leaning: Rows, standing: Rows, exemplars: Rows) -> Leaning:
    """Fit on the rows of phrases (l, d) and (s, d), and of the catalog's exemplars (n, d); deterministic."""
    step = -(-len(exemplars) // _MOST_EXEMPLARS)
    groups = [leaning, standing, exemplars[:: max(1, step)]]
    if len(groups[2]) < _LEAST_PHRASES:  # too few to be a group of their own
        groups[1:] = [np.concatenate(groups[1:])]
    folds = [folds_of(np.zeros(len(group), np.int64)) for group in groups]
    facts, owners = [], []
    for fold in range(FOLDS):
        kept = [group[folds[i] != fold] for i, group in enumerate(groups)]
        fitted = _discriminant(kept)
        for i, group in enumerate(groups):
            held = group[folds[i] == fold]
            facts.append(_facts(held, kept, fitted))
            owners.append(np.full(len(held), i))
    weights, intercept = _weigh(np.concatenate(facts), np.concatenate(owners))
    direction, offset = _discriminant(groups)
    return Leaning(direction.astype(np.float32), offset, leaning, standing, weights, intercept)


def _discriminant(groups: list[Rows]) -> tuple[NDArray[np.float64], float]:
    """Return Fisher's direction (d,) from the mean of the others' means to the first group's, and the middle."""
    means = [group.mean(axis=0, dtype=np.float64) for group in groups]
    others = np.mean(means[1:], axis=0)
    residuals = np.concatenate([group - mean for group, mean in zip(groups, means, strict=True)])
    scatter = residuals.T @ residuals / (len(residuals) - len(groups))
    sphere = np.trace(scatter) / len(scatter)
    scatter = (1 - _SHRINKAGE) * scatter + _SHRINKAGE * sphere * np.eye(len(scatter))
    direction = np.linalg.solve(scatter, means[0] - others)
    return direction, float(direction @ (means[0] + others) / 2)


def _facts(rows: Rows, groups: list[Rows], fitted: tuple[NDArray[np.float64], float]) -> NDArray[np.float64]:
    """Return the discriminant and the lead in cosine of rows (n, d), as (n, 2)."""
    lead = (rows @ groups[0].T).max(axis=1) - (rows @ np.concatenate(groups[1:]).T).max(axis=1)
    return np.stack([rows @ fitted[0] - fitted[1], lead], axis=1)


def _weigh(facts: NDArray[np.float64], owners: NDArray[np.int64]) -> tuple[tuple[float, float], float]:
    """Return weights and intercept of a logistic curve over (n, 2) held-out facts.

    Leaning and standing weigh alike, and so do the groups of the standing.
    """
    from sklearn.linear_model import LogisticRegression

    counts = np.bincount(owners)
    shares = np.where(np.arange(len(counts)) == 0, 0.5, 0.5 / (len(counts) - 1))
    spread = facts.std(axis=0)
    model = LogisticRegression().fit(facts / spread, owners == 0, (shares / counts)[owners] * len(owners))
    first, second = np.maximum(model.coef_[0], 0.0) / spread
    return (float(first), float(second)), float(model.intercept_[0])
