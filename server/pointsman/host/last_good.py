"""A file that is taken up when it changes; one that breaks or goes leaves what it said last."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from pointsman.artifacts.whole_file import signature_of
from pointsman.errors import CatalogError, ConfigError

_log = structlog.get_logger()
_LOOK_EVERY_S = 0.5


class LastGood:
    """One file, and what is done with its content. For what guards: a file that goes must not open anything."""

    def __init__(self, name: str, path: Path, take: Callable[[Path], int]) -> None:
        """Take the file up if there is one; `take` reads it, and returns how many things it states.

        Raises:
            ConfigError: it is there, and cannot be used; names the setting, `paths.NAME`.

        """
        self._name = name
        self._path = path
        self._take = take
        self._signature: tuple[int, ...] | None = None
        with suppress(FileNotFoundError):
            try:
                self._signature = signature_of(path)
                take(path)
            except (CatalogError, ConfigError) as error:
                raise ConfigError(f"paths.{name}: {error}") from None
            except PermissionError as error:
                raise ConfigError(f"paths.{name}: {path}: {error.strerror}") from None

    @property
    def there(self) -> bool:
        """Whether the file was there when it was looked for last."""
        return self._signature is not None

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
                _log.error(f"{self._name}.gone", error=error.strerror, serves="what it said last")
            self._signature = None
            return
        if signature == self._signature:
            return
        self._signature = signature
        try:
            stated = self._take(self._path)
        except (CatalogError, ConfigError) as error:
            _log.error(f"{self._name}.refused", error=str(error), serves="what it said last")
            return
        _log.info(f"{self._name}.loaded", stated=stated)
