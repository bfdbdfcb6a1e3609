"""Entries to rows, on a thread of their own: requests never wait for the database.

A killed process loses the rows of its last `flush_s` and of the write at work, and none before them. While the database
is away, rows beyond `queue_rows` or `queue_mib` are dropped, and so is one that no database takes; drops are counted.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError

from pointsman.errors import BackendDownError, ConfigError, InvalidRequestError, UnknownRequestError
from pointsman.ledger.database import database, migrate, reason_of, unfit
from pointsman.ledger.ratings import AT_THE_DOOR
from pointsman.ledger.retention import let_go
from pointsman.ledger.tables import comparisons, feedback, requests
from pointsman.sections import Ledger as LedgerSettings
from pointsman.values.ledger import Comparison, Entry, Feedback

_log = structlog.get_logger()

Redact = Callable[[Sequence[str], str], Sequence[str]]
"""A text and its caller's name to the text that may be stored."""
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Entry, Comparison)}
_VALUES = {kind: attrgetter(*names) for kind, names in _FIELDS.items()}
"""An entry to the values of its fields, in their order: every request passes here."""
_TEXTS = ("prompt", "answer", "logprobs")
_ENTRY_BYTES = 1536
"""What one takes in memory without its texts."""
_SAY_EVERY_S = 60.0
_TIDY_EVERY_S = 600.0
_CLOSE_S = 5.0
_BACK_S = 10.0
"""When to try again that the ledger is away."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What is written of an entry, its texts redacted; `size_bytes` is what the entry took while it waited."""

    table: sa.Table
    request_id: str
    caller: str
    values: dict[str, Any]
    size_bytes: int


