"""What a route is, as values."""

from dataclasses import dataclass
from enum import StrEnum

from pointsman.values.policy import NOTHING_FOUND, Screening
from pointsman.values.request import Tier


class Reason(StrEnum):
    """Why a decision fell as it did."""

    INTENT_MATCH = "intent_match"
    LOW_SIMILARITY = "low_similarity"
    EXPLICIT_SPECIALIST = "explicit_specialist"
    EXPLICIT_TIER = "explicit_tier"
    TASK_TYPE = "task_type"
    LOCAL_ONLY = "local_only"
    NO_CLOUD = "no_cloud"
    CLOUD_DOWN = "cloud_down"
    LOW_CONFIDENCE = "low_confidence"
    RULE = "rule"
    DIFFICULTY = "difficulty"
    FOLLOW_UP = "follow_up"
    ESCALATED = "escalated"
    REPAIRED = "repaired"
    DRAFT_STANDS = "draft_stands"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Neighbor:
    """An exemplar near the prompt. `similarity` is the cosine of the embeddings, in [-1, 1]."""

    exemplar_id: str
    intent: str
    similarity: float
    text: str


@dataclass(frozen=True, slots=True)
class IntentScore:
    """The class score of one intent, in [-1, 1]."""

    intent: str
    score: float


@dataclass(frozen=True, slots=True)
class Hardness:
    """How hard a prompt looks for the local model.

    score: expected quality that the cloud's answer is ahead of the local one, in [-1, 1]
    threshold: the score up to which it stays local; None when the labels support none for its topic
    by: names the labels that say so
    """

    score: float
    threshold: float | None
    by: str = ""

    @property
    def local(self) -> bool:
        """Whether the local model is expected to do."""
        return self.threshold is not None and self.score <= self.threshold


@dataclass(frozen=True, slots=True)
class Evidence:
    """What similarity says of a prompt, before any rule.

    intent: the best-scoring intent; None when the catalog has none
    target: what that intent points to: a specialist's name, `mid` or `cloud`
    similarity: cosine of its nearest exemplar, in [-1, 1]
    score, threshold: class score, and the score from which the intent is accepted
    confidence: calibrated probability that the intent is the right one, in [0, 1)
    required_confidence: the confidence from which the intent is accepted; 1 accepts nothing
    hardness: what the difficulty model says; None without one
    follow_up: whether the turn continues the one before it, whose evidence this is
    turn: why it continues the turn before it or does not, as a sentence; empty with nothing before it
    confidence_alone: the confidence before labelled traffic corrected it
    scorer: names the encoder and the exemplars that say so
    reading: what the encoder did not read of the prompt, in sentences; empty when it read all
    """

    intent: str | None = None
    target: str | None = None
    similarity: float = 0.0
    score: float = 0.0
    threshold: float = 0.0
    confidence: float = 0.0
    neighbors: tuple[Neighbor, ...] = ()
    scores: tuple[IntentScore, ...] = ()
    required_confidence: float = 0.0
    hardness: Hardness | None = None
    follow_up: bool = False
    turn: str = ""
    confidence_alone: float = 0.0
    scorer: str = ""
    reading: str = ""

    @property
    def near(self) -> bool:
        """Whether the best intent is near enough."""
        return self.intent is not None and self.score >= self.threshold

    @property
    def accepted(self) -> bool:
        """Whether the best intent is near enough, and sure enough."""
        return self.near and self.confidence >= self.required_confidence


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a prompt goes, and why.

    specialist: None exactly when the cloud answers
    rule: name of the rule that decided; empty when none did
    """

    tier: Tier
    specialist: str | None
    reason: Reason
    explanation: str
    evidence: Evidence
    catalog_version: str
    model: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class RouteTimings:
    """Where the time of a decision went, in milliseconds, `policy_ms` first."""

    queue_ms: float = 0.0
    embed_ms: float = 0.0
    search_ms: float = 0.0
    total_ms: float = 0.0
    policy_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision and what it took, after what the policy said."""

    decision: Decision
    timings: RouteTimings
    screening: Screening = NOTHING_FOUND
