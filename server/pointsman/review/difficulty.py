"""A `Difficulty` and labelled prompts to figures: what stays local, and what quality that keeps."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.difficulty import Difficulty, Progress, QualityPromise, safe_threshold
from pointsman.decision.outcomes import Outcomes

TARGETS = (0.9, 0.95, 0.98, 0.99)
"""Shares of the cloud's quality for which a report says what would stay local."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of some prompts: how many stay local, and the quality of all answers as a share of the cloud's.

    quality: None where the cloud's answers are worth nothing
    error: one standard error of the quality; None where it cannot be told
    """

    prompts: int
    local_share: float
    quality: float | None
    error: float | None


@dataclass(frozen=True, slots=True)
class TopicShare:
    """One topic: its labels, and how much of it stays local.

    rate: the cloud's mean gain on its training prompts, shrunk to the mean over all topics
    local_share: of its calibration prompts; None without any
    """

    topic: str | None
    training: int
    calibration: int
    rate: float
    local_share: float | None


@dataclass(frozen=True, slots=True)
class Review:
    """What the calibration prompts say. `kept` flatters a little: the threshold was chosen on them.

    local_shares: by target, at the same confidence
    """

    kept: Kept
    local_shares: dict[float, float]
    topics: tuple[TopicShare, ...]


def measure(outcomes: Outcomes, local: NDArray[np.bool_]) -> Kept:
    """Return the figures of n >= 1 prompts, of which `local` (n,) are answered locally.

    The error is that of a ratio of means (delta method; Cochran, 'Sampling techniques', 1977, ch. 2).
    """
    n = len(outcomes)
    got = np.where(local, outcomes.local, outcomes.cloud)
    worth = float(outcomes.cloud.mean())
    if worth <= 0:
        return Kept(n, float(local.mean()), None, None)
    quality = float(got.mean()) / worth
    if n == 1:
        return Kept(n, float(local.mean()), quality, None)
    spread = float((got - quality * outcomes.cloud).std(ddof=1))
    return Kept(n, float(local.mean()), quality, spread / math.sqrt(n) / worth)


def review(difficulty: Difficulty, progress: Progress | None = None) -> Review | None:
    """Return what the calibration prompts say of a difficulty model; None while it is off."""
    if difficulty.estimator is None:
        return None
    labels, confidence = difficulty.calibration, difficulty.promise.confidence
    scores = difficulty.score(labels, progress)
    local = scores <= difficulty.threshold
    shares = {}
    for target in sorted({*TARGETS, difficulty.promise.target}):
        promise = QualityPromise(target, confidence)
        threshold = safe_threshold(scores, labels.local, labels.cloud, promise)
        shares[target] = float((scores <= threshold).mean())
    trained, tested = Counter(difficulty.training.topics), Counter(labels.topics)
    stay = Counter(topic for topic, stays in zip(labels.topics, local.tolist(), strict=True) if stays)
    rates, overall = difficulty.estimator.rates, difficulty.estimator.overall
    topics = [
        TopicShare(
            topic,
            trained[topic],
            tested[topic],
            rates.get(topic, overall),
            stay[topic] / tested[topic] if tested[topic] else None,
        )
        for topic in trained | tested
    ]
    topics.sort(key=lambda row: (-row.training - row.calibration, row.topic or ""))
    return Review(measure(labels, local), shares, tuple(topics))
