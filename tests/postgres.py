"""A real Postgres for the tests that want one."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from pointsman.ledger.database import database


class Postgres:
    """A real server of its own, on a free port of loopback."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        folder.mkdir(mode=0o700)
        self._as_user: list[str] = []
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(folder, "postgres")
            self._as_user = ["runuser", "-u", "postgres", "--"]
        self._run("initdb", "-A", "trust", "-U", "pointsman")
        self.url = f"postgresql://pointsman@127.0.0.1:{self._port}/postgres"

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -c fsync=off"
        self._run("pg_ctl", "-o", options, "-w", "-l", str(self._folder / "log"), "start")

    def stop(self) -> None:
        """End it at once, as a fall of the machine would."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [
            *self._as_user,
            str(self._programs / program),
            "-D",
            str(self._folder / "data"),
            *arguments,
        ]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        # In CI a test that is left out by itself would be one that nobody misses.
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("PostgreSQL is not installed (Debian: postgresql)")
    # Of a user that may enter no other.
    folder = Path("/tmp") / f"pointsman-postgres-{os.getpid()}"  # noqa: S108
    server = Postgres(found[-1], folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[str]:
    yield postgres_server.url
    engine = database(postgres_server.url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS requests, feedback, comparisons, alembic_version"))
    engine.dispose()
