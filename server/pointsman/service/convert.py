"""Messages of a request to values, and decisions and events to messages."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pointsman.errors import InvalidRequestError
from pointsman.v1 import router_pb2 as pb
from pointsman.values.catalog import CALLER, IDENTIFIER
from pointsman.values.decision import Decision, Hardness, Reason, Routed, RouteTimings
from pointsman.values.events import Done, Escalation, Event, FinishReason, Token
from pointsman.values.ledger import Feedback
from pointsman.values.request import Constraints, Message, Request, Role, Sampling, Tier, size_of

_ROLES = {pb.ROLE_SYSTEM: Role.SYSTEM, pb.ROLE_USER: Role.USER, pb.ROLE_ASSISTANT: Role.ASSISTANT}
TIERS = {Tier.LOCAL: pb.TIER_LOCAL, Tier.MID: pb.TIER_MID, Tier.CLOUD: pb.TIER_CLOUD}
_TIERS = {pb.TIER_UNSPECIFIED: None} | {number: tier for tier, number in TIERS.items()}
# By name: a test holds that every value has its number.
REASONS = {reason: f"DECISION_REASON_{reason.name}" for reason in Reason}
FINISHES = {reason: f"FINISH_REASON_{reason.name}" for reason in FinishReason}
_MAX_TEMPERATURE = 2.0
MAX_STOPS, MAX_STOP = 16, 64
"""Stop strings of a request, and characters of one: what manifests may state too."""
MAX_NAME = 256
"""Characters of what names a specialist, a model or a task type."""
_MAX_SESSION_ID = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one request."""

    prompt_bytes: int
    messages: int


def request_of(
    message: pb.RouteRequest | pb.GenerateRequest,
    limits: Limits,
    request_id: str,
    *,
    caller: str = "",
    budget_s: float | None = None,
    traceparent: str = "",
) -> Request:
    """Check a request and return it as a value.

    caller: what it says in its metadata
    budget_s: time until its deadline; None without one

    Raises:
        InvalidRequestError: names the field, the value and the limit.

    """
    check_session(message.session_id)
    check_caller(caller)
    sampling = _sampling(message.sampling) if isinstance(message, pb.GenerateRequest) else Sampling()
    return Request(
        messages=_messages(message.messages, limits),
        constraints=_constraints(message.constraints, sampling),
        sampling=sampling,
        request_id=request_id,
        session_id=message.session_id,
        caller=caller,
        budget_s=budget_s,
        hold_back=isinstance(message, pb.GenerateRequest) and message.hold_back,
        traceparent=traceparent,
    )


def check_session(session_id: str) -> None:
    """Refuse what is no id of a session: ledger and traces keep it, and no policy reads it there.

    Raises:
        InvalidRequestError: says what an id looks like, or that it is too long.

    """
    if len(session_id) > _MAX_SESSION_ID:
        text = f"{len(session_id)} characters; the limit is {_MAX_SESSION_ID}"
        raise InvalidRequestError("session_id", text)
    if session_id and not re.fullmatch(IDENTIFIER, session_id):
        raise InvalidRequestError("session_id", f"it must match {IDENTIFIER}: an id, not a text")


def check_caller(caller: str) -> None:
    """Refuse what is no name of a caller.

    Raises:
        InvalidRequestError: says what a name looks like.

    """
    if caller and not re.fullmatch(IDENTIFIER, caller):
        text = f"the caller must match {IDENTIFIER} (got {caller[:_MAX_SESSION_ID]!r})"
        raise InvalidRequestError(CALLER, text)


def _messages(messages: Sequence[pb.Message], limits: Limits) -> tuple[Message, ...]:
    check_count(len(messages), limits)
    for i, m in enumerate(messages):
        if m.role not in _ROLES:
            text = f"role {m.role} of message {i} is none of system (1), user (2), assistant (3)"
            raise InvalidRequestError(f"messages[{i}].role", text)
    found = tuple(Message(_ROLES[m.role], m.content) for m in messages)
    check_messages(found, limits)
    return found


def check_count(count: int, limits: Limits) -> None:
    """Refuse a conversation of no messages, or of too many.

    Raises:
        InvalidRequestError: names the limit.

    """
    if not count:
        raise InvalidRequestError("messages", "a request needs at least one message")
    if count > limits.messages:
        text = f"{count} messages; the limit is {limits.messages} (server.max_messages)"
        raise InvalidRequestError("messages", text)


def check_messages(messages: Sequence[Message], limits: Limits) -> None:
    """Refuse a conversation that is too long, or that does not end with a prompt.

    Raises:
        InvalidRequestError: names the message and the limit.

    """
    check_count(len(messages), limits)
    size = size_of(messages)
    if size > limits.prompt_bytes:
        text = (
            f"the conversation is {size} bytes; the limit is {limits.prompt_bytes} (server.max_prompt_bytes)"
        )
        raise InvalidRequestError("messages", text)
    last = len(messages) - 1
    if messages[last].role is not Role.USER:
        raise InvalidRequestError(f"messages[{last}].role", "the last message must be the user's")
    if not messages[last].content.strip():
        raise InvalidRequestError(f"messages[{last}].content", "the prompt is empty")


