"""New versions of specialists on trial: who answers, who is asked beside it, and how both do.

Belongs to the event loop. Knows no files: what becomes of a candidate is handed on, once a stage.
"""

import asyncio
import contextvars
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

import structlog

from pointsman.decision.trial import Course, Verdict, judge
from pointsman.errors import PointsmanError
from pointsman.values.catalog import Catalog, Rollout, Specialist
from pointsman.values.request import Request
from pointsman.values.rollout import Past, Stage, Tally

_log = structlog.get_logger()
_PARTS = 1 << 32

Ask = Callable[[Request, Specialist], Awaitable[tuple[str, bool]]]
"""Asks a version for an answer that nobody sees; returns it, and whether it succeeded."""
Decided = Callable[[Rollout, Verdict, Past], Coroutine[None, None, None]]


@dataclass(slots=True)
class _Trial:
    """One stage of one rollout."""

    rollout: Rollout
    candidate: Tally = field(default_factory=Tally)
    live: Tally = field(default_factory=Tally)
    agreed: int = 0
    decided: Course = Course.WAIT
    shadows: set[asyncio.Task[None]] = field(default_factory=set)


class Trials:
    """Counts answers by version. A stage that is decided stays as it is until its file says what follows."""

    def __init__(self, decided: Decided, tasks: asyncio.TaskGroup) -> None:
        self._decided = decided
        self._tasks = tasks
        self._trials: dict[str, _Trial] = {}

    def tallies(self, name: str) -> tuple[Tally, Tally] | None:
        """Return how candidate and live version do in this stage; None where nothing is on trial."""
        trial = self._trials.get(name)
        return (trial.candidate, trial.live) if trial else None

    def pick(self, catalog: Catalog, live: Specialist, request: Request) -> Specialist:
        """Return the version that answers. A session, or else a request, always gets the same one."""
        trial = self._trial(catalog, live.name)
        if trial is None or trial.decided is Course.BACK or trial.rollout.stage is Stage.SHADOW:
            return live
        if trial.rollout.stage is Stage.ALL or _falls(request, trial.rollout.share):
            return trial.rollout.candidate
        return live

    def note(self, catalog: Catalog, name: str, version: Specialist, *, success: bool) -> None:
        """Count an answer that a caller got from a version of the specialist `name`."""
        trial = self._trial(catalog, name)
        if trial is None or trial.decided is not Course.WAIT or trial.rollout.stage is Stage.SHADOW:
            return
        self._count(trial, candidate=version == trial.rollout.candidate, success=success)
        self._judge(trial)

    def shadow(
        self, catalog: Catalog, name: str, request: Request, ask: Ask, said: str, *, success: bool
    ) -> None:
        """Ask the candidate, too, for a share of what the live version answered: in the background, one at a time.

        said: what the live version answered
        """
        trial = self._trial(catalog, name)
        if (
            trial is None
            or trial.decided is not Course.WAIT
            or trial.rollout.stage is not Stage.SHADOW
            or trial.shadows
        ):
            return
        if not _falls(request, trial.rollout.share):
            return
        task = self._tasks.create_task(
            self._compare(trial, request, ask, said, success=success),
            name=f"shadow of {name}",
            context=contextvars.Context(),
        )
        trial.shadows.add(task)
        task.add_done_callback(trial.shadows.discard)

    async def _compare(self, trial: _Trial, request: Request, ask: Ask, said: str, *, success: bool) -> None:
        try:
            text, succeeded = await ask(request, trial.rollout.candidate)
        except PointsmanError as error:  # a full queue is nobody's failure; a dead engine is found elsewhere
            _log.info("rollout.shadow_skipped", specialist=trial.rollout.name, error=str(error))
            return
        self._count(trial, candidate=False, success=success)
        self._count(trial, candidate=True, success=succeeded)
        trial.agreed += text == said
        self._judge(trial)

    def _count(self, trial: _Trial, *, candidate: bool, success: bool) -> None:
        side = trial.candidate if candidate else trial.live
        counted = side + Tally(1, int(success))
        if candidate:
            trial.candidate = counted
        else:
            trial.live = counted

    def _judge(self, trial: _Trial) -> None:
        if trial.decided is not Course.WAIT:
            return
        rollout = trial.rollout
        live = rollout.baseline + trial.live
        verdict = judge(trial.candidate, live, rollout.answers, rollout.bound)
        if verdict.course is Course.WAIT:
            return
        trial.decided = verdict.course
        past = Past(rollout.stage, trial.candidate, live, trial.agreed)
        self._tasks.create_task(
            self._decided(rollout, verdict, past),
            name=f"rollout of {rollout.name}",
            context=contextvars.Context(),
        )

    def _trial(self, catalog: Catalog, name: str) -> _Trial | None:
        rollout = catalog.rollout(name)
        if rollout is None:
            self._trials.pop(name, None)
            return None
        trial = self._trials.get(name)
        if trial is None or trial.rollout != rollout:
            trial = self._trials[name] = _Trial(rollout)
        return trial


def _falls(request: Request, share: float) -> bool:
    """Whether a request is one of the share."""
    key = f"{request.caller} {request.session_id}" if request.session_id else request.request_id
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) < share * _PARTS
