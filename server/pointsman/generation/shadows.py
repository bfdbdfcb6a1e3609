"""A share of local answers, asked of the cloud too: how often both agree. Nobody waits for it.

Belongs to the event loop. What may not leave is not asked, and what it costs is bounded: by minute and by day.
"""

import asyncio
import contextvars
import json
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from pointsman.decision.compare import agreement, judged
from pointsman.errors import BackendDownError, PointsmanError, PolicyError, for_log
from pointsman.generation.answer import Answer
from pointsman.generation.backend import Question
from pointsman.generation.cloud import Cloud
from pointsman.generation.egress import Egress
from pointsman.generation.likeness import Embed, Likeness
from pointsman.generation.prompt import escalated_question, judge_question
from pointsman.sections import Shadow as ShadowSettings
from pointsman.values.catalog import Specialist
from pointsman.values.events import Cost, FinishReason, Usage
from pointsman.values.ledger import Comparison

_log = structlog.get_logger()
_AT_ONCE = 2


class Book(Protocol):
    """Where comparisons are kept."""

    def keep(self, row: Comparison) -> None:
        """Take one; returns at once."""

    def spent(self, since: float) -> float:
        """Return what comparisons since a moment, in Unix seconds, cost. Blocking.

        Raises:
            BackendDownError: that cannot be read.

        """


class Shadows:
    """Asks, compares and keeps. `skipped` counts what was drawn and not asked, by the reason."""

    def __init__(
        self,
        settings: ShadowSettings,
        cloud: Cloud,
        embed: Embed,
        book: Book,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._cloud = cloud
        self._likeness = Likeness(embed, settings.similar)
        self._book = book
        self._tasks = tasks
        self._rates = MovingWindowRateLimiter(MemoryStorage())
        self._running: set[asyncio.Task[None]] = set()
        self._day = ""
        self._spent = 0.0
        self._reading = asyncio.Lock()
        self._unbounded_on = ""
        self.skipped: Counter[str] = Counter()

    def draw(self) -> bool:
        """Whether a request is one of the share."""
        return random.random() < self._settings.share  # noqa: S311 - a sample

    def take(self, answer: Answer, specialist: Specialist, egress: Egress) -> None:
        """Ask the cloud, in the background, what a specialist has answered; or count why not."""
        if why := self._why_not():
            self.skipped[why] += 1
            return
        task = self._tasks.create_task(
            self._compare(answer, specialist, egress),
            name=f"shadow of {answer.request.request_id}",
            context=contextvars.Context(),
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def stop(self) -> None:
        """Ask nothing more, and leave what is being asked."""
        for task in self._running:
            task.cancel()

    def _why_not(self) -> str:
        unbounded = self._unbounded_on == _today()
        if unbounded or self._cloud.cost(self._cloud.settings.model, Usage()) is None:
            return "no price"
        if len(self._running) >= _AT_ONCE:
            return "busy"
        if self._day == _today() and self._spent >= self._settings.budget_per_day:
            return "budget"
        if not self._rates.hit(RateLimitItemPerMinute(self._settings.per_minute), "shadows"):
            return "rate"
        return ""

    async def _compare(self, answer: Answer, specialist: Specialist, egress: Egress) -> None:
        try:
            await self._read_the_book()
            if self._spent >= self._settings.budget_per_day:
                self.skipped["budget"] += 1
                return
            row = await self._row(answer, specialist, egress)
        except PointsmanError as error:
            self.skipped["policy" if isinstance(error, PolicyError) else "failed"] += 1
            _log.info("shadow.failed", request_id=answer.request.request_id, error=for_log(error))
            return
        except Exception as error:  # noqa: BLE001 - nobody waits for it, and nothing may end with it
            self.skipped["failed"] += 1
            _log.error("shadow.failed", request_id=answer.request.request_id, error=repr(error)[:200])
            return
        self._book.keep(row)

    async def _read_the_book(self) -> None:
        """Learn what was spent today, by a process before this one too."""
        async with self._reading:  # the second of a day would forget what the first has spent meanwhile
            today = _today()
            if self._day != today:
                midnight = datetime.fromisoformat(today).replace(tzinfo=UTC).timestamp()
                self._spent = await asyncio.to_thread(self._book.spent, midnight)
                self._day = today

    async def _row(self, answer: Answer, specialist: Specialist, egress: Egress) -> Comparison:
        settings, local = self._cloud.settings, answer.finished
        assert local is not None  # noqa: S101 - it is taken once it has ended
        beside = answer.aside()
        question = escalated_question(answer.request, specialist, settings, "")
        text, cost = await self._ask(beside, question, egress, specialist.output.format)
        found = agreement(specialist.output, answer.said, text)
        judge = found is None and self._settings.free_text == "judge"
        if judge and not await egress.repeats(beside, question, answer.said, text):
            judging = judge_question(answer.request, answer.said, text)
            with suppress(PointsmanError):  # what is paid for is kept: then they are compared by meaning
                reply, more = await self._ask(beside, judging, egress)
                cost = replace(cost, amount=cost.amount + more.amount)
                found = judged(reply)
        return Comparison(
            time=time.time(),
            request_id=answer.request.request_id,
            caller=answer.request.caller,
            specialist=specialist.name,
            model=settings.model,
            **asdict(found or await self._likeness.by_meaning(answer.said, text)),
            cost=cost.amount,
            currency=cost.currency,
            answers_hash=specialist.answers_hash,
            cut=local.reason is FinishReason.LENGTH,
            logprobs=json.dumps(answer.logprobs),
            answer=text,
        )

    async def _ask(
        self, beside: Answer, question: Question, egress: Egress, output: str = "text"
    ) -> tuple[str, Cost]:
        model = self._cloud.settings.model
        text, finished = await egress.whole(beside, question, model, output)
        cost = self._cloud.cost(model, finished.usage)
        if cost is None:
            raise BackendDownError(f"the model {model!r} has no price any more")
        if finished.usage == Usage():
            self._unbounded_on = _today()
            raise BackendDownError(f"the model {model!r} tells no tokens, so nothing bounds what it costs")
        self._spent += cost.amount
        return text, cost


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"