class LedgerWriter:
    """Writes entries in batches, and lets old ones go."""

    def __init__(self, settings: LedgerSettings, redact: Redact = lambda texts, _: texts) -> None:
        """Start the thread, which opens the database; one that cannot be opened is tried again and again.

        redact: makes texts of one request of a caller fit to be stored; it is called on threads

        Raises:
            ConfigError: the URL cannot be one, or is of a database whose size cannot be kept to.

        """
        self._settings = settings
        self._redact = redact
        self._engine = database(settings.url.get_secret_value())
        if settings.keep_mib and self._engine.dialect.name != "sqlite":
            raise ConfigError("ledger.keep_mib: of SQLite only; keep_rows and keep_days bound Postgres")
        self._waiting: deque[Entry | Comparison] = deque()
        self._batch: deque[_Row] = deque()
        # Each is changed by one thread only: what came in, and what is written or was dropped after that.
        self._bytes_in = self._bytes_out = 0
        self._stop = threading.Event()
        self._ready = False
        self._opened: tuple[int, int] | None = None
        self._said = float("-inf")
        self._told = 0
        self._tidied = float("-inf")
        self.written = 0
        self.dropped = 0
        self.unkept = 0
        """Calls refused at the door that were given no row; the recorder counts them."""
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Entries that are not written yet."""
        return len(self._waiting) + len(self._batch)

    @property
    def waiting_bytes(self) -> int:
        """About how much memory they take."""
        return self._bytes_in - self._bytes_out

    def note(self, entry: Entry | Comparison) -> None:
        """Take an entry, or what the cloud said to the same request; returns at once."""
        size_bytes = _size(entry)
        full = self.waiting >= self._settings.queue_rows
        if full or self.waiting_bytes + size_bytes > self._settings.queue_mib << 20:
            self.dropped += 1
            self._say("the queue is full")  # the thread may be waiting for the database
        else:
            self._bytes_in += size_bytes
            self._waiting.append(entry)

    def rate(self, said: Feedback) -> None:
        """Keep what a caller says of a request of theirs. Waits for the database: not for the event loop.

        Raises:
            UnknownRequestError: the ledger has no such request of this caller.
            InvalidRequestError: it holds what no database takes.
            BackendDownError: the database cannot be reached.

        """
        answer, comment = self._redact((said.answer, said.comment), said.caller)
        redacted = replace(said, answer=answer, comment=comment)
        asked = (said.request_id, said.caller)
        # In this order: what leaves the queue is in the batch before.
        pending = (*tuple(self._waiting), *tuple(self._batch))
        waits = any(
            (entry.request_id, entry.caller) == asked and getattr(entry, "outcome", "") not in AT_THE_DOOR
            for entry in pending
        )
        try:
            with self._engine.begin() as connection:
                known = sa.select(requests.c.id).where(
                    requests.c.request_id == said.request_id,
                    requests.c.caller == said.caller,
                    requests.c.outcome.not_in(AT_THE_DOOR),
                )
                if not waits and connection.scalar(known.limit(1)) is None:
                    raise UnknownRequestError(said.request_id)
                connection.execute(feedback.insert(), {"time": time.time(), **asdict(redacted)})
        except (SQLAlchemyError, ValueError) as error:
            if unfit(error):
                raise InvalidRequestError("feedback", "holds what the ledger cannot keep") from None
            self._complain(error)
            raise BackendDownError("the ledger cannot be reached", retry_after_s=_BACK_S) from None

    def spent(self, since: float) -> float:
        """Return what comparisons since a moment cost. Waits for the database.

        Raises:
            BackendDownError: the database cannot be reached.

        """
        wanted = sa.select(sa.func.sum(comparisons.c.cost)).where(comparisons.c.time >= since)
        try:
            with self._engine.connect() as connection:
                return connection.scalar(wanted) or 0.0
        except SQLAlchemyError as error:
            self._complain(error)
            raise BackendDownError("the ledger cannot be reached", retry_after_s=_BACK_S) from None

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and close the database."""
        self._stop.set()
        self._thread.join(_CLOSE_S)
        if self.waiting:
            _log.error("ledger.lost", rows=self.waiting, why="they could not be written before the end")
        if not self._thread.is_alive():
            self._engine.dispose()

    def _run(self) -> None:
        ended = False
        while True:
            try:
                if self._ready and self._file() != self._opened:  # what we hold open is no longer the ledger
                    self._engine.dispose()
                    self._ready = False
                    self._say("its file was deleted or replaced; a new one is begun")
                if not self._ready:
                    migrate(self._engine)
                    self._opened = self._file()
                    self._ready = True
                while self.waiting:
                    self._write_batch()
                if time.monotonic() - self._tidied >= _TIDY_EVERY_S:
                    let_go(self._engine, self._settings)
                    self._tidied = time.monotonic()
            except Exception as error:  # noqa: BLE001 - whatever it is, requests go on
                self._complain(error)
            else:
                if self.dropped > self._told:
                    self._say("the queue is full")
            if ended:
                return
            ended = self._stop.wait(self._settings.flush_s)

    def _file(self) -> tuple[int, int] | None:
        """Return which file the ledger is; None for none, and for a server's database."""
        path = self._engine.url.database
        if self._engine.dialect.name != "sqlite" or not path:
            return None
        try:
            stat = Path(path).stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def _write_batch(self) -> None:
        # They leave the queue for the batch, and the batch once they are written: what fails is tried again, as it is.
        while self._waiting and len(self._batch) < self._settings.batch_rows:
            self._take(self._waiting[0])
            self._waiting.popleft()
        if not self._batch:
            return
        try:
            self._insert(list(self._batch))
        except Exception as error:
            if not unfit(error):
                raise
            self._insert_one_by_one()  # one of them never can be: the others must not wait for it
        else:
            for _ in range(len(self._batch)):
                self._done()

    def _take(self, entry: Entry | Comparison) -> None:
        try:
            self._batch.append(self._row(entry))
        except Exception as error:  # noqa: BLE001 - a text that nobody can redact is not stored, and holds nothing up
            self._bytes_out += _size(entry)
            self._drop(error)

    def _done(self) -> None:
        self._bytes_out += self._batch.popleft().size_bytes

    def _insert(self, rows: list[_Row]) -> None:
        with self._engine.begin() as connection:
            for table in (requests, comparisons):
                if of_table := [row.values for row in rows if row.table is table]:
                    connection.execute(table.insert(), of_table)
        self.written += len(rows)

    def _insert_one_by_one(self) -> None:
        while self._batch:
            try:
                self._insert([self._batch[0]])
            except Exception as error:
                if not unfit(error):
                    raise
                self._drop(error)
            self._done()  # each once it is written: the next may find the database gone

    def _drop(self, error: Exception) -> None:
        self.dropped += 1
        self._say(f"a row that cannot be written: {_name_of(error)}")  # what it holds is not for the log

    def _row(self, entry: Entry | Comparison) -> _Row:
        names = _FIELDS[type(entry)]
        row = dict(zip(names, _VALUES[type(entry)](entry), strict=True))
        texts = {name: row[name] for name in ("prompt", "answer") if row.get(name) is not None}
        row |= zip(texts, self._redact(tuple(texts.values()), entry.caller), strict=True)
        table = requests if isinstance(entry, Entry) else comparisons
        return _Row(table, entry.request_id, entry.caller, row, _size(entry))

    def _complain(self, error: Exception) -> None:
        self._say(_why(error))

    def _say(self, why: str) -> None:
        """Say what went wrong, once a minute at most."""
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            dropped, self._told = self.dropped - self._told, self.dropped
            self._said = time.monotonic()
            _log.error("ledger.failing", why=why, dropped=dropped, waiting=len(self._waiting))


def _size(entry: Entry | Comparison) -> int:
    """Return about how much memory an entry takes."""
    return _ENTRY_BYTES + sum(sys.getsizeof(text) for name in _TEXTS if (text := getattr(entry, name, None)))


def _why(error: Exception) -> str:
    """Return what went wrong, without what was to be stored."""
    if isinstance(error, SQLAlchemyError):
        return reason_of(error)
    return f"{type(error).__name__}: {error.strerror}" if isinstance(error, OSError) else _name_of(error)


def _name_of(error: Exception) -> str:
    return type(getattr(error, "orig", None) or error).__name__
