"""Specialists to running engines: one engine a base model, holding every adapter over that base.

An engine knows its adapters from its start on, so a new adapter means a new engine beside the old one,
a switch, and a drain: streams that run are neither dropped nor delayed by it.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError, BackendDownError
from pointsman.generation.engine_process import EngineProcess, EngineSpec
from pointsman.generation.gguf_check import check_adapter, check_base
from pointsman.settings import Engine as EngineSettings
from pointsman.values.catalog import EngineState, Specialist, SpecialistStatus

_DRAIN_POLL_S = 0.05
_LATECOMERS_S = 1.0
"""How long requests that were routed before a change may take to reach their engine."""
_FETCHES = 4

Key = tuple[str, str]  # engine kind, sha256 of the base


@dataclass(frozen=True, slots=True)
class Lease:
    """An engine, held for one answer. `adapters` scales all its adapters; None where it has no such thing."""

    engine: EngineProcess
    adapters: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class _Files:
    specialist: Specialist
    base: Path
    adapter: Path | None


@dataclass(frozen=True, slots=True)
class _Seat:
    """A running engine, and the sha256 of its adapters in its order."""

    engine: EngineProcess
    adapters: tuple[str, ...]


class EnginePool:
    """Engines for the specialists of the current catalog. `tasks` owns their lives."""

    def __init__(self, settings: EngineSettings, store: ArtifactStore, tasks: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._store = store
        self._tasks = tasks
        self._wanted: set[Key] = set()
        self._leaving: list[tuple[Key, _Seat]] = []
        self._retiring: set[EngineProcess] = set()
        self._problems: dict[Specialist, str] = {}
        self._seats: dict[Key, _Seat] = {}
        self._lock = asyncio.Lock()
        self._files_thread = ThreadPoolExecutor(_FETCHES, thread_name_prefix="artifacts")

    @property
    def engines(self) -> list[EngineProcess]:
        """The engines that new requests may get."""
        return [seat.engine for seat in list(self._seats.values())]

    def unfetched(self, specialists: Sequence[Specialist]) -> set[Specialist]:
        """Return those that have files which are not on this machine, and were not refused before."""
        return {
            specialist
            for specialist in specialists
            if specialist not in self._problems
            and not all(self._store.has(artifact) for artifact in specialist.artifacts)
        }

    def forget_problems(self) -> None:
        """Judge files anew that were refused: a hub may be back, a file may have been put in its place."""
        self._problems.clear()

    async def verify(self, specialists: Sequence[Specialist]) -> dict[str, str]:
        """Fetch and check the files of specialists; returns what is wrong, by name."""
        problems: dict[str, str] = {}
        for specialist in specialists:
            self._problems.pop(specialist, None)
            try:
                await self._prepare(specialist)
            except ArtifactError as error:
                problems[specialist.name] = self._problems[specialist] = str(error)
        return problems

    async def apply(self, specialists: Sequence[Specialist]) -> dict[str, str]:
        """Run the engines that these specialists need, and no others; returns what is wrong, by name.

        A specialist with a problem takes nothing from the others: an engine that does not start leaves the
        one before it in place.
        """
        async with self._lock:
            groups: dict[Key, list[_Files]] = {}
            problems = await self.verify(specialists)
            for specialist in specialists:
                if specialist.name not in problems:
                    groups.setdefault(_key(specialist), []).append(await self._prepare(specialist))
            for key, group in groups.items():
                problems |= await self._seat(key, group)
            self._wanted = set(groups)
            return problems

    def retire_unused(self) -> None:
        """End engines that no specialist of the last `apply` needs, once their answers are made.

        To be called when no new request is routed to them any more.
        """
        for key in set(self._seats) - self._wanted:
            self._leaving.append((key, self._seats.pop(key)))
        for leaving in self._leaving:
            if leaving[1].engine not in self._retiring:
                self._retire(leaving)

    def status(self, specialist: Specialist) -> SpecialistStatus:
        """Return how a specialist is doing."""
        seat = self._seats.get(_key(specialist))
        if seat is None or not _held(specialist, seat.adapters):
            return SpecialistStatus(specialist, EngineState.DOWN, self._problem(specialist))
        return SpecialistStatus(specialist, seat.engine.state, seat.engine.error)

    @asynccontextmanager
    async def lease(self, specialist: Specialist) -> AsyncGenerator[Lease, None]:
        """Hold the engine of a specialist for one answer.

        Raises:
            BackendDownError: its files were refused, or it is not loaded.

        """
        key = _key(specialist)
        sha256 = specialist.adapter.artifact.sha256 if specialist.adapter else None
        # A request that was routed before a change finds the engine of its time.
        seats = [self._seats.get(key), *(seat for left, seat in self._leaving if left == key)]
        fits = (s for s in seats if s and _held(specialist, s.adapters) and not s.engine.stopping)
        seat = next(fits, None)
        if seat is None:
            message = f"specialist {specialist.name!r} cannot answer: {self._problem(specialist)}"
            raise BackendDownError(message, retry_after_s=1.0)
        scale = specialist.adapter.scale if specialist.adapter else 0.0
        scales = tuple(scale if held == sha256 else 0.0 for held in seat.adapters)
        seat.engine.in_flight += 1
        try:
            yield Lease(seat.engine, scales if specialist.engine == "llama_cpp" else None)
        finally:
            seat.engine.in_flight -= 1

    def stop(self) -> None:
        """End all engines."""
        for engine in [*self.engines, *(seat.engine for _, seat in self._leaving)]:
            engine.stop()
        self._seats.clear()
        self._files_thread.shutdown(wait=False, cancel_futures=True)

    def _problem(self, specialist: Specialist) -> str:
        return self._problems.get(specialist, "its model files are not loaded yet")

    async def _prepare(self, specialist: Specialist) -> _Files:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._files_thread, fetch_and_check, self._store, specialist)

    async def _seat(self, key: Key, group: list[_Files]) -> dict[str, str]:
        spec, adapters = _specification(group, self._settings)
        before = self._seats.get(key)
        if before is not None and before.engine.spec == spec:
            return self._note(group, before.engine.error) if before.engine.state is EngineState.DOWN else {}
        engine = EngineProcess(spec, self._settings)
        # In a context of its own: a request that registers lends its id to none of the engine's log lines.
        self._tasks.create_task(engine.run(), name=engine.name, context=contextvars.Context())
        problem = ""
        try:
            await engine.settled()
        except BackendDownError as error:
            problem = str(error)
        except asyncio.CancelledError:
            engine.stop()
            raise
        if problem and before is not None:
            engine.stop()
            # What the engine before it holds, it goes on serving.
            return self._note([f for f in group if not _held(f.specialist, before.adapters)], problem)
        # An engine that does not start and replaces nothing stays: its supervisor goes on trying.
        self._seats[key] = _Seat(engine, adapters)
        if before is not None:
            self._leaving.append((key, before))
        return self._note(group, problem) if problem else {}

    def _note(self, group: list[_Files], problem: str) -> dict[str, str]:
        self._problems |= dict.fromkeys((files.specialist for files in group), problem)
        return {files.specialist.name: problem for files in group}

    def _retire(self, leaving: tuple[Key, _Seat]) -> None:
        engine = leaving[1].engine
        self._retiring.add(engine)
        self._tasks.create_task(
            self._drain(leaving), name=f"drain {engine.name}", context=contextvars.Context()
        )

    async def _drain(self, leaving: tuple[Key, _Seat]) -> None:
        """End an engine once its last answer is made; answers end by themselves, at their token limits."""
        engine = leaving[1].engine
        await asyncio.sleep(_LATECOMERS_S)
        while engine.in_flight and not engine.stopping:
            await asyncio.sleep(_DRAIN_POLL_S)
        engine.stop()
        self._leaving.remove(leaving)
        self._retiring.discard(engine)


def _key(specialist: Specialist) -> Key:
    return specialist.engine, specialist.base.sha256


def _held(specialist: Specialist, adapters: tuple[str, ...]) -> bool:
    return specialist.adapter is None or specialist.adapter.artifact.sha256 in adapters


def fetch_and_check(store: ArtifactStore, specialist: Specialist) -> _Files:
    """Return the verified files of a specialist. Blocking.

    Raises:
        ArtifactError: they cannot be had or used; says which and why.

    """
    base = store.fetch(specialist.base)
    check_base(base)
    if specialist.adapter is None:
        return _Files(specialist, base, None)
    adapter = store.fetch(specialist.adapter.artifact)
    check_adapter(adapter, base)
    return _Files(specialist, base, adapter)


def _specification(group: list[_Files], settings: EngineSettings) -> tuple[EngineSpec, tuple[str, ...]]:
    adapters = {
        files.specialist.adapter.artifact.sha256: files.adapter
        for files in group
        if files.specialist.adapter and files.adapter
    }
    order = tuple(sorted(adapters))
    kind = group[0].specialist.engine
    native = settings.llama_server if kind == "llama_cpp" else None
    spec = EngineSpec(
        kind="llama_server" if native else kind,
        model=group[0].base,
        adapters=tuple(adapters[sha256] for sha256 in order),
        context_tokens=max(files.specialist.context_tokens for files in group),
        slots=settings.slots if kind == "llama_cpp" else 1,
        threads=settings.threads,
        binary=native,
    )
    return spec, order
