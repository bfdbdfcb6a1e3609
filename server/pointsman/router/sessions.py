"""What is remembered between requests: topics by session, and rows by text. Rows and times, never texts.

Both are bounded and belong to the event loop: no locks. An encoder's rows mean nothing to another encoder,
so both are cleared when it changes.
"""

from collections import OrderedDict
from dataclasses import dataclass

from pointsman.embedding.encoder import Rows


@dataclass(frozen=True, slots=True)
class _Remembered:
    topic: Rows
    at_s: float


class Sessions:
    """The topic (d,) of each session: the row of the turn that opened it. The least recently used one goes."""

    def __init__(self, limit: int, ttl_s: float) -> None:
        self._limit = limit
        self._ttl_s = ttl_s
        self._sessions: OrderedDict[str, _Remembered] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._sessions)

    def recall(self, session_id: str, now_s: float) -> Rows | None:
        """Return the topic of a session; None when it is unknown or older than the limit of time."""
        self._expire(now_s)
        remembered = self._sessions.get(session_id)
        return remembered.topic if remembered else None

    def remember(self, session_id: str, topic: Rows, now_s: float) -> None:
        """Keep the topic of a session. `now_s` is a monotonic clock's, the same one as that of `recall`."""
        self._expire(now_s)
        self._sessions[session_id] = _Remembered(topic, now_s)
        self._sessions.move_to_end(session_id)
        if len(self._sessions) > self._limit:
            self._sessions.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._sessions.clear()

    def _expire(self, now_s: float) -> None:
        # Written in the order of time, so those that are too old stand together at the front.
        while self._sessions:
            oldest = next(iter(self._sessions.values()))
            if now_s - oldest.at_s <= self._ttl_s:
                return
            self._sessions.popitem(last=False)


class RecentRows:
    """Rows (d,) of the turns that were embedded last, by the hash of their text: 64 bits, keyed anew by each process."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[int, Rows] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, text: str) -> Rows | None:
        """Return the row of a text; None when it is not there any more."""
        key = hash(text)
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
        return row

    def put(self, text: str, row: Rows) -> None:
        """Keep the row of a text."""
        key = hash(text)
        self._rows[key] = row
        self._rows.move_to_end(key)
        if len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._rows.clear()
