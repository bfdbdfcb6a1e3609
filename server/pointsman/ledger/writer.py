"""Entries to rows, on a thread of their own: requests never wait for the database.

What may be lost: the entries of the last `flush_s` and of the batch at work when the process is killed; those beyond
`queue_rows` while the database is away. The latter are counted.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DataError, SQLAlchemyError

from pointsman.errors import BackendDownError, UnknownRequestError
from pointsman.ledger.database import database, migrate, reason_of
from pointsman.ledger.tables import comparisons, feedback, requests
from pointsman.sections import Ledger as LedgerSettings
from pointsman.values.ledger import Comparison, Entry, Feedback

_log = structlog.get_logger()

Redact = Callable[[Sequence[str], str], Sequence[str]]
"""A text and its caller's name to the text that may be stored."""
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in (Entry, Comparison)}
_UNFIT = (DataError, ValueError)
"""Of rows that no database takes; half of a surrogate pair is a ValueError of the driver."""
_Row = tuple[sa.Table, dict[str, Any]]
_SAY_EVERY_S = 60.0
_TIDY_EVERY_S = 600.0
_SETTLED_S = 60.0
_DAY_S = 86400.0
_CLOSE_S = 5.0
_BACK_S = 10.0
"""When to try again that the ledger is away."""


class LedgerWriter:
    """Writes entries in batches, and lets old ones go."""

    def __init__(self, settings: LedgerSettings, redact: Redact = lambda texts, _: texts) -> None:
        """Start the thread, which opens the database; one that cannot be opened is tried again and again.

        redact: makes texts of one request of a caller fit to be stored; it is called on threads

        Raises:
            ConfigError: the URL cannot be one.

        """
        self._settings = settings
        self._redact = redact
        self._engine = database(settings.url.get_secret_value())
        self._waiting: deque[Entry | Comparison] = deque()
        self._stop = threading.Event()
        self._ready = False
        self._opened: tuple[int, int] | None = None
        self._said = float("-inf")
        self._told = 0
        self._tidied = float("-inf")
        self.written = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Entries that are not written yet."""
        return len(self._waiting)

    def note(self, entry: Entry | Comparison) -> None:
        """Take an entry, or what the cloud said to the same request; returns at once."""
        if len(self._waiting) >= self._settings.queue_rows:
            self.dropped += 1
            self._say("the queue is full")  # the thread may be waiting for the database
        else:
            self._waiting.append(entry)

    def rate(self, said: Feedback) -> None:
        """Keep what a caller says of a request of theirs. Waits for the database: not for the event loop.

        Raises:
            UnknownRequestError: the ledger has no such request of this caller.
            BackendDownError: the database cannot be reached.

        """
        answer, comment = self._redact((said.answer, said.comment), said.caller)
        redacted = replace(said, answer=answer, comment=comment)
        asked = (said.request_id, said.caller)
        waits = any((entry.request_id, entry.caller) == asked for entry in tuple(self._waiting))
        try:
            with self._engine.begin() as connection:
                known = sa.select(requests.c.id).where(
                    requests.c.request_id == said.request_id, requests.c.caller == said.caller
                )
                if not waits and connection.scalar(known.limit(1)) is None:
                    raise UnknownRequestError(said.request_id)
                connection.execute(feedback.insert(), {"time": time.time(), **asdict(redacted)})
        except SQLAlchemyError as error:
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
        if self._waiting:
            _log.error("ledger.lost", rows=len(self._waiting), why="they could not be written before the end")
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
                while self._waiting:
                    self._write_batch()
                if time.monotonic() - self._tidied >= _TIDY_EVERY_S:
                    self._tidy()
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
        # They leave the queue once they are written: what fails is tried again.
        batch = [self._waiting[i] for i in range(min(len(self._waiting), self._settings.batch_rows))]
        rows = [self._row(entry) for entry in batch]
        try:
            self._insert(rows)
        except _UNFIT as error:  # one of them never can be: the others must not wait for it
            self._insert_one_by_one(rows)
            self._complain(error)
        else:
            for _ in batch:
                self._waiting.popleft()

    def _insert(self, rows: list[_Row]) -> None:
        with self._engine.begin() as connection:
            for table in (requests, comparisons):
                if of_table := [row for owner, row in rows if owner is table]:
                    connection.execute(table.insert(), of_table)
        self.written += len(rows)

    def _insert_one_by_one(self, rows: list[_Row]) -> None:
        for row in rows:
            try:
                self._insert([row])
            except _UNFIT:
                self.dropped += 1
            self._waiting.popleft()  # each once it is written: the next may find the database gone

    def _row(self, entry: Entry | Comparison) -> _Row:
        row = {field: getattr(entry, field) for field in _FIELDS[type(entry)]}
        texts = {name: row[name] for name in ("prompt", "answer") if row.get(name) is not None}
        row |= zip(texts, self._redact(tuple(texts.values()), entry.caller), strict=True)
        return (requests if isinstance(entry, Entry) else comparisons), row

    def _tidy(self) -> None:
        settings = self._settings
        with self._engine.begin() as connection:
            if settings.keep_days:
                oldest = time.time() - settings.keep_days * _DAY_S
                for table in (requests, feedback, comparisons):
                    connection.execute(table.delete().where(table.c.time < oldest))
            if settings.keep_rows:
                last = connection.scalar(sa.select(sa.func.max(requests.c.id))) or 0
                connection.execute(requests.delete().where(requests.c.id <= last - settings.keep_rows))
                for table in (feedback, comparisons):  # of what is gone
                    of_its_own = sa.select(requests.c.id).where(requests.c.request_id == table.c.request_id)
                    settled = table.c.time < time.time() - _SETTLED_S  # by then its request's row is written
                    connection.execute(table.delete().where(settled, ~of_its_own.exists()))

    def _complain(self, error: Exception) -> None:
        self._say(reason_of(error) if isinstance(error, SQLAlchemyError) else repr(error)[:200])

    def _say(self, why: str) -> None:
        """Say what went wrong, once a minute at most."""
        if time.monotonic() - self._said >= _SAY_EVERY_S:
            dropped, self._told = self.dropped - self._told, self.dropped
            self._said = time.monotonic()
            _log.error("ledger.failing", why=why, dropped=dropped, waiting=len(self._waiting))
