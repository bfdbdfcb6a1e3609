"""Changes of files to wake-ups. Knows nothing of what the files hold."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path

import structlog
from watchfiles import Change, awatch

_log = structlog.get_logger()

_DEBOUNCE_MS = 100
"""Editors write a file in several steps; changes within this time make one wake-up."""
_LOOK_ANYWAY_MS = 5_000
"""Some changes make no event here: a mounted ConfigMap swaps a link, network disks tell nobody."""


async def changes(
    folders: list[Path], files: list[Path], stop: asyncio.Event
) -> AsyncGenerator[set[Path], None]:
    """Yield what changed of the YAML in `folders` and of `files`, and now and then an empty set, until `stop` is set.

    A single file is watched by its folder: it may be replaced, and need not exist yet.
    """
    watched = list(dict.fromkeys([*folders, *(file.parent for file in files)]))
    names = {file.name for file in files}

    def matters(_: Change, path: str) -> bool:
        name = Path(path).name
        return name in names or (name.endswith((".yaml", ".yml")) and not name.startswith("."))

    while not stop.is_set():
        present = await asyncio.to_thread(_present, watched)
        if not present:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_ANYWAY_MS / 1e3):
                    await stop.wait()
            yield set()
            continue
        try:
            async for batch in _watched(present, matters, stop):
                yield batch
                if not batch and await asyncio.to_thread(_present, watched) != present:
                    break  # a folder came or went
        except OSError as error:  # no more watches to be had, or a folder that went a moment ago
            _log.warning("catalog.watch_failed", error=str(error))
            await asyncio.sleep(_LOOK_ANYWAY_MS / 1e3)
            yield set()


async def _watched(
    folders: list[Path], matters: Callable[[Change, str], bool], stop: asyncio.Event
) -> AsyncGenerator[set[Path], None]:
    async for batch in awatch(
        *folders,
        watch_filter=matters,
        debounce=_DEBOUNCE_MS,
        step=20,
        stop_event=stop,
        recursive=False,
        rust_timeout=_LOOK_ANYWAY_MS,
        yield_on_timeout=True,
    ):
        yield {Path(path) for _, path in batch}


def _present(folders: list[Path]) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]
