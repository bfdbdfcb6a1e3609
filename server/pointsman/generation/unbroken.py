"""What has to be done to its end once it is begun, whoever gives up waiting for it."""

import asyncio
from typing import Any


async def ended(task: asyncio.Future[Any]) -> None:
    """Return once a task is done, however that may be; being cancelled, and be it often, takes effect after it."""
    given_up: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            given_up = error
    if given_up is not None:
        _ = task.cancelled() or task.exception()  # seen: nobody else will look
        raise given_up
