"""Specialists to running engines: one engine a base model, holding the adapters over that base.

An engine knows its adapters from its start on, so a new adapter means a new engine beside the old one,
a switch, and a drain: streams that run are neither dropped nor delayed by it. An engine holds
`engine.max_adapters`; one that is asked for beyond those takes the place of the least recently used.
"""

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError, BackendDownError
from pointsman.generation.engine_files import EngineFiles, ModelFiles
from pointsman.generation.engine_process import EngineProcess, EngineSpec
from pointsman.generation.lease import Lease
from pointsman.generation.memory import resident_bytes
from pointsman.sections import Engine as EngineSettings
from pointsman.values.catalog import EngineFigures, EngineState, Specialist, SpecialistStatus

_DRAIN_POLL_S = 0.05
_LATECOMERS_S = 1.0
"""How long requests that were routed before a change may take to reach their engine."""
_FETCHES = 4

Key = tuple[str, str]  # engine kind, sha256 of the base


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
        self._groups: dict[Key, list[ModelFiles]] = {}  # what is or may be loaded
        self._used: dict[str, int] = {}  # adapters by their last use
        self._uses = 0
        self._probed: set[tuple[Key, str, float]] = set()
        self._loads: dict[tuple[Key, str], asyncio.Task[None]] = {}
        self._files = EngineFiles()
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
            groups: dict[Key, list[ModelFiles]] = {}
            problems = await self.verify(specialists)
            for specialist in specialists:
                if specialist.name not in problems:
                    groups.setdefault(_key(specialist), []).append(await self._prepare(specialist))
            for key, group in groups.items():
                problems |= await self._seat(key, group)
            self._wanted = set(groups)
            self._groups = {
                key: [files for files in group if files.specialist.name not in problems]
                for key, group in groups.items()
            }
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

    async def measure(self) -> None:
        """Read what the engines hold in memory."""
        for engine in self.engines:
            held = await asyncio.to_thread(resident_bytes, engine.pid)
            engine.resident_bytes = None if held is None else held + engine.admission.swapped_bytes

    def status(self, specialist: Specialist) -> SpecialistStatus:
        """Return how a specialist is doing."""
        key = _key(specialist)
        seat = self._seats.get(key)
        if seat is None:
            return SpecialistStatus(specialist, EngineState.DOWN, self._problem(specialist))
        if not _held(specialist, seat.adapters):
            if self._may_load(specialist):
                return SpecialistStatus(specialist, seat.engine.state, seat.engine.error, loaded=False)
            return SpecialistStatus(specialist, EngineState.DOWN, self._problem(specialist))
        return SpecialistStatus(
            specialist,
            seat.engine.state,
            seat.engine.error,
            figures=_figures(seat.engine, _adapter(specialist)),
        )

    @asynccontextmanager
    async def lease(self, specialist: Specialist) -> AsyncGenerator[Lease, None]:
        """Hold the engine of a specialist for one answer; loads its adapter first where it is not loaded.

        Raises:
            BackendDownError: its files were refused, or it is not loaded.

        """
        seat = self._seat_of(specialist)
        if seat is None and self._may_load(specialist):
            await self._load(specialist)
            seat = self._seat_of(specialist)
        if seat is None:
            problem = self._problem(specialist)
            raise BackendDownError(
                f"specialist {specialist.name!r} cannot answer: {problem}",
                retry_after_s=1.0,
                public=f"specialist {specialist.name!r} cannot answer now",
            )
        sha256 = _adapter(specialist)
        self._uses += 1
        self._used[sha256] = self._uses
        scale = specialist.adapter.scale if specialist.adapter else 0.0
        scales = tuple(scale if held == sha256 else 0.0 for held in seat.adapters)
        seat.engine.in_flight += 1
        try:
            yield Lease(
                seat.engine, scales if specialist.engine == "llama_cpp" else None, sha256, self._tasks
            )
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

    def _seat_of(self, specialist: Specialist) -> _Seat | None:
        key = _key(specialist)
        seats = [self._seats.get(key)]
        if not self._may_load(specialist):
            # A request that was routed before a change finds the engine of its time.
            seats += [seat for left, seat in self._leaving if left == key]
        return next((s for s in seats if s and _held(specialist, s.adapters) and not s.engine.stopping), None)

    def _may_load(self, specialist: Specialist) -> bool:
        """Whether its files are in order, and it is only not loaded."""
        return any(files.specialist == specialist for files in self._groups.get(_key(specialist), ()))

    async def _load(self, specialist: Specialist) -> None:
        """Switch to an engine that holds the specialist's adapter; requests that wait for it share one switch."""
        wanted = _key(specialist), _adapter(specialist)
        if wanted not in self._loads:
            task = self._tasks.create_task(
                self._switch(specialist), name=f"load {specialist.name}", context=contextvars.Context()
            )
            self._loads[wanted] = task
            task.add_done_callback(lambda _: self._loads.pop(wanted))
        # One that leaves half-way does not end the switch of the others.
        await asyncio.shield(self._loads[wanted])

    async def _switch(self, specialist: Specialist) -> None:
        async with self._lock:
            key = _key(specialist)
            if self._seat_of(specialist) is not None or not self._may_load(specialist):
                return
            before = self._seats.get(key)
            await self._seat(key, self._groups[key], asked=_adapter(specialist))
            for leaving in self._leaving:
                if leaving[1] is before:
                    self._retire(leaving)

    async def _prepare(self, specialist: Specialist) -> ModelFiles:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._files_thread, self._files.fetch, self._store, specialist)

    async def _seat(self, key: Key, group: list[ModelFiles], asked: str = "") -> dict[str, str]:
        """Run the engine of a group; adapters that it answers nonsense under are left out."""
        refused: dict[str, str] = {}
        before = self._seats.get(key)
        while group:
            loaded = self._choose(group, before.adapters if before else (), asked)
            spec, adapters = _specification(loaded, group, self._settings)
            if before is not None and before.engine.spec == spec:
                down = before.engine.state is EngineState.DOWN
                return refused | (self._note(loaded, before.engine.error) if down else {})
            engine = EngineProcess(spec, self._settings, self._files.check_of(spec))
            # In a context of its own: a request that registers lends its id to none of the engine's log lines.
            self._tasks.create_task(engine.run(), name=engine.name, context=contextvars.Context())
            problem, unsound = "", {}
            try:
                await engine.settled()
                unsound = await self._probe(key, engine, adapters, loaded)
            except BackendDownError as error:
                problem = str(error)
            except asyncio.CancelledError:
                engine.stop()
                raise
            if unsound:
                engine.stop()
                for sha256, reason in unsound.items():
                    named = [files for files in group if _adapter(files.specialist) == sha256]
                    refused |= self._note(
                        named, f"{named[0].adapter.name if named[0].adapter else sha256}: {reason}"
                    )
                group = [files for files in group if _adapter(files.specialist) not in unsound]
                continue
            if problem and before is not None:
                engine.stop()
                # What the engine before it holds, it goes on serving.
                held_back = [f for f in loaded if not _held(f.specialist, before.adapters)]
                return refused | self._note(held_back, problem)
            # An engine that does not start and replaces nothing stays: its supervisor goes on trying.
            self._seats[key] = _Seat(engine, adapters)
            if before is not None:
                self._leaving.append((key, before))
            return refused | (self._note(loaded, problem) if problem else {})
        return refused

    def _choose(self, group: list[ModelFiles], held: tuple[str, ...], asked: str) -> list[ModelFiles]:
        """Return those to load: the adapter that is asked for, those that are loaded, and the last used."""
        adapters = list(dict.fromkeys(_adapter(f.specialist) for f in group if f.adapter))
        if asked:
            # The others make room in the order of their use, whether they are loaded now or not.
            adapters.sort(
                key=lambda sha256: (sha256 != asked, sha256 not in held, -self._used.get(sha256, 0))
            )
        else:
            adapters.sort(key=lambda sha256: (sha256 not in held, -self._used.get(sha256, 0)))
        chosen = set(adapters[: self._settings.max_adapters])
        return [f for f in group if not f.adapter or _adapter(f.specialist) in chosen]

    async def _probe(
        self, key: Key, engine: EngineProcess, adapters: tuple[str, ...], group: list[ModelFiles]
    ) -> dict[str, str]:
        """Let every adapter that is new say a few tokens; returns what is wrong, by sha256."""
        unsound: dict[str, str] = {}
        for files in group:
            adapter = files.specialist.adapter
            if adapter is None:
                continue
            sha256 = adapter.artifact.sha256
            if (key, sha256, adapter.scale) in self._probed or sha256 in unsound:
                continue
            scales = tuple(adapter.scale if held == sha256 else 0.0 for held in adapters)
            if reason := await engine.probe(scales):
                unsound[sha256] = reason
            else:
                self._probed.add((key, sha256, adapter.scale))
        return unsound

    def _note(self, group: Sequence[ModelFiles], problem: str) -> dict[str, str]:
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


