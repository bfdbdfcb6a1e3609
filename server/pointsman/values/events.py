"""What an answer is made of, as values: decision, tokens, perhaps an escalation, done."""

from dataclasses import dataclass
from enum import StrEnum

from pointsman.values.decision import Decision, Routed, RouteTimings


class FinishReason(StrEnum):
    """Why an answer ended; the values are those of the chat-completions API."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer. `logprob` is natural, None when the engine does not tell."""

    text: str
    logprob: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens in, out, and of those in, how many were reused from a cache."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """How a backend's stream ended, and how often it was asked again before it began."""

    reason: FinishReason
    usage: Usage
    retries: int = 0


class Shortfall(StrEnum):
    """What a local answer fell short in."""

    INVALID = "invalid"  # breaks the format of its specialist
    REPETITION = "repetition"
    REFUSAL = "refusal"
    LOW_CONFIDENCE = "low_confidence"
    DEADLINE = "deadline"  # could not be made in time; not the specialist's fault


@dataclass(frozen=True, slots=True)
class Escalation:
    """The answer moves to another model, or is made anew; characters from `retract_from` on are withdrawn.

    shortfall: what the local answer fell short in; None when none did
    asked_ms: when what takes over was asked, after the request came; None when nobody was
    """

    decision: Decision
    retract_from: int
    explanation: str
    shortfall: Shortfall | None = None
    asked_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Money; `currency` is ISO 4217."""

    currency: str
    amount: float


@dataclass(frozen=True, slots=True)
class GenerateTimings:
    """Where the time of an answer went, in milliseconds; `ttft_ms` is 0 when nothing was said."""

    route: RouteTimings
    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Done:
    """The last event of an answer that ended well.

    confidence: calibrated probability that the local answer is right; None when it was not judged
    shortfall: why the answer stands although it looks wrong; None when it does not
    cost: of the cloud, also for an answer of its own that did not stand
    retries: times that the cloud was asked again
    uncounted: answers of the cloud that broke off or were taken back, and are in no `cost`: nobody told their tokens
    """

    finish_reason: FinishReason
    usage: Usage
    timings: GenerateTimings
    cost: Cost | None = None
    confidence: float | None = None
    shortfall: Shortfall | None = None
    retries: int = 0
    uncounted: int = 0


Event = Routed | Token | Escalation | Done
