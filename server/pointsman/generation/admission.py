"""A bounded queue in front of something with a fixed number of places."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pointsman.errors import OverloadedError


class Admission:
    """First come, first served; rejects at once when the queue is full."""

    def __init__(self, name: str, slots: int, queue_limit: int) -> None:
        self._name = name
        self._slots = slots
        self._limit = queue_limit
        self._semaphore = asyncio.Semaphore(slots)
        self._seconds = 1.0  # smoothed time that a place is held
        self.waiting = 0
        self.held = 0

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[float, None]:
        """Hold a place; yields the wait in milliseconds.

        Raises:
            OverloadedError: the queue is full.

        """
        if self._semaphore.locked() and self.waiting >= self._limit:
            raise OverloadedError(
                f"{self._name} is full: {self._slots} at work, {self.waiting} waiting",
                retry_after_s=self._seconds * (self.waiting + 1) / self._slots,
            )
        arrived = time.perf_counter()
        self.waiting += 1
        try:
            await self._semaphore.acquire()
        finally:
            self.waiting -= 1
        begun = time.perf_counter()
        self.held += 1
        try:
            yield (begun - arrived) * 1e3
        finally:
            self.held -= 1
            self._semaphore.release()
            self._seconds += 0.2 * (time.perf_counter() - begun - self._seconds)
