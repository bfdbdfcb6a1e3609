"""What happened to a request, to its entry in the ledger."""

import json
import time
from dataclasses import dataclass, field, fields
from typing import Any

from pointsman.errors import DeadlineError, OverloadedError, PointsmanError, PolicyError, QuotaError
from pointsman.policy.conditions import facts_of
from pointsman.values.decision import Decision, Reason, Routed, RouteTimings
from pointsman.values.events import Done, Escalation, Shortfall
from pointsman.values.ledger import Entry
from pointsman.values.policy import Action
from pointsman.values.request import Constraints, Request, Role

_CONSTRAINTS = tuple(field.name for field in fields(Constraints))


@dataclass(frozen=True, slots=True)
class Step:
    """What was done about an answer from a moment on: `generate`, or `escalate` for what took over."""

    name: str
    at_ms: float
    decision: Decision


@dataclass(slots=True)
class Story:
    """One request, as far as it has come."""

    request: Request
    method: str
    arrived: float
    begun: float
    decision: Decision | None = None
    timings: RouteTimings | None = None
    done: Done | None = None
    routed_to: str = ""
    policy: Action = Action.ALLOW
    said: str = ""
    first: Decision | None = None
    pieces: int = 0
    retries: int | None = None
    steps: list[Step] = field(default_factory=list)
    routed_ms: float | None = None

    @classmethod
    def of(cls, request: Request, method: str) -> "Story":
        """Begin one."""
        return cls(request, method, time.time(), time.perf_counter())

    def decided(self, routed: Routed) -> None:
        """Go on with the first decision."""
        self.decision, self.timings = routed.decision, routed.timings
        self.first = routed.decision
        self.routed_to = routed.decision.specialist or ""
        self.policy = routed.screening.action
        if self.method == "generate":
            self.steps.append(Step("generate", self.elapsed_ms(), routed.decision))
        else:
            self.routed_ms = self.elapsed_ms()  # and that was all

    def moved(self, event: Escalation) -> None:
        """Go on with a decision that took over, from when its model was asked."""
        self.decision = event.decision
        self.said = self.said[: event.retract_from]
        at_ms = self.elapsed_ms() if event.asked_ms is None else event.asked_ms
        self.steps.append(Step("escalate", at_ms, event.decision))

    def elapsed_ms(self) -> float:
        """Return the time since the request came."""
        return (time.perf_counter() - self.begun) * 1e3

    def clock(self, at_ms: float) -> int:
        """Return a moment of the request as nanoseconds of Unix time."""
        return int(self.arrived * 1e9 + at_ms * 1e6)

    def ended_ms(self) -> float:
        """Return the time from when the request came to its end, which is now unless it was routed and no more."""
        return self.elapsed_ms() if self.routed_ms is None else self.routed_ms

    def entry(self, outcome: str) -> Entry:
        """Return how it ended, without a text."""
        request, done = self.request, self.done
        return Entry(
            self.arrived,
            request.request_id,
            self.method,
            outcome,
            caller=request.caller,
            session_id=request.session_id,
            routed_to=self.routed_to,
            total_ms=self.ended_ms() if done is None else done.timings.total_ms,
            route_ms=self.timings.total_ms if self.timings else None,
            asked=asked_of(request, self.policy, self.first),
            retries=self.retries if done is None else done.retries,
            uncounted=self._uncounted(outcome) if done is None else done.uncounted,
            **({} if self.decision is None else _of_decision(self.decision)),
            **({} if done is None else _of_answer(done)),
        )

    def _uncounted(self, outcome: str) -> int:
        """Return how many answers of the cloud nobody told the tokens of, in a request that did not end well."""
        decision = self.decision
        if decision is None or decision.specialist is not None:
            return int(decision is not None and decision.reason is Reason.DRAFT_STANDS)
        asked = self.method == "generate" and (outcome == "cancelled" or self.pieces > 0)
        return int(asked)


def asked_of(request: Request, policy: Action = Action.ALLOW, first: Decision | None = None) -> str:
    """Return what a request fixes, what rules ask for, what the policy said and where it went first; no text of it."""
    asked: dict[str, object] = {}
    for name in _CONSTRAINTS:
        if value := getattr(request.constraints, name):
            asked[name] = value
    if first is not None:
        asked["to"] = first.specialist or first.model
        if first.evidence.follow_up:
            asked["follow_up"] = True
    if (turns := sum(message.role is Role.USER for message in request.messages)) > 1:
        asked["turns"] = turns
    asked["tokens"] = facts_of(request).tokens
    if request.budget_s is not None:
        asked["budget_s"] = round(request.budget_s, 3)
    if policy is not Action.ALLOW:
        asked["policy"] = policy
    return json.dumps(asked)


def outcome_of(decision: Decision | None, done: Done) -> str:
    """Return how an answer came out that ended well."""
    if done.shortfall is not None:
        return "invalid" if done.shortfall is Shortfall.INVALID else "flagged"
    return "escalated" if decision is not None and decision.reason is Reason.ESCALATED else "ok"


def failed_as(error: PointsmanError) -> str:
    """Return how a request came out that was not answered."""
    if isinstance(error, PolicyError):
        return "refused"
    if isinstance(error, DeadlineError):
        return "late"
    return "throttled" if isinstance(error, OverloadedError) else "failed"


def kept_out(method: str, request_id: str, caller: str, error: BaseException, more: int) -> Entry:
    """Return the entry of a call that was refused at the door; `more` such calls before it have none."""
    outcome = "quota" if isinstance(error, QuotaError) else "rejected"
    why = type(error).__name__.removesuffix("Error")
    return Entry(
        time.time(),
        request_id,
        method,
        outcome,
        caller=caller,
        asked=json.dumps({"refused": why} | ({"more": more} if more else {})),
    )


def _of_decision(decision: Decision) -> dict[str, Any]:
    evidence = decision.evidence
    return {
        "tier": str(decision.tier),
        "specialist": decision.specialist or "",
        "model": decision.model,
        "intent": evidence.intent or "",
        "reason": str(decision.reason),
        "rule": decision.rule,
        "similarity": evidence.similarity if evidence.intent else None,
        "score": evidence.score if evidence.intent else None,
        "threshold": evidence.threshold if evidence.intent else None,
        "confidence": evidence.confidence if evidence.intent else None,
        "confidence_alone": evidence.confidence_alone if evidence.intent else None,
        "difficulty": evidence.hardness.score if evidence.hardness else None,
        "scorer": evidence.scorer,
        "hardness_by": evidence.hardness.by if evidence.hardness else "",
        "catalog_version": decision.catalog_version,
    }


def _of_answer(done: Done) -> dict[str, Any]:
    return {
        "answer_confidence": done.confidence,
        "prompt_tokens": done.usage.prompt_tokens,
        "cached_tokens": done.usage.cached_tokens,
        "completion_tokens": done.usage.completion_tokens,
        "queue_ms": done.timings.queue_ms,
        "ttft_ms": done.timings.ttft_ms or None,
        "cost": done.cost.amount if done.cost else None,
        "currency": done.cost.currency if done.cost else "",
    }
