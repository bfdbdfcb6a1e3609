"""Outcome-labelled prompts to 'is the local answer good enough?', with a promise. Pure.

A label is what both sides made of one prompt: the quality of the local answer and of the cloud's, in
[0, 1]. What the cloud gains is their difference; its expectation is a prompt's difficulty. The threshold
comes from labels that nothing was fitted on. Measured in benchmarks/results/difficulty.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.estimator import Estimator, estimate
from pointsman.decision.outcomes import LEAST_CALIBRATION, LEAST_TRAINING, Outcomes
from pointsman.decision.ridge import Floats, Moments, choose_alpha, no_moments, text_features
from pointsman.embedding.encoder import Rows
from pointsman.index.outcome_index import OutcomeIndex

STEPS = 60
"""Quantiles of the calibration scores at which a threshold is tried."""
ALL_CLOUD = -math.inf
"""The threshold that lets no prompt stay local."""

Progress = Callable[[int, int], None]
"""Called with prompts done and prompts in all."""


@dataclass(frozen=True, slots=True)
class QualityPromise:
    """Keep at least `target` of the cloud's mean quality, with this confidence.

    Raises:
        ValueError: a target outside (0, 1], or a confidence outside [0.5, 1).

    """

    target: float = 0.95
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.target <= 1.0:
            raise ValueError(f"the target must be above 0 and at most 1 (got {self.target})")
        if not 0.5 <= self.confidence < 1.0:
            raise ValueError(f"the confidence must be at least 0.5 and under 1 (got {self.confidence})")

    def __str__(self) -> str:
        """`95% of the cloud's quality with confidence 90%`."""
        return f"{100 * self.target:g}% of the cloud's quality with confidence {100 * self.confidence:g}%"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the local answer should do. `score` is the quality it is expected to lose, about [-1, 1].

    It is local if and only if the score is at most the threshold and nothing else stands against it.
    """

    score: float
    threshold: float
    local: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Difficulty:
    """The estimator with its labels, its promise, and the threshold that keeps it.

    The promise is about the mean over traffic of which the labels are a random sample, not about each
    topic. It holds for the topics it was tested on; prompts of any other are not left local.

    moments: sums over the training prompts
    alpha, estimator: None while difficulty is off for want of labels
    encoder_hash: of the encoder that made the rows
    cut: where `in_calibration` parts training from calibration prompts
    topics: those with calibration labels; None when no label names a topic, and all count alike
    """

    training: Outcomes
    calibration: Outcomes
    promise: QualityPromise
    moments: Moments
    alpha: float | None
    estimator: Estimator | None
    threshold: float
    encoder_hash: str
    cut: float
    topics: frozenset[str | None] | None

    @property
    def on(self) -> bool:
        """Whether there are labels enough. While it is off, nothing should be decided by it."""
        return self.estimator is not None

    @property
    def shortage(self) -> str:
        """What is missing while difficulty is off; empty when it is on."""
        if self.on:
            return ""
        return (
            f"Difficulty is off: it needs {LEAST_TRAINING} training and {LEAST_CALIBRATION} calibration "
            f"labels, and has {len(self.training)} and {len(self.calibration)}."
        )

    def judge(self, row: Rows, text: str, topic: str | None) -> Verdict:
        """Judge one prompt by its unit row (d,), its text and its topic."""
        if self.estimator is None:
            return Verdict(0.0, ALL_CLOUD, local=False, reason=self.shortage)
        score = float(self.estimator.score(row[None, :], text_features([text]), (topic,))[0])
        if not self.covers(topic):
            named = "Prompts without a topic have" if topic is None else f"The topic {topic!r} has"
            return Verdict(score, self.threshold, local=False, reason=f"{named} no calibration labels.")
        if self.threshold == ALL_CLOUD:
            reason = f"The labels support no threshold that keeps {self.promise}."
            return Verdict(score, self.threshold, local=False, reason=reason)
        local = score <= self.threshold
        comparison = "is at most" if local else "is above"
        reason = f"The expected loss of a local answer, {score:.3f}, {comparison} {self.threshold:.3f}."
        return Verdict(score, self.threshold, local, reason)

    def score(self, outcomes: Outcomes, progress: Progress | None = None) -> Floats:
        """Return the scores (m,) of labelled prompts; 0 while difficulty is off."""
        if self.estimator is None:
            return np.zeros(len(outcomes))
        told = _counted(progress, len(outcomes))
        return self.estimator.score(outcomes.rows, outcomes.features, outcomes.topics, told)

    def stays_local(self, outcomes: Outcomes, progress: Progress | None = None) -> NDArray[np.bool_]:
        """Return which labelled prompts (m,) `judge` leaves local."""
        covers = np.array([self.covers(topic) for topic in outcomes.topics], np.bool_)
        return covers & (self.score(outcomes, progress) <= self.threshold)

    def append(
        self, training: Outcomes, calibration: Outcomes | None = None, progress: Progress | None = None
    ) -> "Difficulty":
        """Return the same with these labels too; α stays as the last fit chose it.

        Index, rates and normal equations grow by what is new, so the scores are those of a fit on all
        labels with that α. The threshold is then sought again: the promise holds only for the scores it
        was tested on. Labels whose prompt is on the other side already are left out. Labels that turn
        difficulty on are fitted.
        """
        everything = self.calibration
        if calibration is not None:
            everything = everything.plus(calibration.without(self.training))
        training = training.without(everything)
        trained = self.training.plus(training)
        if self.estimator is None or self.alpha is None:
            return fit(trained, everything, self.promise, self.encoder_hash, self.cut, progress)
        moments = self.moments.add(training.rows, training.features, training.gains)
        index = self.estimator.index.append(training.rows)
        estimator = estimate(trained, moments, self.alpha, index)
        told = _counted(progress, len(everything))
        threshold = _calibrate(estimator, everything, self.promise, told)
        return Difficulty(
            trained,
            everything,
            self.promise,
            moments,
            self.alpha,
            estimator,
            threshold,
            self.encoder_hash,
            self.cut,
            covered(trained, everything),
        )

    def covers(self, topic: str | None) -> bool:
        """Whether the promise was tested on prompts of this topic."""
        return self.topics is None or topic in self.topics


