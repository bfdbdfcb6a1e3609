"""Specialists to running engines: one engine a base model, holding the adapters over that base.

An engine knows its adapters from its start on, so a new adapter means a new engine beside the old one,
a switch, and a drain: streams that run are neither dropped nor delayed by it. An engine holds
`engine.max_adapters`; one that is asked for beyond those takes the place of the least recently used.
"""

import asyncio
import contextvars
import math
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pointsman.artifacts.store import ArtifactStore
from pointsman.errors import ArtifactError, BackendDownError
from pointsman.generation.deadline import Deadline
from pointsman.generation.engine_figures import figures_of
from pointsman.generation.engine_files import EngineFiles, ModelFiles
from pointsman.generation.engine_plan import (
    Key,
    adapter_of,
    batch_of,
    choose,
    is_held,
    key_of,
    scales_of,
    specification,
)
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.engine_spec import EngineSpec
from pointsman.generation.lease import Lease
from pointsman.generation.memory import resident_bytes
from pointsman.generation.shared_work import SharedWork
from pointsman.generation.verdicts import RETRY_S, Verdicts
from pointsman.sections import Engine as EngineSettings
from pointsman.values.catalog import EngineState, Specialist, SpecialistStatus

_DRAIN_POLL_S = 0.05
_LATECOMERS_S = 1.0
"""How long requests that were routed before a change may take to reach their engine."""
_FETCHES = 4


