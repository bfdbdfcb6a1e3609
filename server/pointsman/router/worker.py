"""The encoder's thread, behind a bounded queue: async callers in, evidence out.

One thread, because the encoder has the cores it was given and no more; a full queue rejects at once.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pointsman.embedding.encoder import Encoder, Rows
from pointsman.errors import OverloadedError
from pointsman.router.snapshot import Matcher
from pointsman.values.decision import Evidence

_SEARCH_INLINE = 4096
"""Up to so many exemplars a search takes some tenths of a millisecond: it runs on the event loop, while the
encoder takes the next prompt. Larger catalogs are searched on the encoder's thread."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Evidence, and where the time went in milliseconds."""

    evidence: Evidence
    queue_ms: float
    embed_ms: float
    search_ms: float


class EncoderWorker:
    """Embeds and matches prompts on one named thread."""

    def __init__(self, encoder: Encoder, queue_limit: int) -> None:
        self._encoder = encoder
        self._limit = queue_limit
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._waiting = 0
        self._lock = threading.Lock()  # the count changes on the loop and on the thread
        self._seconds = 0.005  # smoothed time of one prompt, for the advice when to retry

    @property
    def waiting(self) -> int:
        """Prompts in the queue or at work."""
        return self._waiting

    async def match(self, text: str, matcher: Matcher) -> Matched:
        """Embed a text and match it.

        Raises:
            OverloadedError: the queue is full.

        """
        if self._waiting >= self._limit:
            raise OverloadedError(
                f"{self._waiting} prompts already wait for the encoder (encoder.queue_limit)",
                retry_after_s=self._waiting * self._seconds,
            )
        with self._lock:
            self._waiting += 1
        future = self._executor.submit(self._run, text, matcher, time.perf_counter())
        # Counted until the thread is done with it: a caller that left does not empty the queue.
        future.add_done_callback(lambda _: self._leave())
        matched = await asyncio.wrap_future(future)
        if isinstance(matched, Matched):
            return matched
        begun = time.perf_counter()
        evidence = matcher.match(matched.row)
        return Matched(evidence, matched.queue_ms, matched.embed_ms, (time.perf_counter() - begun) * 1e3)

    def close(self) -> None:
        """End the thread; prompts that still wait are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _run(self, text: str, matcher: Matcher, arrived: float) -> "_Embedded | Matched":
        begun = time.perf_counter()
        row = self._encoder.encode([text])[0]
        embedded = time.perf_counter()
        self._seconds += 0.05 * (embedded - begun - self._seconds)
        queue_ms, embed_ms = (begun - arrived) * 1e3, (embedded - begun) * 1e3
        if matcher.size <= _SEARCH_INLINE:
            return _Embedded(row, queue_ms, embed_ms)
        evidence = matcher.match(row)
        return Matched(evidence, queue_ms, embed_ms, (time.perf_counter() - embedded) * 1e3)


@dataclass(frozen=True, slots=True)
class _Embedded:
    """A unit row (d,) that is still to be matched."""

    row: Rows
    queue_ms: float
    embed_ms: float
