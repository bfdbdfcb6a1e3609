"""Progress of fetches: bars on a terminal, and one log line a file elsewhere."""

import sys
from collections.abc import Generator
from contextlib import contextmanager

import structlog
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pointsman.artifacts.store import Progress as Report

_log = structlog.get_logger()


@contextmanager
def fetch_progress() -> Generator[Report, None, None]:
    """Yield a function that shows what it is told."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    bars = _Bars()
    try:
        yield bars
    finally:
        bars.close()


class _Lines:
    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, what: str, done: int, total: int) -> None:
        del done, total
        if what not in self._said:
            self._said.add(what)
            _log.info("artifact.progress", doing=what)


class _Bars:
    """A bar while bytes move, and no live display before or after: answers and logs have the terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bar: Progress | None = None
        self._what = ""

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            self.close()
            self._what = what
            if not total:  # a package or hub client draws its own bar
                self._console.print(what)
                return
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(
                *columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._bar.start()
            self._bar.add_task(what, total=total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
            if done >= total:
                self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
