"""New versions of specialists on trial: who answers, who is asked beside it, and how both do.

Belongs to the event loop. Knows no files: what becomes of a candidate is handed on, once a stage.
"""

import asyncio
import contextvars
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace

import structlog

from pointsman.decision.trial import Course, Verdict, judge
from pointsman.errors import PointsmanError, for_log
from pointsman.generation.likeness import Likeness
from pointsman.values.catalog import Catalog, Output, Rollout, Specialist
from pointsman.values.request import Request
from pointsman.values.rollout import Past, Stage, Tally, Trial

_log = structlog.get_logger()
_PARTS = 1 << 32

Ask = Callable[[Request, Specialist], Awaitable[tuple[str, bool]]]
"""Asks a version for an answer that nobody sees; returns it, and whether it succeeded."""
Decided = Callable[[Rollout, Verdict, Past], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller got in the live version's stead or from it, for a candidate's answer to be held against.

    said: None where it was flagged: nothing to hold an answer against
    output: the format that it has
    success: whether the live version's own answer succeeded
    """

    said: str | None
    output: Output
    success: bool


@dataclass(slots=True)
class _Stage:
    """One stage of one rollout. `before`: what was seen of the live version in the stages before it."""

    rollout: Rollout
    before: Tally
    candidate: Tally = field(default_factory=Tally)
    live: Tally = field(default_factory=Tally)
    same: Tally = field(default_factory=Tally)
    decided: Course = Course.WAIT
    shadows: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def seen(self) -> Tally:
        """Of the live version, in all stages."""
        return self.before + self.live

    @property
    def against(self) -> Tally | None:
        """What the candidate is held against; None where too little was seen of it, and nothing is to come."""
        no_more = self.rollout.stage is Stage.ALL or (
            self.rollout.stage is Stage.CANARY and self.rollout.share == 1
        )
        return None if no_more and self.seen.answers < self.rollout.answers else self.seen


class Trials:
    """Counts answers by version. A stage that is decided stays as it is until its file says what follows."""

    def __init__(self, likeness: Likeness, tasks: asyncio.TaskGroup) -> None:
        self._likeness = likeness
        self._tasks = tasks
        self._decided: Decided | None = None
        self._stages: dict[str, _Stage] = {}

    def tell(self, decided: Decided) -> None:
        """Hand verdicts on to `decided` from now on."""
        self._decided = decided

    def take(self, catalog: Catalog) -> None:
        """Begin the stages of a catalog that serves from now on, and forget what is in it no more."""
        stages = {}
        for rollout in catalog.rollouts:
            before = self._stages.get(rollout.name)
            if before is not None and before.rollout == rollout:
                stages[rollout.name] = before
                continue
            seen = rollout.baseline
            if before is not None and _follows(rollout, before.rollout):
                seen = before.seen  # moved on by hand, its file does not tell it
                if before.decided is Course.WAIT:
                    _log.info(
                        "rollout.moved_by_hand",
                        specialist=rollout.name,
                        stage=str(rollout.stage),
                        candidate=str(before.candidate),
                        live=str(before.live),
                        same=str(before.same),
                    )
            stages[rollout.name] = _Stage(rollout, seen)
        self._stages = stages

    def running(self) -> dict[str, Trial]:
        """Return how the rollouts do in their stages, by specialist."""
        return {
            name: Trial(stage.rollout.stage, stage.candidate, stage.live, stage.same)
            for name, stage in self._stages.items()
        }

    def pick(self, catalog: Catalog, live: Specialist, request: Request) -> Specialist:
        """Return the version that answers. A session, or else a request, always gets the same one."""
        stage = self._stage(catalog, live.name)
        if stage is None or stage.decided is Course.BACK or stage.rollout.stage is Stage.SHADOW:
            return live
        if stage.rollout.stage is Stage.ALL or _falls(request, stage.rollout.share):
            return stage.rollout.candidate
        return live

    def note(self, catalog: Catalog, name: str, version: Specialist, *, success: bool) -> None:
        """Count an answer that a caller got from a version of the specialist `name`."""
        stage = self._stage(catalog, name)
        if stage is None or stage.decided is not Course.WAIT or stage.rollout.stage is Stage.SHADOW:
            return
        self._count(stage, candidate=version == stage.rollout.candidate, success=success)
        self._judge(stage)

    def shadow(self, catalog: Catalog, name: str, request: Request, ask: Ask, given: Given) -> None:
        """Ask the candidate, too, for a share of what callers got: in the background, one at a time."""
        stage = self._stage(catalog, name)
        if (
            stage is None
            or stage.decided is not Course.WAIT
            or stage.rollout.stage is not Stage.SHADOW
            or stage.shadows
        ):
            return
        if not _falls(request, stage.rollout.share):
            return
        task = self._tasks.create_task(
            self._compare(stage, request, ask, given),
            name=f"shadow of {name}",
            context=contextvars.Context(),
        )
        stage.shadows.add(task)
        task.add_done_callback(stage.shadows.discard)

    async def _compare(self, stage: _Stage, request: Request, ask: Ask, given: Given) -> None:
        try:
            text, success = await ask(request, stage.rollout.candidate)
            same = None
            if given.said is not None:
                same = await self._likeness.of(given.output, given.said, text)
        except PointsmanError as error:  # a full queue is nobody's failure; a dead engine is found elsewhere
            _log.info("rollout.shadow_skipped", specialist=stage.rollout.name, error=for_log(error))
            return
        self._count(stage, candidate=False, success=given.success)
        self._count(stage, candidate=True, success=success)
        if same is not None:
            stage.same += Tally(1, int(same.agrees))
        self._judge(stage)

    def _count(self, stage: _Stage, *, candidate: bool, success: bool) -> None:
        counted = Tally(1, int(success))
        if candidate:
            stage.candidate += counted
        else:
            stage.live += counted

    def _judge(self, stage: _Stage) -> None:
        if stage.decided is not Course.WAIT:
            return
        rollout = stage.rollout
        verdict = judge(
            stage.candidate, stage.against, rollout.answers, rollout.bound, stage.same, rollout.agreement
        )
        if verdict.course is Course.WAIT or self._decided is None:
            return
        stage.decided = verdict.course
        past = Past(rollout.stage, stage.candidate, stage.seen, stage.same)
        self._tasks.create_task(
            self._decided(rollout, verdict, past),
            name=f"rollout of {rollout.name}",
            context=contextvars.Context(),
        )

    def _stage(self, catalog: Catalog, name: str) -> _Stage | None:
        """Return the stage that a request's catalog states; None once that is over."""
        stage = self._stages.get(name)
        return stage if stage is not None and stage.rollout == catalog.rollout(name) else None


def _follows(rollout: Rollout, before: Rollout) -> bool:
    """Whether a rollout is a later stage of another one."""
    n = len(before.past)
    same = rollout == replace(before, stage=rollout.stage, past=rollout.past)
    return same and rollout.past[:n] == before.past and len(rollout.past) > n


def _falls(request: Request, share: float) -> bool:
    """Whether a request is one of the share."""
    key = f"{request.caller} {request.session_id}" if request.session_id else request.request_id
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) < share * _PARTS