def _adapter(specialist: Specialist) -> str:
    """Return the sha256 of its adapter; '' for the bare base."""
    return specialist.adapter.artifact.sha256 if specialist.adapter else ""


def _held(specialist: Specialist, adapters: tuple[str, ...]) -> bool:
    return specialist.adapter is None or specialist.adapter.artifact.sha256 in adapters


def _figures(engine: EngineProcess, adapter: str) -> EngineFigures:
    admission = engine.admission
    return EngineFigures(
        engine=engine.name,
        resident_bytes=engine.resident_bytes,
        slots=admission.slots,
        busy_slots=admission.held,
        waiting=admission.waiting,
        tokens_per_s=admission.tokens_per_s,
        hit_rate=admission.tally(adapter).hit_rate,
    )


def _specification(
    loaded: list[ModelFiles], group: list[ModelFiles], settings: EngineSettings
) -> tuple[EngineSpec, tuple[str, ...]]:
    """Return the engine of `loaded`; what else is in the group may be loaded later, and changes nothing else."""
    adapters = {_adapter(files.specialist): files.adapter for files in loaded if files.adapter}
    order = tuple(sorted(adapters))
    kind = group[0].specialist.engine
    native = settings.llama_server if kind == "llama_cpp" else None
    turns = len({_adapter(files.specialist) for files in loaded})
    spec = EngineSpec(
        kind="llama_server" if native else kind,
        model=group[0].base,
        adapters=tuple(adapters[sha256] for sha256 in order),
        context_tokens=max(files.specialist.context_tokens for files in group),
        slots=settings.slots if kind == "llama_cpp" else 1,
        threads=settings.threads,
        binary=native,
    )
    if spec.takes_turns:
        spec = replace(spec, spare_slots=min(settings.spare_slots, turns - 1))
    return spec, order
