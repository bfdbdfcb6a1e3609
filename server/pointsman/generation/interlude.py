"""A moment between two steps of an engine, in which it hears that a stream was closed.

llama.cpp finds a connection closed when it writes the next token to it, and has begun the step after that before the
thread that writes can say so: what was given up is made for one step too many. So whoever closes a stream also asks for
a copy of the cache of an idle slot. The engine makes it between two steps, and meanwhile hears what it has to hear
(benchmarks/results/adapters.md). The copy is nobody's.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pointsman.errors import PointsmanError

BALLAST = "Points are set by hand, by wire, or by motor; " * 5
"""A prompt of some 64 tokens: whoever is first to leave an engine finds a cache to be copied."""
_SHORTEST, _LONGEST = 128, 2048
"""Characters of a prompt whose cache takes long enough to copy, and not too long: 40 tokens take 0.65 ms, 500 half a step."""
_PATIENCE_S = 1.0
"""Somebody may have taken the slot meanwhile: then the engine would make the copy after their answer."""

Post = Callable[[str, dict[str, Any]], Awaitable[Any]]


class Interlude:
    """Asks one engine for such moments."""

    def __init__(self) -> None:
        """Open the file that copies go to, of memory and without a name.

        Raises:
            OSError: there are no more to be had.

        """
        self.file = os.memfd_create("pointsman interlude")
        self._asking: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Give the file back, once the engine is gone too."""
        file, self.file = self.file, -1  # the number may be another file's from now on
        os.close(file)

    def ask(self, idle: list[tuple[int, str]], post: Post) -> None:
        """Ask for one, unless one is to come; returns at once.

        idle: numbers of slots that nobody has, with the prompts that they hold; the shortest that will do is copied
        """
        will_do = [(len(text), number) for number, text in idle if _SHORTEST <= len(text) <= _LONGEST]
        if will_do and (self._asking is None or self._asking.done()):
            self._asking = asyncio.ensure_future(self._copy(min(will_do)[1], post))

    async def _copy(self, number: int, post: Post) -> None:
        with suppress(PointsmanError, TimeoutError):  # the stream ends a step later
            async with asyncio.timeout(_PATIENCE_S):
                await post(f"/slots/{number}?action=save", {"filename": str(self.file)})
        with suppress(OSError):  # closed meanwhile
            os.ftruncate(self.file, 0)


@contextmanager
def interlude(*, wanted: bool) -> Iterator[Interlude | None]:
    """Open one, where the system has such files."""
    if not wanted or not hasattr(os, "memfd_create"):
        yield None
        return
    try:
        opened = Interlude()
    except OSError:  # no more files: streams end a step later
        yield None
        return
    try:
        yield opened
    finally:
        opened.close()
