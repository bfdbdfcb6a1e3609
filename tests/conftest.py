"""Fixtures that every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from blockbuster import BlockBuster, blockbuster_ctx

from harness import BASE_SHA256, BASE_URI, Site
from pointsman.artifacts.store import ArtifactStore
from pointsman.settings import load
from pointsman.values.catalog import Artifact
from postgres import postgres, postgres_server

__all__ = ["postgres", "postgres_server"]  # fixtures


@pytest.fixture(autouse=True)
def nothing_blocks_the_event_loop() -> Iterator[BlockBuster]:
    """Blocking calls of our own code on an event loop fail the test."""
    # Settings are read before a server starts; tests read them from async code.
    with blockbuster_ctx("pointsman", excluded_modules=["pointsman.settings"]) as blockbuster:
        # The collector may find the last grpc server of an earlier test at any line of ours, and ends grpc's thread.
        blockbuster.functions["threading.Lock.acquire"].can_block_in("threading.py", "join")
        yield blockbuster


@pytest.fixture(autouse=True)
def no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POINTSMAN_LEDGER__ENABLED", "false")  # not into the ledger of who runs the tests


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The shipped base model, fetched once into the user's cache."""
    store = ArtifactStore(load().paths.models, Path())
    return store.fetch(Artifact(BASE_URI, BASE_SHA256))


@pytest.fixture(autouse=True)
def log_lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """Log lines of the test, as values, instead of text."""
    # A command that a test runs in this process would set the process's logs up for all tests after it.
    monkeypatch.setattr("pointsman.host.logs.configure_logs", lambda _: None)
    with structlog.testing.capture_logs() as lines:
        yield lines
