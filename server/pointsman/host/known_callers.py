"""The file of known callers, at its last good."""

import asyncio
from contextlib import suppress
from pathlib import Path

import structlog

from pointsman.artifacts.whole_file import signature_of
from pointsman.catalog.callers_file import read_callers
from pointsman.errors import CatalogError, ConfigError
from pointsman.service.doors import Doors

_log = structlog.get_logger()
_LOOK_EVERY_S = 0.5


class KnownCallers:
    """Doors that follow the file. One that breaks or goes leaves the doors as they were: never open."""

    def __init__(self, path: Path) -> None:
        """Read the file; without one, everybody comes in.

        Raises:
            ConfigError: it is there, and cannot be used.

        """
        self._path = path
        self._signature: tuple[int, ...] | None = None
        self.doors = Doors()
        with suppress(FileNotFoundError):
            try:
                self._signature = signature_of(path)
                self.doors.replace(read_callers(path))
            except CatalogError as error:
                raise ConfigError(f"paths.callers: {error}") from None
            except PermissionError as error:
                raise ConfigError(f"paths.callers: {path}: {error.strerror}") from None

    async def watch(self, stop: asyncio.Event) -> None:
        """Take changes of the file up until told to stop."""
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)

    def look(self) -> None:
        """Take up what changed."""
        try:
            signature = signature_of(self._path)
        except OSError as error:
            if self._signature is not None:
                _log.error("callers.gone", error=error.strerror, serves="those who were known")
            self._signature = None
            return
        if signature == self._signature:
            return
        self._signature = signature
        try:
            callers = read_callers(self._path)
        except CatalogError as error:
            _log.error("callers.refused", error=str(error), serves="those who were known")
            return
        self.doors.replace(callers)
        _log.info("callers.loaded", callers=len(callers))
