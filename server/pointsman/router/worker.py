"""The encoder's thread, behind a bounded queue: async callers in, evidence out.

One thread, because the encoder has the cores it was given and no more; a full queue rejects at once.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from pointsman.embedding.encoder import Encoder, Rows
from pointsman.errors import OverloadedError
from pointsman.router.conversation import Conversation
from pointsman.router.snapshot import Matcher
from pointsman.values.decision import Evidence

_SEARCH_INLINE = 4096
"""Up to so many exemplars a search takes some tenths of a millisecond: where prompts wait, it runs on the event loop,
while the encoder takes the next one. Where none does, the encoder's thread, which is awake, is the quicker one. Larger
catalogs are always searched there."""


@dataclass(frozen=True, slots=True)
class Asked:
    """User turns to be matched, in order; the last one is routed.

    rows: of each turn, its row (d,) where it is known already
    topic: (d,), what a session remembers from before them
    """

    texts: tuple[str, ...]
    rows: tuple[Rows | None, ...]
    topic: Rows | None = None

    @property
    def follows(self) -> bool:
        """Whether anything came before the last turn."""
        return len(self.texts) > 1 or self.topic is not None


@dataclass(frozen=True, slots=True)
class Matched:
    """Evidence, the rows (d,) of the turns, the topic (d,) they end with, and times in milliseconds."""

    evidence: Evidence
    rows: tuple[Rows, ...]
    topic: Rows
    queue_ms: float
    embed_ms: float
    search_ms: float


@dataclass(frozen=True, slots=True)
class _Embedded:
    """Rows that are still to be matched."""

    rows: tuple[Rows, ...]
    queue_ms: float
    embed_ms: float


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

    async def match(self, asked: Asked, matcher: Matcher, conversation: Conversation) -> Matched:
        """Embed what has no row yet, and match the last turn.

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
        future = self._executor.submit(self._run, asked, matcher, conversation, time.perf_counter())
        # Counted until the thread is done with it: a caller that left does not empty the queue.
        future.add_done_callback(lambda _: self._leave())
        done = await asyncio.wrap_future(future)
        return done if isinstance(done, Matched) else _search(asked, done, matcher, conversation)

    async def embed(self, texts: Sequence[str]) -> Rows:
        """Return unit rows (n, d) of texts that are not routed; they wait like prompts, behind no limit."""
        with self._lock:
            self._waiting += 1
        future = self._executor.submit(self._encoder.encode, texts)
        future.add_done_callback(lambda _: self._leave())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the thread; prompts that still wait are dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        with self._lock:
            self._waiting -= 1

    def _run(
        self, asked: Asked, matcher: Matcher, conversation: Conversation, arrived: float
    ) -> _Embedded | Matched:
        begun = time.perf_counter()
        encoder = matcher.encoder or self._encoder
        rows = tuple(
            encoder.encode([text])[0] if row is None else row
            for text, row in zip(asked.texts, asked.rows, strict=True)
        )
        took = time.perf_counter() - begun
        self._seconds += 0.05 * (took - self._seconds)
        embedded = _Embedded(rows, (begun - arrived) * 1e3, took * 1e3)
        if matcher.size <= _SEARCH_INLINE and self._waiting > 1:
            return embedded
        return _search(asked, embedded, matcher, conversation)


def _search(asked: Asked, embedded: _Embedded, matcher: Matcher, conversation: Conversation) -> Matched:
    begun = time.perf_counter()
    last = topic = embedded.rows[-1]
    if asked.follows:
        turn = conversation.read(np.stack(embedded.rows), asked.topic)
        evidence, topic = replace(turn.evidence, turn=turn.explanation), turn.topic
    else:
        evidence = matcher.match(last)
    evidence = matcher.weigh(evidence, last, asked.texts[-1])
    search_ms = (time.perf_counter() - begun) * 1e3
    return Matched(evidence, embedded.rows, topic, embedded.queue_ms, embedded.embed_ms, search_ms)
