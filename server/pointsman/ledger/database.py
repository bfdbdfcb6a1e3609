"""A URL to a database whose tables are those of this version. Knows no requests."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from pointsman.errors import ConfigError

_MIGRATIONS = "pointsman:ledger/migrations"
_BUSY_MS = 2000
_LOCK = 0x706F696E74  # of Postgres, for the time of a migration: 'point'
_OTHER_TYPE = ("42804", "42846")
"""How Postgres says that a column has another type than a value."""
_POSTGRES = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
}
"""Of libpq: when a machine that fell silent counts as gone. What the URL says comes first."""


def database(url: str) -> sa.Engine:
    """Return an engine; nothing is connected yet.

    Raises:
        ConfigError: the URL is none, or of a database whose driver is not installed.

    """
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
            raise ConfigError(f"ledger.url: sqlite and postgresql are known (got {parsed.drivername!r})")
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        remote = parsed.get_backend_name() == "postgresql"
        defaults = {key: value for key, value in _POSTGRES.items() if remote and key not in parsed.query}
        engine = sa.create_engine(
            parsed, pool_size=1, max_overflow=2, pool_pre_ping=True, connect_args=defaults
        )
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigError(f"ledger.url: {error} (as in sqlite:////var/lib/pointsman/ledger.db)") from None
    except ModuleNotFoundError as error:
        message = f"ledger.url: Postgres needs the extra `postgres` ({error.name} is missing)"
        raise ConfigError(message) from None
    if parsed.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        # A batch in one statement: the driver gives up the interpreter's lock for each, and under load gets it
        # back milliseconds later.
        engine.dialect.use_insertmanyvalues_wo_returning = True
    return engine


def migrate(engine: sa.Engine) -> None:
    """Bring the tables to this version; several processes may do so at once.

    Raises:
        SQLAlchemyError: the database cannot be reached, or written.
        OSError: the folder of an SQLite file cannot be made.

    """
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _MIGRATIONS)
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK})
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
        finally:
            if engine.dialect.name == "postgresql":
                connection.rollback()
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _LOCK})


@contextmanager
def reading(url: str) -> Generator[sa.Connection, None, None]:
    """Open the ledger at a URL to be read, its tables brought to this version.

    Raises:
        ConfigError: the URL is none, or the ledger cannot be read.

    """
    engine = database(url)
    try:
        migrate(engine)
        with engine.connect() as connection:
            yield connection
    except (SQLAlchemyError, OSError) as error:
        raise ConfigError(f"ledger.url: the ledger cannot be read: {reason_of(error)}") from None
    finally:
        engine.dispose()


def reason_of(error: Exception) -> str:
    """Return an error in a line, without the statement and its values."""
    inner = error.orig if isinstance(error, SQLAlchemyError) and hasattr(error, "orig") else error
    return str(inner or error).splitlines()[0][:200]


def unfit(error: BaseException | None) -> bool:
    """Whether an error is of the values that were to be stored: no database takes them, however often it is tried.

    Half of a surrogate pair is a ValueError of the driver, a number beyond 64 bits an OverflowError.
    """
    if isinstance(
        error, (ProgrammingError, InterfaceError)
    ):  # types that a driver does not know, or a table that is gone
        said = str(error.orig)
        told = getattr(error.orig, "sqlstate", None) in _OTHER_TYPE
        return told or "not supported" in said or "cannot adapt" in said
    if isinstance(error, StatementError) and not isinstance(error, DBAPIError):
        return unfit(error.orig)
    return isinstance(error, (DataError, IntegrityError, ValueError, TypeError, OverflowError))


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Others may read while one writes; a fall of the machine may lose the last rows, and breaks nothing.
    cursor = connection.cursor()
    # The first is of new files only, and has to come before anything else is written to them.
    pragmas = (
        "auto_vacuum=INCREMENTAL",
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
    )
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
