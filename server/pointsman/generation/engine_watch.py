"""What is looked at while an engine runs: whether it answers, and whether its files are what they were."""

import asyncio
from typing import Never

import httpx2
import structlog

from pointsman.errors import ArtifactError
from pointsman.generation.engine_files import CheckedFiles

_log = structlog.get_logger()
_MISSED_CHECKS = 3
_LOOK_S = 0.5
"""Time between two looks at files: so long an engine may answer from one that was overwritten."""


async def until_silent(url: str, interval_s: float) -> None:
    """Return when the engine no longer answers; 0 never looks."""
    if not interval_s:
        await asyncio.Event().wait()
    missed = 0
    # Loopback: no proxies, and no certificates to read.
    async with httpx2.AsyncClient(
        base_url=url, timeout=max(1.0, interval_s), trust_env=False, verify=False
    ) as client:
        while missed < _MISSED_CHECKS:
            await asyncio.sleep(interval_s)
            try:
                missed = 0 if (await client.get("/health")).is_success else missed + 1
            except httpx2.HTTPError:
                missed += 1


async def until_overwritten(engine: str, files: CheckedFiles) -> Never:
    """Look at the files of an engine as long as it may go on with them.

    One that was replaced by another, or deleted, is open still, as it was: that is logged, and the next start finds it.

    Raises:
        ArtifactError: one was overwritten in place, which reaches an engine that maps it into its memory.

    """
    logged: tuple[str, ...] = ()
    while True:
        changes = await asyncio.to_thread(files.look)
        if changes.told and changes.told != logged:
            goes_on = not changes.overwritten
            _log.error("engine.files_changed", engine=engine, files=list(changes.told), goes_on=goes_on)
        logged = changes.told
        if changes.overwritten:
            raise ArtifactError("; ".join(changes.told))
        await asyncio.sleep(_LOOK_S)
