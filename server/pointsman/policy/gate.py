"""A conversation to what the policy says of it, before anything else is done with it. Knows no route."""

import asyncio
import string
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from pointsman.errors import PolicyError
from pointsman.policy.detect import BUDGET_S, Detector
from pointsman.policy.redact import Redaction, redact
from pointsman.policy.repetition import repeats
from pointsman.values.policy import (
    NOTHING_FOUND,
    STRICTNESS,
    UNREADABLE,
    Action,
    Finding,
    Policy,
    Screening,
    Span,
)
from pointsman.values.request import Message, Request, Role

_log = structlog.get_logger()
_INLINE_COST = 4096
"""What is read on the event loop, in a few milliseconds: a character counts one; more is read on a thread."""
_COST_OF_A_DIGIT = 64
"""Every recogniser of numbers looks at each: telephone numbers, cards and the rest (`benchmarks/policy.py`)."""
_COST_OF_OTHERS = 4
"""What is not ASCII is read character by character, and perhaps in two ways."""


@dataclass(frozen=True, slots=True)
class Outbound:
    """Messages that may leave, and how their placeholders are put right in the answer."""

    messages: tuple[Message, ...]
    redaction: Redaction
    screening: Screening
    stop: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[Message, ...]:
        """All that leaves, the texts that end the answer as messages."""
        return (*self.messages, *_as_messages(self.stop))


class Gate:
    """Applies one policy at a time; `replace` changes it. Without a detector everything may leave."""

    def __init__(
        self,
        policy: Policy | None = None,
        detector: Detector | None = None,
        known: Callable[[], bool] = lambda: True,
        budget_s: float = BUDGET_S,
    ) -> None:
        """Apply a policy.

        known: whether callers show who they are, or only say so
        budget_s: of a processor, for one conversation; what is not read by then stays local
        """
        self._budget_s = budget_s
        self._policy = policy or Policy()
        self._detector = detector
        self._known = known
        self._stored: tuple[Policy, Detector] | None = None

    def replace(self, policy: Policy, detector: Detector) -> None:
        """Apply another policy from now on."""
        self._policy, self._detector = policy, detector

    def redact_stored(self, policy: Policy, detector: Detector) -> None:
        """While there is no policy, take out of texts that are stored what this one names."""
        self._stored = (policy, detector)

    async def admit(self, request: Request) -> Request:
        """Return a request with what the policy says of it; one that stays local is marked as such.

        Raises:
            PolicyError: the policy refuses it.

        """
        if self._detector is None:
            return request
        said = (*request.messages, *_as_messages(request.sampling.stop))
        screening = (await self._read(said, request.caller)).screening
        if screening.action is Action.REFUSE:
            kinds = screening.describe(Action.REFUSE)
            raise PolicyError(f"the policy refuses what the conversation holds: {kinds}", screening)
        constraints = request.constraints
        if screening.action is Action.STAY_LOCAL:
            constraints = replace(constraints, local_only=True)
        return replace(request, constraints=constraints, screening=screening)

    async def outbound(
        self, messages: tuple[Message, ...], request: Request, stop: tuple[str, ...] = ()
    ) -> Outbound:
        """Return messages as they may leave for the cloud: of the conversation, a system prompt, perhaps a draft.

        stop: texts that end the answer; they leave too, and count as messages after the last one

        Raises:
            PolicyError: they hold what stays local.

        """
        if request.constraints.local_only:  # nothing that asks the cloud should have come so far
            raise PolicyError("the conversation must stay local")
        if self._detector is None:
            return Outbound(messages, Redaction(), NOTHING_FOUND, stop)
        count, messages = len(messages), (*messages, *_as_messages(stop))
        read = await self._read(messages, request.caller)
        if read.screening.action in {Action.STAY_LOCAL, Action.REFUSE}:
            kinds = read.screening.describe(Action.STAY_LOCAL, Action.REFUSE)
            raise PolicyError(f"the policy keeps local what the messages hold: {kinds}", read.screening)
        redacted, redaction = redact(messages, read.to_redact)
        left = tuple(message.content for message in redacted[count:])
        return Outbound(redacted[:count], redaction, read.screening, left)

    async def repeats(self, messages: Sequence[Message], request: Request, *texts: str) -> bool:
        """Whether texts that were written from messages hold a piece of what is redacted in those.

        What detection finds in the texts is redacted in them as well, and does not count. So that a placeholder
        keeps what it stands for, a text of which this holds must not leave at all.
        """
        if self._detector is None:
            return False
        written = (Message(Role.ASSISTANT, text) for text in texts)
        found = (await self._read((*messages, *written), request.caller)).to_redact
        count = len(messages)
        values = [
            m.content[s.start : s.end] for m, spans in zip(messages, found, strict=False) for s in spans
        ]
        return any(repeats(text, spans, values) for text, spans in zip(texts, found[count:], strict=True))

    def redacted(self, text: str, caller: str = "") -> str:
        """Return a text as it may be stored: everything that the policy is about replaced."""
        return self.redacted_together((text,), caller)[0]

    def redacted_together(self, texts: Sequence[str], caller: str = "") -> tuple[str, ...]:
        """Return texts as they may be stored; the same original gets the same placeholder in all of them."""
        policy, detector = (self._policy, self._detector)
        if detector is None and self._stored is not None:
            policy, detector = self._stored
        if detector is None:
            return tuple(texts)
        known = self._known()
        messages, spans = [], []
        for text in texts:
            try:
                found = detector.find(text)
            except Exception:  # noqa: BLE001 - whatever fails, nothing is stored
                text, found = "", ()  # noqa: PLW2901
            messages.append(Message(Role.USER, text))
            spans.append(
                tuple(s for s in found if policy.action(s.kind, caller, known=known) is not Action.ALLOW)
            )
        return tuple(message.content for message in redact(tuple(messages), spans)[0])

    async def _read(self, messages: Sequence[Message], caller: str) -> "_Read":
        policy, detector, known = self._policy, self._detector, self._known()
        assert detector is not None  # noqa: S101 - asked only with one
        cheap = sum(_cost(message.content) for message in messages) <= _INLINE_COST
        if cheap and not policy.patterns:  # nobody knows how long a company's own take
            spans = tuple(_spans(messages, detector, self._budget_s))
        else:
            spans = await asyncio.to_thread(lambda: tuple(_spans(messages, detector, self._budget_s)))
        findings = tuple(
            Finding(i, span.kind, span.end - span.start, policy.action(span.kind, caller, known=known))
            for i, found in enumerate(spans)
            for span in found
        )
        action = max((finding.action for finding in findings), key=STRICTNESS.index, default=Action.ALLOW)
        to_redact = tuple(
            tuple(span for span in found if policy.action(span.kind, caller, known=known) is Action.REDACT)
            for found in spans
        )
        return _Read(Screening(action, findings), to_redact)


