"""structlog, set up once: pretty on a terminal, one JSON object a line otherwise."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog

from pointsman.sections import Log as LogSettings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Lines:
    """A stream to which lines are written as they come, or those of a moment in one go."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._held: list[str] | None = None

    def write(self, line: str) -> None:
        """Write a line, or keep it until `together` is over."""
        with self._lock:
            if self._held is None:
                self.stream.write(line)
            else:
                self._held.append(line)

    def flush(self) -> None:
        """Let what was written go."""
        if self._held is None:
            self.stream.flush()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what is logged meanwhile in one go, at the end: each write gives the interpreter to another thread."""
        with self._lock:
            self._held = []
        try:
            yield
        finally:
            with self._lock:
                held, self._held = self._held, None
                self.stream.write("".join(held or ()))
            self.stream.flush()


lines = Lines(sys.stderr)
"""Where log lines go."""


def configure_logs(settings: LogSettings) -> None:
    """Send our log lines, and warnings of libraries, to stderr."""
    lines.stream = sys.stderr
    pretty = settings.format == "pretty" or (settings.format == "auto" and sys.stderr.isatty())
    renderers: list[structlog.types.Processor] = (
        # Not those of rich, which show the local variables of each frame: prompts, answers, tokens of callers.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(sort_keys=False)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        logger_factory=structlog.WriteLoggerFactory(lines),  # type: ignore[arg-type]  # what it needs of a file
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