def fit(
    training: Outcomes,
    calibration: Outcomes,
    promise: QualityPromise | None = None,
    encoder_hash: str = "",
    cut: float = 0.0,
    progress: Progress | None = None,
) -> Difficulty:
    """Fit the estimator on some labels and find the threshold that keeps the promise on the others.

    Training labels of prompts that are calibrated on as well are left out. Under 300 training or 200
    calibration labels difficulty is off.
    """
    training = training.without(calibration)
    rows, features, gains = training.rows, training.features, training.gains
    moments = no_moments(rows.shape[1]).add(rows, features, gains)
    alpha, estimator, threshold = None, None, ALL_CLOUD
    promise = promise or QualityPromise()
    if len(training) >= LEAST_TRAINING and len(calibration) >= LEAST_CALIBRATION:
        told = _counted(progress, len(training) + len(calibration))
        alpha = choose_alpha(moments, rows, features, gains, told)
        estimator = estimate(training, moments, alpha, OutcomeIndex(rows))
        threshold = _calibrate(estimator, calibration, promise, told)
    return Difficulty(
        training,
        calibration,
        promise,
        moments,
        alpha,
        estimator,
        threshold,
        encoder_hash,
        cut,
        covered(training, calibration),
    )


def covered(training: Outcomes, calibration: Outcomes) -> frozenset[str | None] | None:
    """Return the topics with calibration labels; None when no label at all names a topic."""
    topics = frozenset(calibration.topics)
    return None if topics | frozenset(training.topics) <= {None} else topics


def safe_threshold(scores: Floats, local: Floats, cloud: Floats, promise: QualityPromise) -> float:
    """Return the greatest score up to which prompts may stay local; `ALL_CLOUD` when there is none.

    d_i(λ) = (1 − τ) · cloud_i + 1[score_i ≤ λ] · (local_i − cloud_i) has a mean of at least 0 exactly when
    the target τ is kept. Fixed-sequence testing: from all-cloud on, λ steps over 60 quantiles of the
    scores while mean(d) − z_{1−δ} · sd(d) / √n ≥ 0, δ being 1 − confidence, and ends before the first that
    fails, so no correction for the number of tests is due. Scores and qualities (n,) must be of prompts
    that nothing was fitted on. Source: Angelopoulos, Bates, Candès, Jordan and Lei, 'Learn then Test',
    2021, with the normal approximation for the p-value.
    """
    n = len(scores)
    if n < LEAST_CALIBRATION:
        return ALL_CLOUD
    z = NormalDist().inv_cdf(promise.confidence)
    slack, change = (1.0 - promise.target) * cloud, local - cloud
    ordered = np.sort(scores)
    threshold = ALL_CLOUD
    for step in range(1, STEPS + 1):
        candidate = ordered[math.ceil(step * n / STEPS) - 1]
        d = slack + np.where(scores <= candidate, change, 0.0)
        if d.mean() - z * d.std(ddof=1) / math.sqrt(n) < 0.0:
            break
        threshold = float(candidate)
    return threshold


def _calibrate(
    estimator: Estimator, calibration: Outcomes, promise: QualityPromise, told: Callable[[int], None] | None
) -> float:
    scores = estimator.score(calibration.rows, calibration.features, calibration.topics, told)
    return safe_threshold(scores, calibration.local, calibration.cloud, promise)


def _counted(progress: Progress | None, total: int) -> Callable[[int], None] | None:
    """Return what turns 'so many more' into 'so many of so many'."""
    if progress is None:
        return None
    done = 0

    def told(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return told
