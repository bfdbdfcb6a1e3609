"""Router and generator as the service sees them, with every request noted on its way out."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from pointsman.errors import (
    BackendDownError,
    InvalidRequestError,
    PointsmanError,
    PolicyError,
    PreconditionError,
    UnknownNameError,
    for_log,
)
from pointsman.generation.generator import Generator
from pointsman.ledger.auditor import Auditor
from pointsman.ledger.entries import Story, failed_as, kept_out, outcome_of
from pointsman.ledger.metrics import Metrics
from pointsman.ledger.shortfalls import FINE, Shortfalls
from pointsman.ledger.writer import LedgerWriter
from pointsman.router.router import Router
from pointsman.sections import Cascade as CascadeSettings
from pointsman.values.catalog import IDENTIFIER
from pointsman.values.decision import Decision, Reason, Routed, RouteTimings
from pointsman.values.events import Done, Escalation, Event, Shortfall, Token
from pointsman.values.ledger import Feedback
from pointsman.values.policy import NOTHING_FOUND
from pointsman.values.request import Request

if TYPE_CHECKING:
    from pointsman.ledger.telemetry import Telemetry

_log = structlog.get_logger()
_NOTED_AFTER_S = 0.02
"""How long what is known of a routed request waits to be noted: with others, and not between a reply and the next request."""
_REQUESTS = ("Route", "Generate")
_ROW_EVERY_S = 10.0
"""Of one caller, refused at the door for one kind of reason."""
_MOST_REMEMBERED = 1000
"""Such callers and reasons: where everybody comes in, names are as many as somebody thinks up."""
_LOGGED, _BORDER = 4096, 512
"""Characters of a prompt that are logged, and of what was cut that may have been read as something else."""


class Recorder:
    """Answers requests, and notes each: metrics, and one log line. Prompt text only when switched on."""

    def __init__(
        self,
        router: Router,
        generator: Generator,
        metrics: Metrics,
        *,
        log_prompts: Callable[[str, str], str] | None = None,
        cascade: CascadeSettings = CascadeSettings(),  # noqa: B008 - frozen
        auditor: Auditor | None = None,
        ledger: LedgerWriter | None = None,
        log_text: bool = False,
        telemetry: "Telemetry | None" = None,
        log_together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Note to all that are given.

        log_prompts: makes a prompt fit to be logged, for a caller; without it, none is
        log_together: writes what is logged within it in one go
        """
        self._log_together = log_together
        self._telemetry = telemetry
        self._auditor = auditor or Auditor(None)
        self._ledger = ledger
        self._log_text = log_text
        self._router = router
        self._generator = generator
        self._metrics = metrics
        self._shortfalls = Shortfalls(cascade)
        metrics.watch_shortfalls(self._shortfalls)
        self._log_prompts = log_prompts
        self._unnoted: list[tuple[Story, Routed]] = []
        self._kept_out: dict[tuple[str, type[BaseException]], tuple[float, int]] = {}
        """By caller and error: when a row was last written, and how many have had none since."""

    async def route(self, request: Request) -> Routed:
        """Decide; see `Router.route`."""
        story = Story.of(request, "route")
        outcome = "cancelled"  # unless it ends in another way
        try:
            routed = (await self._router.route(request)).routed
            outcome = ""  # noted later
        except PointsmanError as error:
            error.noted = True
            outcome = failed_as(error)
            if isinstance(error, PolicyError):
                self._auditor.ended(request, None, "refused", error.found)
            _log.warning("route.failed", **self._subject(request), error=for_log(error))
            raise
        except Exception:  # goes on to the guard, which logs it
            outcome = "failed"
            raise
        finally:
            if outcome:
                self._keep(story, outcome)
        story.decided(routed)
        if not self._unnoted:
            asyncio.get_running_loop().call_later(_NOTED_AFTER_S, self.note_routes)
        self._unnoted.append((story, routed))
        return routed

    def note_routes(self) -> None:
        """Note the requests that were routed since this was last done."""
        waiting, self._unnoted = self._unnoted, []
        with self._log_together():
            for story, routed in waiting:
                self._note_route(story, routed)

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        """Decide and answer; see `Generator.generate`."""
        subject, story = self._subject(request), Story.of(request, "generate")
        local = _Local()
        found = NOTHING_FOUND
        outcome = "cancelled"  # unless the answer ends in another way
        try:
            async with aclosing(self._generator.generate(request)) as events:
                async for event in events:
                    match event:
                        case Routed():
                            story.decided(event)
                            found = event.screening
                            local.begin(event.decision)
                            self._metrics.decided(event.decision, event.timings)
                        case Escalation():
                            story.moved(event)
                            local.move(event)
                            self._metrics.escalated(event.decision)
                        case Done():
                            outcome, story.done = outcome_of(story.decision, event), event
                            local.end(event)
                            self._note_done(subject, story.decision, event)
                        case Token():
                            story.pieces += 1
                            story.said += event.text if self._log_text else ""
                    yield event
        except PointsmanError as error:
            outcome, story.retries = failed_as(error), error.retries
            if isinstance(error, PolicyError):
                found = error.found
            local.fail(error)
            error.noted = True
            _log.warning(
                "generate.failed",
                **subject,
                **_fields(story.decision),
                pieces=story.pieces,
                error=self._why(error, request),
            )
            raise
        except Exception:  # goes on to the guard, which logs it
            outcome = "failed"
            raise
        finally:
            self._note_local(local)
            self._auditor.ended(request, story.decision, outcome, found)
            self._keep(story, outcome)
            if outcome == "cancelled":
                _log.info("generate.cancelled", **subject, **_fields(story.decision), pieces=story.pieces)

    async def feedback(self, said: Feedback) -> None:
        """Keep what a caller says of a request of theirs.

        Raises:
            InvalidRequestError, UnknownNameError, UnknownRequestError, PreconditionError, BackendDownError

        """
        if self._ledger is None:
            raise PreconditionError("no ledger is kept; set ledger.enabled")
        if said.accepted is None and not (said.intent or said.answer or said.comment):
            raise InvalidRequestError("accepted", "says nothing: set accepted, intent, answer or comment")
        if (said.answer or said.comment) and not self._log_text:
            raise PreconditionError("answers and comments are texts, and none is kept; set ledger.text")
        known = [intent.name for intent in self._router.snapshot.catalog.intents]
        if said.intent and said.intent not in known:
            raise UnknownNameError("intent", said.intent, known)
        await asyncio.to_thread(self._ledger.rate, said)

    def kept_out(self, method: str, request_id: str, caller: str, error: BaseException) -> None:
        """Note a call that was refused at the door; its sender chooses how many come, so few have a row of their own."""
        if self._ledger is None or method not in _REQUESTS:
            return
        caller = caller if re.fullmatch(IDENTIFIER, caller) else ""  # that may be why
        now, kind = time.monotonic(), (caller, type(error))
        if kind not in self._kept_out and len(self._kept_out) >= _MOST_REMEMBERED:
            of_late = {key: value for key, value in self._kept_out.items() if now - value[0] < _ROW_EVERY_S}
            self._kept_out = of_late
        noted, more = self._kept_out.get(kind, (float("-inf"), 0))
        if now - noted >= _ROW_EVERY_S and (kind in self._kept_out or len(self._kept_out) < _MOST_REMEMBERED):
            self._kept_out[kind] = now, 0
            self._ledger.note(kept_out(method.lower(), request_id, caller, error, more))
        else:
            self._ledger.unkept += 1
            if kind in self._kept_out:
                self._kept_out[kind] = noted, more + 1

    def _note_route(self, story: Story, routed: Routed) -> None:
        self._keep(story, "ok")
        self._metrics.decided(routed.decision, routed.timings)
        subject = self._subject(story.request)
        _log.info("route.decided", **subject, **_fields(routed.decision), **_times(routed.timings))

    def _keep(self, story: Story, outcome: str) -> None:
        """Give telemetry and the ledger what became of a request."""
        if self._telemetry is not None:
            try:
                self._telemetry.note(story, outcome)
            except Exception as error:  # noqa: BLE001 - whatever it is, requests go on
                _log.error("telemetry.failed", error=repr(error)[:200])
        if self._ledger is None:
            return
        entry = story.entry(outcome)
        if self._log_text:
            answer = story.said if story.method == "generate" else None
            entry = replace(entry, prompt=story.request.prompt, answer=answer)
        self._ledger.note(entry)

    def _note_local(self, local: "_Local") -> None:
        if local.specialist is not None and local.outcome is not None:
            self._metrics.came_out(local.specialist, local.outcome)
            if local.outcome != Shortfall.DEADLINE:  # that is the load's fault
                self._shortfalls.note(local.specialist, local.outcome)

    def _note_done(self, subject: dict[str, object], decision: Decision | None, done: Done) -> None:
        assert decision is not None  # noqa: S101 - the decision comes first
        self._metrics.answered(decision, done)
        _log.info(
            "generate.done",
            **subject,
            **_fields(decision),
            **_times(done.timings.route),
            slot_wait_ms=round(done.timings.queue_ms, 2),
            ttft_ms=round(done.timings.ttft_ms, 2),
            answer_ms=round(done.timings.total_ms, 2),
            prompt_tokens=done.usage.prompt_tokens,
            cached_tokens=done.usage.cached_tokens,
            completion_tokens=done.usage.completion_tokens,
            finish=str(done.finish_reason),
            cost=done.cost.amount if done.cost else None,
            confidence=None if done.confidence is None else round(done.confidence, 4),
            shortfall=str(done.shortfall) if done.shortfall else None,
        )

    def _why(self, error: PointsmanError, request: Request) -> str:
        """Return what the log is told of an error; what a backend said of it, where prompts are logged too."""
        if self._log_prompts is None or not error.said:
            return for_log(error)
        return f"{for_log(error)}: {self._log_prompts(error.said, request.caller)}"

    def _subject(self, request: Request) -> dict[str, object]:
        subject: dict[str, object] = {"request_id": request.request_id}
        if self._log_prompts is not None:
            # Redacting takes time, so what is long is cut; what is cut off may be half of something, so more of it goes.
            text = self._log_prompts(request.prompt[: _LOGGED + _BORDER], request.caller)
            subject["prompt"] = text if len(request.prompt) <= _LOGGED + _BORDER else f"{text[:-_BORDER]}…"
        return subject


