"""Prompts with what both sides made of them, as arrays. Knows no estimator, and keeps no prompt text."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.ridge import Floats, text_features
from pointsman.embedding.encoder import Rows

LEAST_TRAINING = 300
LEAST_CALIBRATION = 200
"""Labels under which difficulty is off."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """n labelled prompts. A topic of None is that of prompts without one."""

    rows: Rows  # (n, d), unit rows
    features: Floats  # (n, 5), of the texts
    topics: tuple[str | None, ...]  # (n,)
    local: Floats  # (n,), quality of the local answer, in [0, 1]
    cloud: Floats  # (n,), quality of the cloud's

    def __len__(self) -> int:
        return len(self.topics)

    @property
    def gains(self) -> Floats:
        """What the cloud would have gained, (n,), in [-1, 1]."""
        return self.cloud - self.local

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Outcomes":
        """Return the prompts that a mask (n,) or row numbers choose."""
        topics = tuple(self.topics[i] for i in np.arange(len(self))[chosen].tolist())
        return Outcomes(
            self.rows[chosen], self.features[chosen], topics, self.local[chosen], self.cloud[chosen]
        )

    def plus(self, more: "Outcomes") -> "Outcomes":
        """Return these prompts and then those."""
        return Outcomes(
            np.concatenate([self.rows, more.rows]),
            np.concatenate([self.features, more.features]),
            self.topics + more.topics,
            np.concatenate([self.local, more.local]),
            np.concatenate([self.cloud, more.cloud]),
        )

    def without(self, others: "Outcomes") -> "Outcomes":
        """Return the prompts whose embedding is not among the others'."""
        if not len(self) or not len(others):
            return self
        known = {row.tobytes() for row in others.rows}
        return self.take(np.array([row.tobytes() not in known for row in self.rows], np.bool_))


def make_outcomes(
    rows: Rows,
    texts: Sequence[str],
    topics: Sequence[str | None],
    local: Iterable[float],
    cloud: Iterable[float],
) -> Outcomes:
    """Return labelled prompts from unit rows (n, d), texts, topics and qualities, n of each.

    Raises:
        ValueError: lengths that differ, or a quality outside [0, 1].

    """
    qualities = [np.array(list(values), dtype=np.float64) for values in (local, cloud)]
    lengths = {len(rows), len(texts), len(topics), *map(len, qualities)}
    if len(lengths) != 1:
        raise ValueError(f"rows, texts, topics and qualities differ in length: {sorted(lengths)}")
    for values in qualities:
        bad = values[~((values >= 0.0) & (values <= 1.0))]
        if len(bad):
            raise ValueError(f"a quality must be in [0, 1] (got {bad[0]})")
    return Outcomes(rows, text_features(texts), tuple(topics), *qualities)


def calibration_cut(texts: Sequence[str], share: float) -> float:
    """Return the cut that gives `share` of the texts to calibration; more of them while labels are few."""
    draws = sorted(map(_draw, texts))
    least = LEAST_CALIBRATION / max(len(draws), LEAST_TRAINING + LEAST_CALIBRATION)
    return draws[math.ceil(max(share, least) * len(draws)) - 1] if draws else 0.0


def in_calibration(texts: Sequence[str], cut: float) -> NDArray[np.bool_]:
    """Return which texts (n,) are for calibration; a text is on the same side every time."""
    return np.array([_draw(text) <= cut for text in texts], np.bool_)


def _draw(text: str) -> float:
    """Return a number in [0, 1), as if at random, always the same for a text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
