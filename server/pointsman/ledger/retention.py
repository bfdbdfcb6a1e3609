"""Old rows go: by age, by number, by the size of the file. Blocking; the ledger's thread calls it."""

import time

import sqlalchemy as sa

from pointsman.ledger.tables import comparisons, feedback, requests
from pointsman.sections import Ledger as LedgerSettings

_SETTLED_S = 60.0
_DAY_S = 86400.0
_INCREMENTAL = 2
"""What SQLite calls a file of which free pages can be given back bit by bit."""
_SPARE = 0.05
"""Part of the size that goes beyond what has to, so that not every look at it deletes."""


def let_go(engine: sa.Engine, settings: LedgerSettings) -> None:
    """Delete what is beyond the limits, and give an SQLite file's free pages back.

    Raises:
        SQLAlchemyError: the database cannot be reached, or written.

    """
    with engine.begin() as connection:
        if settings.keep_days:
            oldest = time.time() - settings.keep_days * _DAY_S
            for table in (requests, feedback, comparisons):
                connection.execute(table.delete().where(table.c.time < oldest))
        if settings.keep_rows:
            last = connection.scalar(sa.select(sa.func.max(requests.c.id))) or 0
            connection.execute(requests.delete().where(requests.c.id <= last - settings.keep_rows))
        if settings.keep_mib and engine.dialect.name == "sqlite":
            _shrink(connection, settings.keep_mib << 20)
        if settings.keep_rows or settings.keep_mib:
            for table in (feedback, comparisons):  # of what is gone
                of_its_own = sa.select(requests.c.id).where(requests.c.request_id == table.c.request_id)
                settled = table.c.time < time.time() - _SETTLED_S  # by then its request's row is written
                connection.execute(table.delete().where(settled, ~of_its_own.exists()))
    if engine.dialect.name == "sqlite":
        _give_back(engine, rewrite=bool(settings.keep_mib))


def _shrink(connection: sa.Connection, most_bytes: int) -> None:
    """Delete the oldest requests so that the rest fit, taking all to be of one size."""
    page = _pragma(connection, "page_size")
    used = page * (_pragma(connection, "page_count") - _pragma(connection, "freelist_count"))
    if used <= most_bytes:
        return
    count = connection.scalar(sa.select(sa.func.count()).select_from(requests)) or 0
    go = min(count, round(count * (1 - (1 - _SPARE) * most_bytes / used)))
    last = sa.select(requests.c.id).order_by(requests.c.id).offset(max(0, go - 1)).limit(1)
    if count:
        connection.execute(requests.delete().where(requests.c.id <= last.scalar_subquery()))


def _give_back(engine: sa.Engine, *, rewrite: bool) -> None:
    """Make the file as small as what it holds. rewrite: one of before this could be done bit by bit, too, once."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not _pragma(connection, "freelist_count"):
            return
        if _pragma(connection, "auto_vacuum") == _INCREMENTAL:
            cursor = connection.connection.cursor()
            cursor.executescript("PRAGMA incremental_vacuum")  # a step a page: `execute` makes one
            cursor.close()
        elif rewrite:
            connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")
            connection.exec_driver_sql("VACUUM")
        else:
            return
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()


def _pragma(connection: sa.Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0)