@dataclass(slots=True)
class _Local:
    """How an answer went that a specialist began. `outcome` is None while it is open, empty when it is fine."""

    specialist: str | None = None
    outcome: str | None = None

    def begin(self, decision: Decision) -> None:
        self.specialist = decision.specialist

    def move(self, event: Escalation) -> None:
        if self.specialist is None:  # the cloud was down; the general specialist begins
            self.specialist = event.decision.specialist
        elif event.shortfall is not None and event.decision.reason is not Reason.REPAIRED:
            self.outcome = str(event.shortfall)

    def end(self, done: Done) -> None:
        self.outcome = self.outcome or str(done.shortfall or FINE)

    def fail(self, error: PointsmanError) -> None:
        if isinstance(error, BackendDownError) and self.outcome is None:
            self.outcome = "failed"


def _fields(decision: Decision | None) -> dict[str, object]:
    if decision is None:
        return {}
    return {
        "tier": str(decision.tier),
        "specialist": decision.specialist,
        "intent": decision.evidence.intent,
        "reason": str(decision.reason),
        "rule": decision.rule or None,
        "similarity": round(decision.evidence.similarity, 4),
        "score": round(decision.evidence.score, 4),
        "catalog": decision.catalog_version,
    }


def _times(timings: RouteTimings) -> dict[str, object]:
    return {
        "queue_ms": round(timings.queue_ms, 2),
        "embed_ms": round(timings.embed_ms, 2),
        "search_ms": round(timings.search_ms, 2),
        "route_ms": round(timings.total_ms, 2),
    }
