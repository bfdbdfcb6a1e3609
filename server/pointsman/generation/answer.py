"""The state of one answer: what its caller has been told so far."""

import time
from dataclasses import dataclass, field, replace

from pointsman.generation.cascade import FINE, Verdict
from pointsman.generation.prompt import constraint_of
from pointsman.router.router import Route
from pointsman.values.catalog import Specialist
from pointsman.values.decision import Decision
from pointsman.values.events import (
    Cost,
    Done,
    Escalation,
    Finished,
    FinishReason,
    GenerateTimings,
    Shortfall,
    Token,
    Usage,
)
from pointsman.values.request import Request


@dataclass(slots=True)
class Answer:
    """Of one request. `said` is the text that stands with the caller; `finished` is how its source ended.

    versions: of specialists that were asked, by the specialist's name
    asked_ms: when what may take over was asked; None while nothing was
    faulty: whether the local answer has a fault that any version of a specialist could have; see `Watch`
    late: whether it could not be made in time locally, which is no specialist's fault
    spent, uncounted: what answers of the cloud cost that do not stand, and how many of those nobody told the tokens of
    retries: times that the cloud was asked again for them
    drawn: whether it is one of those that the cloud is asked as well; logprobs: then of its local tokens
    """

    request: Request
    route: Route
    decision: Decision
    arrived: float
    queue_ms: float = 0.0
    ttft_ms: float = 0.0
    said: str = ""
    finished: Finished | None = None
    confidence: float | None = None
    shortfall: Shortfall | None = None
    versions: dict[str, Specialist] = field(default_factory=dict)
    asked_ms: float | None = None
    spent: Cost | None = None
    uncounted: int = 0
    retries: int = 0
    faulty: bool = False
    late: bool = False
    drawn: bool = False
    logprobs: list[float | None] = field(default_factory=list)
    _logprob: float | None = None

    def elapsed_ms(self) -> float:
        """Return the time since the request came."""
        return (time.perf_counter() - self.arrived) * 1e3

    def aside(self) -> "Answer":
        """Return another answer to the same request, which its caller does not wait for."""
        first = self.route.routed.decision
        return Answer(replace(self.request, budget_s=None), self.route, first, time.perf_counter())

    def left_s(self) -> float | None:
        """Return the time until the caller's deadline; None without one."""
        return None if self.request.budget_s is None else self.request.budget_s - self.elapsed_ms() / 1e3

    def note(self, logprob: float | None) -> None:
        """Add a token's log-probability to that of the next piece of text."""
        if logprob is not None and self.request.sampling.logprobs:
            self._logprob = logprob + (self._logprob or 0.0)

    def say(self, text: str) -> Token:
        """Return a piece of text for the caller."""
        self.ttft_ms = self.ttft_ms or self.elapsed_ms()
        self.said += text
        token = Token(text, self._logprob)
        self._logprob = None
        return token

    def move(self, decision: Decision, verdict: Verdict, stands: int) -> Escalation:
        """Return the event by which another decision takes over; `stands` characters stay."""
        self.decision = decision
        self.said = self.said[:stands]
        self._logprob = None
        asked_ms, self.asked_ms = self.asked_ms, None
        return Escalation(decision, len(self.said), decision.explanation, verdict.shortfall, asked_ms)

    def done(self, finished: Finished, cost: Cost | None) -> Done:
        """Return the event that ends it."""
        return Done(
            finished.reason,
            finished.usage,
            GenerateTimings(self.route.routed.timings, self.queue_ms, self.ttft_ms, self.elapsed_ms()),
            cost,
            self.confidence,
            self.shortfall,
            finished.retries + self.retries,
            self.uncounted,
        )


def common_prefix(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


@dataclass(frozen=True, slots=True)
class Draft:
    """A local answer. `faulty` as for `Answer`."""

    text: str
    finished: Finished
    verdict: Verdict
    faulty: bool


@dataclass(slots=True)
class Options:
    """What may still be done about a local answer; `noted` is the first dip, `tokens` are those that came."""

    escalate: bool
    repair: bool
    noted: Verdict = FINE
    tokens: int = 0


def can_repair(specialist: Specialist) -> bool:
    """Whether decoding can be held to the format, and was not from the beginning."""
    held, free = constraint_of(specialist, repair=True), constraint_of(specialist, repair=False)
    return held is not None and free is None


def broken_off(tokens: int) -> Finished:
    """Return how a stream ended that was left before its end."""
    return Finished(FinishReason.LENGTH, Usage(completion_tokens=tokens))


def gap(draft: str, stands: int) -> str:
    """Return what separates the part of a draft that stands from what goes on from there."""
    if not stands:
        return ""
    following = draft[stands : stands + 1]
    return following if following.isspace() else " "