@dataclass(frozen=True, slots=True)
class _Read:
    """What was found, and the spans of each message that are replaced before it leaves."""

    screening: Screening
    to_redact: tuple[tuple[Span, ...], ...]


def _as_messages(stop: Sequence[str]) -> tuple[Message, ...]:
    return tuple(Message(Role.USER, text) for text in stop)


def _cost(text: str) -> int:
    """Return about how long detection takes for a text; only for one that may be cheap is it looked at."""
    if len(text) > _INLINE_COST:
        return len(text)
    written = text.encode(errors="surrogatepass")
    digits = len(written) - len(written.translate(None, string.digits.encode()))
    return len(text) + _COST_OF_A_DIGIT * digits + _COST_OF_OTHERS * (len(written) - len(text))


def _spans(messages: Sequence[Message], detector: Detector, budget_s: float) -> Iterator[tuple[Span, ...]]:
    until = time.thread_time() + budget_s  # for all of them
    for message in messages:
        unread = (Span(UNREADABLE, 0, len(message.content)),)  # what nobody could read stays here
        if time.thread_time() > until:
            _log.error("policy.detection_failed", error="it takes too long")
            yield unread
            continue
        try:
            yield detector.find(message.content)
        except Exception as error:  # noqa: BLE001 - whatever it is
            _log.error("policy.detection_failed", error=type(error).__name__)
            yield unread
