"""Changes under folders to wake-ups. Knows nothing of what the files hold."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import Change, awatch

_DEBOUNCE_MS = 100
"""Editors write a file in several steps; changes within this time make one wake-up."""


async def changes(folders: list[Path], stop: asyncio.Event) -> AsyncIterator[set[Path]]:
    """Yield the YAML files that changed, until `stop` is set. Folders must exist."""

    def is_yaml(_: Change, path: str) -> bool:
        name = Path(path).name
        return name.endswith((".yaml", ".yml")) and not name.startswith(".")

    async for batch in awatch(
        *folders, watch_filter=is_yaml, debounce=_DEBOUNCE_MS, step=20, stop_event=stop, recursive=False
    ):
        yield {Path(path) for _, path in batch}
