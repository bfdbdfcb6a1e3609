"""Outcome-labelled prompts to an expected gain: the average of two estimates. Knows no threshold.

One is the mean gain of the nearest labelled prompts, shrunk to the rate of the prompt's topic, which is
itself shrunk to the overall mean (James and Stein's idea, twice); the other is ridge regression.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pointsman.decision.outcomes import Outcomes
from pointsman.decision.ridge import Floats, Moments, Ridge
from pointsman.embedding.encoder import Rows
from pointsman.index.outcome_index import OutcomeIndex

TOPIC_WEIGHT = 50.0
"""Labels that a topic's rate is worth beside the nearest prompts."""
OVERALL_WEIGHT = 10.0
"""Labels that the overall mean is worth beside a topic's own."""
_BLOCK = 4096
"""Prompts searched for at a time; a thousand at once take a quarter of the time of 256 at a time."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """What the training prompts say. None of it changes, so threads may share it."""

    index: OutcomeIndex
    gains: Floats  # (n,), in index order
    overall: float
    rates: dict[str | None, float]
    ridge: Ridge

    def score(
        self,
        rows: Rows,
        features: Floats,
        topics: Sequence[str | None],
        progress: Callable[[int], None] | None = None,
    ) -> Floats:
        """Return expected gains (m,) of unit rows (m, d), text features (m, 5) and topics (m,).

        `progress` is told how many prompts more are done.
        """
        scores = np.empty(len(rows))
        for start in range(0, len(rows), _BLOCK):
            block = slice(start, start + _BLOCK)
            near = self.score_by_neighbours(rows[block], topics[block])
            scores[block] = 0.5 * (near + self.ridge.predict(rows[block], features[block]))
            if progress:
                progress(len(near))
        return scores

    def score_by_neighbours(self, rows: Rows, topics: Sequence[str | None]) -> Floats:
        """Return (Σ gains of the k nearest + 50 · the topic's rate) / (k + 50), (m,); k = min(50, n)."""
        gains = self.gains[self.index.nearest(rows)]  # (m, k)
        rates = np.array([self.rates.get(topic, self.overall) for topic in topics])
        shrunk: Floats = (gains.sum(axis=1) + TOPIC_WEIGHT * rates) / (gains.shape[1] + TOPIC_WEIGHT)
        return shrunk


def estimate(training: Outcomes, moments: Moments, alpha: float, index: OutcomeIndex) -> Estimator:
    """Return the estimator of these labels; `moments` and `index` are over them, in the same order."""
    gains = training.gains
    overall = float(gains.mean())
    numbers = {topic: number for number, topic in enumerate(dict.fromkeys(training.topics))}
    codes = np.array([numbers[topic] for topic in training.topics], np.int64)
    sums = np.bincount(codes, weights=gains)
    rates = (sums + OVERALL_WEIGHT * overall) / (np.bincount(codes) + OVERALL_WEIGHT)
    named = dict(zip(numbers, rates.tolist(), strict=True))
    return Estimator(index, gains, overall, named, moments.solve(alpha))
