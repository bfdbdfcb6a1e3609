"""What has to be done to its end once it is begun, whoever gives up waiting for it."""

import asyncio
from typing import Any


async def ended(task: asyncio.Future[Any], grace_s: float | None = None) -> None:
    """Return once a task is done, however that may be; being cancelled, and be it often, takes effect after it.

    grace_s: how long the task may still take once that has happened; None: as long as it likes
    """
    given_up: asyncio.CancelledError | None = None
    end: float | None = None
    loop = asyncio.get_running_loop()
    while not task.done():
        try:
            await asyncio.wait([task], timeout=None if end is None else max(0.0, end - loop.time()))
            if end is not None and loop.time() >= end:
                task.cancel()  # once: what it still does to its end is not to be broken off, too
                end = None
        except asyncio.CancelledError as error:
            if given_up is None and grace_s is not None:
                end = loop.time() + grace_s
            given_up = error
    if given_up is not None:
        _ = task.cancelled() or task.exception()  # seen: nobody else will look
        raise given_up
