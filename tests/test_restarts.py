"""An engine that cannot start is started again, less and less often; one that lived for a while begins anew."""

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest

from harness import until
from pointsman.errors import ArtifactError
from pointsman.generation import engine_process
from pointsman.generation.engine_files import CheckedFiles, EngineFiles
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.engine_spec import EngineSpec
from pointsman.sections import Engine as EngineSettings


class Broken(CheckedFiles):
    """Files that are never what they were; some starts take a while to find that out."""

    __slots__ = ("begun", "slow")

    def __init__(self, slow: set[int]) -> None:
        super().__init__(EngineFiles(), ())
        object.__setattr__(self, "slow", slow)
        object.__setattr__(self, "begun", [])

    def verify(self) -> None:
        self.begun.append(time.monotonic())
        if len(self.begun) in self.slow:
            time.sleep(0.5)
        raise ArtifactError("base.gguf: changed on disk")


async def waits(files: Broken, log_lines: list[dict[str, object]], starts: int) -> list[object]:
    """Return how long an engine waited before each of so many further starts."""
    spec = EngineSpec("llama_cpp", Path("base.gguf"), (), 128, slots=1, threads=1)
    settings = EngineSettings(threads=1, restart_backoff_s=0.02, restart_backoff_max_s=0.1)
    engine = EngineProcess(spec, settings, files)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await until(lambda: engine.restarts >= starts, 30.0)
        engine.stop()
    assert engine.error == "base.gguf: changed on disk"
    return [line["restart_in_s"] for line in log_lines if line["event"] == "engine.ended"][:starts]


async def test_waits_between_starts_double_up_to_the_limit(log_lines: list[dict[str, object]]) -> None:
    files = Broken(set())
    assert await waits(files, log_lines, 6) == pytest.approx([0.02, 0.04, 0.08, 0.1, 0.1, 0.1])
    waited = [after - before for before, after in pairwise(files.begun)]
    assert all(real > told - 0.001 for real, told in zip(waited, [0.02, 0.04, 0.08, 0.1, 0.1], strict=False))


async def test_an_engine_that_lived_for_a_while_is_started_again_soon(
    log_lines: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_process, "_HEALTHY_AFTER_S", 0.4)
    found = await waits(Broken({4}), log_lines, 6)
    assert found == pytest.approx([0.02, 0.04, 0.08, 0.02, 0.04, 0.08])


async def test_an_engine_that_is_stopped_while_it_waits_ends_at_once() -> None:
    spec = EngineSpec("llama_cpp", Path("base.gguf"), (), 128, slots=1, threads=1)
    settings = EngineSettings(threads=1, restart_backoff_s=3600.0, restart_backoff_max_s=3600.0)
    engine = EngineProcess(spec, settings, Broken(set()))
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        tasks.create_task(engine.run())
        await until(lambda: engine.restarts == 1, 20.0)
        engine.stop()
