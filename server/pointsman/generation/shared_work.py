"""Work that several requests wait for, and that is done once. It goes on whoever leaves."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any

from pointsman.errors import PointsmanError

Job = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work, and since when it is done. Its task raises nothing: `error` is what went wrong."""

    task: asyncio.Task[PointsmanError | None]
    since: float

    @property
    def done_for_s(self) -> float:
        """How long it has been worked on."""
        return asyncio.get_running_loop().time() - self.since

    def ensure_done(self) -> None:
        """Raise what went wrong, if anything did."""
        if error := self.task.result():
            raise error


class SharedWork:
    """Pieces of work by name. `tasks` owns them."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._works: dict[Hashable, Work] = {}

    def begin(self, name: Hashable, job: Job) -> Work:
        """Return the work of that name, begun now unless it goes on already."""

        async def run() -> PointsmanError | None:
            try:
                await job()
            except PointsmanError as error:
                return error
            return None

        if name not in self._works:
            # In a context of its own: the request that is first lends its id to no log line of the others.
            task = self._tasks.create_task(run(), name=str(name), context=contextvars.Context())
            self._works[name] = Work(task, asyncio.get_running_loop().time())
            task.add_done_callback(lambda _: self._works.pop(name))
        return self._works[name]
