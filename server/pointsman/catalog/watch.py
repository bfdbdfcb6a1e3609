"""Changes under folders to wake-ups. Knows nothing of what the files hold."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from watchfiles import Change, awatch

_DEBOUNCE_MS = 100
"""Editors write a file in several steps; changes within this time make one wake-up."""
_LOOK_ANYWAY_MS = 5_000
"""Some changes make no event here: a mounted ConfigMap swaps a link, network disks tell nobody."""


async def changes(folders: list[Path], stop: asyncio.Event) -> AsyncGenerator[set[Path], None]:
    """Yield the YAML files that changed, and now and then an empty set, until `stop` is set."""

    def is_yaml(_: Change, path: str) -> bool:
        name = Path(path).name
        return name.endswith((".yaml", ".yml")) and not name.startswith(".")

    while not stop.is_set():
        present = await asyncio.to_thread(_present, folders)
        if not present:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_ANYWAY_MS / 1e3):
                    await stop.wait()
            yield set()
            continue
        async for batch in awatch(
            *present,
            watch_filter=is_yaml,
            debounce=_DEBOUNCE_MS,
            step=20,
            stop_event=stop,
            recursive=False,
            rust_timeout=_LOOK_ANYWAY_MS,
            yield_on_timeout=True,
        ):
            yield {Path(path) for _, path in batch}
            if not batch and await asyncio.to_thread(_present, folders) != present:
                break  # a folder came or went


def _present(folders: list[Path]) -> list[Path]:
    return [folder for folder in folders if folder.is_dir()]