def _constraints(constraints: pb.Constraints, sampling: Sampling) -> Constraints:
    for field in ("specialist", "task_type"):
        length = len(getattr(constraints, field))
        if length > MAX_NAME:
            text = f"{length} characters; the limit is {MAX_NAME}"
            raise InvalidRequestError(f"constraints.{field}", text)
    if constraints.tier not in _TIERS:
        raise InvalidRequestError("constraints.tier", f"unknown tier {constraints.tier}")
    return Constraints(
        specialist=constraints.specialist or None,
        tier=_TIERS[constraints.tier],
        task_type=constraints.task_type or None,
        local_only=constraints.local_only,
        output_tokens=constraints.output_tokens or sampling.max_tokens or 0,
    )


def _sampling(sampling: pb.Sampling) -> Sampling:
    def given(field: str) -> float | int | None:
        return getattr(sampling, field) if sampling.HasField(field) else None

    temperature, top_p, max_tokens = given("temperature"), given("top_p"), given("max_tokens")
    if temperature is not None and not 0 <= temperature <= _MAX_TEMPERATURE:
        raise InvalidRequestError("sampling.temperature", f"{temperature} is not within 0 and 2")
    if top_p is not None and not 0 < top_p <= 1:
        raise InvalidRequestError("sampling.top_p", f"{top_p} is not within 0 and 1")
    if max_tokens == 0:
        raise InvalidRequestError("sampling.max_tokens", "0 tokens are no answer")
    if len(sampling.stop) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP for stop in sampling.stop):
        text = f"at most {MAX_STOPS} stop strings, none of them empty or over {MAX_STOP} characters"
        raise InvalidRequestError("sampling.stop", text)
    seed = given("seed")
    return Sampling(
        temperature=temperature,
        top_p=top_p,
        max_tokens=None if max_tokens is None else int(max_tokens),
        seed=None if seed is None else int(seed),
        stop=tuple(sampling.stop),
        logprobs=sampling.logprobs,
    )


def decision_message(decision: Decision) -> pb.Decision:
    """Return a decision as a message."""
    evidence = decision.evidence
    return pb.Decision(
        tier=TIERS[decision.tier],
        specialist=decision.specialist or "",
        intent=evidence.intent or "",
        similarity=evidence.similarity,
        confidence=evidence.confidence,
        reason=REASONS[decision.reason],
        explanation=decision.explanation,
        neighbors=[
            pb.Neighbor(exemplar_id=n.exemplar_id, intent=n.intent, similarity=n.similarity, text=n.text)
            for n in evidence.neighbors
        ],
        catalog_version=decision.catalog_version,
        score=evidence.score,
        threshold=evidence.threshold,
        scores=[pb.IntentScore(intent=s.intent, score=s.score) for s in evidence.scores],
        model=decision.model,
        required_confidence=evidence.required_confidence,
        rule=decision.rule,
        difficulty=_difficulty_message(evidence.hardness),
    )


def _difficulty_message(hardness: Hardness | None) -> pb.Difficulty | None:
    return pb.Difficulty(score=hardness.score, threshold=hardness.threshold) if hardness else None


def feedback_of(message: pb.FeedbackRequest, limits: Limits, caller: str) -> Feedback:
    """Return what a caller says of a request.

    Raises:
        InvalidRequestError: no request is named, or a text is too long.

    """
    if not re.fullmatch(IDENTIFIER, message.request_id):
        raise InvalidRequestError("request_id", f"must match {IDENTIFIER} (got {message.request_id[:128]!r})")
    for field in ("intent", "answer", "comment"):
        size = len(getattr(message, field).encode())
        if size > limits.prompt_bytes:
            raise InvalidRequestError(field, f"{size} bytes are over the limit of {limits.prompt_bytes}")
    if "\0" in message.answer + message.comment:  # which no database takes
        raise InvalidRequestError("answer", "holds a NUL character")
    accepted = message.accepted if message.HasField("accepted") else None
    return Feedback(message.request_id, caller, accepted, message.intent, message.answer, message.comment)


def route_message(routed: Routed) -> pb.RouteResponse:
    """Return a routed request as a message."""
    return pb.RouteResponse(
        decision=decision_message(routed.decision), timings=timings_message(routed.timings)
    )


def timings_message(timings: RouteTimings) -> pb.RouteTimings:
    """Return timings as a message."""
    return pb.RouteTimings(
        queue_ms=timings.queue_ms,
        embed_ms=timings.embed_ms,
        search_ms=timings.search_ms,
        total_ms=timings.total_ms,
    )


def event_message(event: Event) -> pb.GenerateResponse:
    """Return one event of an answer as a message."""
    match event:
        case Token():
            return pb.GenerateResponse(token=pb.Token(text=event.text, logprob=event.logprob))
        case Routed():
            return pb.GenerateResponse(decision=decision_message(event.decision))
        case Escalation():
            return pb.GenerateResponse(
                escalation=pb.Escalation(
                    decision=decision_message(event.decision),
                    retract_from=event.retract_from,
                    explanation=event.explanation,
                )
            )
        case Done():
            return pb.GenerateResponse(done=_done_message(event))


def _done_message(done: Done) -> pb.Done:
    return pb.Done(
        finish_reason=FINISHES[done.finish_reason],
        usage=pb.Usage(
            prompt_tokens=done.usage.prompt_tokens,
            completion_tokens=done.usage.completion_tokens,
            cached_tokens=done.usage.cached_tokens,
        ),
        timings=pb.GenerateTimings(
            route=timings_message(done.timings.route),
            queue_ms=done.timings.queue_ms,
            ttft_ms=done.timings.ttft_ms,
            total_ms=done.timings.total_ms,
        ),
        cost=None if done.cost is None else pb.Cost(currency=done.cost.currency, amount=done.cost.amount),
        confidence=done.confidence,
        low_confidence=done.shortfall is not None,
    )
