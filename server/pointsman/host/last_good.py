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

    def __init__(self, name: str, path: Path, take: Callable[[Path], int], *, required: str = "") -> None:
        """Take the file up if there is one; `take` reads it, and returns how many things it states.

        required: the setting by which it must be there; empty: it need not

        Raises:
            ConfigError: it is there, and cannot be used, or is not and must; names the setting, `paths.NAME`.

        """
        self._name = name
        self._path = path
        self._take = take
        self._signature: tuple[int, ...] | None = None
        self.problem = ""
        """Why what serves is not what the file says; empty while it is, and where there never was one."""
        try:
            self._signature = signature_of(path)
            take(path)
        except FileNotFoundError:
            if required:
                raise ConfigError(f"paths.{name}: {path}: no such file, and {required} is set") from None
        except (CatalogError, ConfigError) as error:
            raise ConfigError(f"paths.{name}: {error}") from None
        except OSError as error:
            raise ConfigError(f"paths.{name}: {error.filename or path}: {error.strerror}") from None

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
                self.problem = f"{self._path}: {error.strerror}"
            self._signature = None
            return
        if signature == self._signature:
            return
        try:
            stated = self._take(self._path)
        except (CatalogError, ConfigError) as error:
            self._refuse(str(error))
        except OSError as error:  # a full disk may have room again: it is tried until it can be used
            self._refuse(f"{error.filename or self._path}: {error.strerror}")
            return
        else:
            self.problem = ""
            _log.info(f"{self._name}.loaded", stated=stated)
        self._signature = signature

    def _refuse(self, why: str) -> None:
        if why != self.problem:
            _log.error(f"{self._name}.refused", error=why, serves="what it said last")
        self.problem = why