@dataclass(frozen=True, slots=True)
class _Seat:
    """A running engine, and the sha256 of its adapters in its order."""

    engine: EngineProcess
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Start:
    """An engine that was started: why it is of no use, if it is not, and whether all its adapters are sound."""

    engine: EngineProcess
    problem: str
    sound: bool


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
        self._verdicts = Verdicts()
        self._works = SharedWork(tasks)
        self._starting: set[EngineProcess] = set()
        self._ending = False
        self._took_s: dict[Key, float] = {}  # the last start of an engine, and its probes
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
        self._verdicts.pardon()

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

    async def apply(
        self, specialists: Sequence[Specialist], asked: Specialist | None = None
    ) -> dict[str, str]:
        """Run the engines that these specialists need, and no others; returns what is wrong, by name.

        A specialist with a problem takes nothing from the others: an engine that does not start leaves the
        one before it in place.

        asked: is loaded whatever else makes room for it
        """
        async with self._lock:
            groups: dict[Key, list[ModelFiles]] = {}
            problems = await self.verify(specialists)
            for specialist in specialists:
                if specialist.name not in problems:
                    groups.setdefault(key_of(specialist), []).append(await self._prepare(specialist))
            for key, group in groups.items():
                wanted = asked is not None and key_of(asked) == key
                problems |= await self._seat(key, group, adapter_of(asked) if asked and wanted else "")
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
        seat = self._seats.get(key_of(specialist))
        if seat is None or self._verdicts.wrong(specialist):
            return SpecialistStatus(specialist, EngineState.DOWN, self._problem(specialist))
        if not is_held(specialist, seat.adapters):
            if self._may_load(specialist):
                return SpecialistStatus(specialist, seat.engine.state, seat.engine.error, loaded=False)
            return SpecialistStatus(specialist, EngineState.DOWN, self._problem(specialist))
        return SpecialistStatus(
            specialist,
            seat.engine.state,
            seat.engine.error,
            figures=figures_of(seat.engine, batch_of(specialist)),
        )

    @asynccontextmanager
    async def lease(
        self, specialist: Specialist, budget_s: float | None = None
    ) -> AsyncGenerator[Lease, None]:
        """Hold the engine of a specialist for one answer; loads its adapter first where it is not loaded.

        Raises:
            BackendDownError: its files were refused, or it is not loaded.
            DeadlineError: it has to be loaded, or its engine started, which takes longer than `budget_s`.

        """
        deadline = Deadline.within(budget_s)
        seat = self._seat_of(specialist)
        if seat is None and self._may_load(specialist):
            await self._load(specialist, deadline)
            seat = self._seat_of(specialist)
        if seat is None:
            raise self._cannot_answer(specialist)
        self._uses += 1
        self._used[adapter_of(specialist)] = self._uses
        engine = seat.engine
        engine.in_flight += 1
        try:
            deadline.ensure(engine.ready_in_s(), f"{engine.name} is being started")
            if not self._verdicts.known_sound(specialist):
                await self._prove(seat, specialist, deadline)
            scales = scales_of(specialist, seat.adapters) if specialist.engine == "llama_cpp" else None
            yield Lease(engine, scales, batch_of(specialist), deadline, self._tasks)
        finally:
            engine.in_flight -= 1

    def stop(self) -> None:
        """End all engines."""
        self._ending = True
        for engine in [*self.engines, *(seat.engine for _, seat in self._leaving), *self._starting]:
            engine.stop()
        self._seats.clear()
        self._files_thread.shutdown(wait=False, cancel_futures=True)

    def _problem(self, specialist: Specialist) -> str:
        wrong = self._verdicts.wrong(specialist)
        return wrong or self._problems.get(specialist, "its model files are not loaded yet")

    def _cannot_answer(self, specialist: Specialist) -> BackendDownError:
        return BackendDownError(
            f"specialist {specialist.name!r} cannot answer: {self._problem(specialist)}",
            retry_after_s=1.0,
            public=f"specialist {specialist.name!r} cannot answer now",
        )

    def _seat_of(self, specialist: Specialist) -> _Seat | None:
        if self._verdicts.wrong(specialist):
            return None
        key = key_of(specialist)
        seats = [self._seats.get(key)]
        if not self._may_load(specialist):
            # A request that was routed before a change finds the engine of its time.
            seats += [seat for left, seat in self._leaving if left == key]
        return next(
            (s for s in seats if s and is_held(specialist, s.adapters) and not s.engine.stopping), None
        )

    def _may_load(self, specialist: Specialist) -> bool:
        """Whether its files are in order, and it is only not loaded."""
        stated = any(files.specialist == specialist for files in self._groups.get(key_of(specialist), ()))
        return stated and not self._verdicts.wrong(specialist)

    async def _load(self, specialist: Specialist, deadline: Deadline) -> None:
        """Switch to an engine that holds the specialist's adapter; requests that wait for it share one switch."""
        key = key_of(specialist)
        work = self._works.begin(("load", key, adapter_of(specialist)), lambda: self._switch(specialist))
        took_s = self._took_s.get(key)
        needed_s = None if took_s is None else max(0.0, took_s - work.done_for_s)
        await deadline.wait(work.task, needed_s, f"specialist {specialist.name!r} is being loaded")
        work.ensure_done()

    async def _switch(self, specialist: Specialist) -> None:
        async with self._lock:
            key = key_of(specialist)
            if self._seat_of(specialist) is not None or not self._may_load(specialist):
                return
            before = self._seats.get(key)
            refused = await self._seat(key, self._groups[key], asked=adapter_of(specialist))
            if specialist.name in refused and not self._verdicts.wrong(specialist):
                # No engine starts with it: not for every request that asks for it.
                self._verdicts.condemn(specialist, refused[specialist.name], RETRY_S)
            for leaving in self._leaving:
                if leaving[1] is before:
                    self._retire(leaving)

    async def _prove(self, seat: _Seat, specialist: Specialist, deadline: Deadline) -> None:
        """Have an engine answer under an adapter that was never asked, before a caller is answered under it.

        Raises:
            BackendDownError: the engine is down, or answers nonsense.
            DeadlineError: there is no time for it.

        """
        name = "probe", key_of(specialist), batch_of(specialist)
        work = self._works.begin(name, lambda: self._probe(seat.engine, seat.adapters, specialist))
        await deadline.wait(work.task, None, f"specialist {specialist.name!r} is being tried")
        work.ensure_done()
        if self._verdicts.wrong(specialist):
            raise self._cannot_answer(specialist)

    async def _prepare(self, specialist: Specialist) -> ModelFiles:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._files_thread, self._files.fetch, self._store, specialist)

    async def _seat(self, key: Key, group: list[ModelFiles], asked: str = "") -> dict[str, str]:
        """Run the engine of a group; adapters that it answers nonsense under are left out."""
        refused: dict[str, str] = {}
        before = self._seats.get(key)
        while True:
            for wrong in [files for files in group if self._verdicts.wrong(files.specialist)]:
                refused |= self._note([wrong], self._verdicts.wrong(wrong.specialist))
            group = [files for files in group if not self._verdicts.wrong(files.specialist)]
            if not group:
                return refused
            held = before.adapters if before else ()
            loaded = choose(group, held, self._used, asked, self._settings.max_adapters)
            spec, adapters = specification(loaded, group, self._settings)
            if before is not None and before.engine.spec == spec:
                problems = await self._go_on(before.engine, adapters, loaded)
                if problems is None:
                    continue
                return refused | problems
            new = await self._start(key, spec, adapters, loaded)
            if not new.sound:
                new.engine.stop()
                continue
            if new.problem and before is not None:
                new.engine.stop()
                # What the engine before it holds, it goes on serving.
                held_back = [f for f in loaded if not is_held(f.specialist, before.adapters)]
                return refused | self._note(held_back, new.problem)
            # An engine that does not start and replaces nothing stays: its supervisor goes on trying.
            self._seats[key] = _Seat(new.engine, adapters)
            if before is not None:
                self._leaving.append((key, before))
            return refused | (self._note(loaded, new.problem) if new.problem else {})

    async def _start(
        self, key: Key, spec: EngineSpec, adapters: tuple[str, ...], loaded: Sequence[ModelFiles]
    ) -> _Start:
        engine = EngineProcess(spec, self._settings, self._files.of(spec))
        if self._ending:  # a load may outlast the request that asked for it
            return _Start(engine, "the server is shutting down", sound=True)
        began = asyncio.get_running_loop().time()
        # In a context of its own: a request that registers lends its id to none of the engine's log lines.
        self._tasks.create_task(engine.run(), name=engine.name, context=contextvars.Context())
        self._starting.add(engine)
        try:
            await engine.settled()
            sound = await self._all_sound(engine, adapters, loaded)
        except BackendDownError as error:
            return _Start(engine, str(error), sound=True)
        except asyncio.CancelledError:
            engine.stop()
            raise
        finally:
            self._starting.discard(engine)
        self._took_s[key] = asyncio.get_running_loop().time() - began
        return _Start(engine, "", sound)

    async def _go_on(
        self, engine: EngineProcess, adapters: tuple[str, ...], loaded: Sequence[ModelFiles]
    ) -> dict[str, str] | None:
        """Go on with an engine that has all files already, and perhaps not all scales; None if one is unsound."""
        if engine.state is EngineState.DOWN:
            return self._note(loaded, engine.error)
        new = [files for files in loaded if not self._verdicts.known_sound(files.specialist)]
        try:
            return {} if await self._all_sound(engine, adapters, new) else None
        except BackendDownError as error:
            return self._note(new, str(error))

    async def _all_sound(
        self, engine: EngineProcess, adapters: tuple[str, ...], group: Sequence[ModelFiles]
    ) -> bool:
        """Return whether the engine answers sense for each, asking where that is not known."""
        for files in group:
            await self._probe(engine, adapters, files.specialist)
        return not any(self._verdicts.wrong(files.specialist) for files in group)

    async def _probe(self, engine: EngineProcess, adapters: tuple[str, ...], specialist: Specialist) -> None:
        """Let the engine say a few tokens under an adapter and scale that it was never asked under."""
        verdicts, adapter = self._verdicts, specialist.adapter
        if adapter is None or verdicts.known_sound(specialist) or verdicts.wrong(specialist):
            return
        probe = await engine.probe(scales_of(specialist, adapters), batch_of(specialist))
        if not probe.wrong:
            verdicts.clear(specialist)
            return
        file = engine.spec.adapters[adapters.index(adapter.artifact.sha256)].name
        reason = f"{file} at scale {adapter.scale:g}: {probe.wrong}"
        verdicts.condemn(specialist, reason, RETRY_S if probe.died else math.inf)

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
