"""One engine in one child process: start, health, restart with backoff, clean stop."""

import asyncio
import json
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from contextlib import aclosing, suppress
from dataclasses import dataclass

import structlog

from pointsman.errors import ArtifactError, BackendDownError, unwrap
from pointsman.generation.adapter_admission import AdapterAdmission
from pointsman.generation.backend import Question, Stream
from pointsman.generation.chat_client import ChatClient
from pointsman.generation.deadline import NO_DEADLINE, Deadline
from pointsman.generation.engine_files import CheckedFiles
from pointsman.generation.engine_spec import EngineSpec
from pointsman.generation.engine_watch import until_overwritten, until_silent
from pointsman.generation.interlude import interlude
from pointsman.generation.llama_client import PROBE_TOKENS, LlamaClient
from pointsman.generation.place import Place
from pointsman.generation.swap_space import swap_space
from pointsman.sections import Engine as EngineSettings
from pointsman.settings import child_environment
from pointsman.values.catalog import EngineState

_log = structlog.get_logger()
_CHILDREN = {
    "llama_cpp": "pointsman.generation.llama_cpp_child",
    "llama_server": "pointsman.generation.llama_server_child",
    "ctransformers": "pointsman.generation.ctransformers_child",
}
_HEALTHY_AFTER_S = 30.0
"""An engine that lived this long restarts at once; one that did not waits longer each time."""
_LINES_KEPT = 20
_CHUNK = 4096
_CONNECT_S = 5.0
_DEATH_NOTICE_S = 0.5


@dataclass(frozen=True, slots=True)
class Probe:
    """What is wrong with answers under an adapter, if anything, and whether the engine died of it, twice."""

    wrong: str = ""
    died: bool = False


class EngineProcess:
    """A supervised engine. `run` is its life, owned by whoever starts it."""

    def __init__(self, spec: EngineSpec, settings: EngineSettings, files: CheckedFiles | None = None) -> None:
        """Take `spec`; `files` are verified before every start, and watched as long as the engine runs."""
        self.spec = spec
        self._files = files
        self.name = f"{spec.kind} engine {spec.model.name}"
        self.admission = AdapterAdmission(
            self.name,
            spec.slots,
            settings.queue_limit,
            settings.adapter_turn_s,
            engine_slots=spec.slots + spec.spare_slots,
        )
        self.state = EngineState.STARTING
        self.error = ""
        self.restarts = 0
        self.pid: int | None = None
        self.url = ""
        self.resident_bytes: int | None = None
        """As last measured."""
        self.in_flight = 0
        """Requests that hold a lease on this engine."""
        self._settings = settings
        self._start_took_s: float | None = None  # the last one that succeeded
        self._starts_at = 0.0  # the start that goes on, or the next one, by the loop's clock
        self._key = secrets.token_hex(16)
        self._client: ChatClient | LlamaClient | None = None
        self._process: Process | None = None
        self._settled = asyncio.Event()  # the first start has succeeded or failed
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._stderr: deque[str] = deque(maxlen=_LINES_KEPT)

    async def run(self) -> None:
        """Keep the engine alive until `stop`."""
        ours, admission = self.spec.kind == "llama_cpp", self.admission  # others copy no caches to our files
        swap_mib = self._settings.swap_mib if ours and self.spec.adapters else 0
        with swap_space(swap_mib) as admission.swap, interlude(wanted=ours) as admission.interlude:
            await self._keep_alive()

    async def _keep_alive(self) -> None:
        backoff = self._settings.restart_backoff_s
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            begun = loop.time()
            try:
                await self._live_once()
            except ArtifactError as error:
                self.error = str(error)
                self.state = EngineState.DOWN
                self._settled.set()
            except (OSError, ValueError, ExceptionGroup) as raised:  # no process, or one that talks nonsense
                inner = unwrap(raised)
                self.error = f"{type(inner).__name__}: {inner}"
                self.state = EngineState.DOWN
                self._settled.set()
            if self._stop.is_set():
                break
            if loop.time() - begun > _HEALTHY_AFTER_S:
                backoff = self._settings.restart_backoff_s
            self.restarts += 1
            self._starts_at = loop.time() + backoff
            _log.warning("engine.ended", engine=self.name, error=self.error, restart_in_s=backoff)
            await _wait(self._stop, backoff)
            backoff = min(2 * backoff, self._settings.restart_backoff_max_s)

    async def settled(self) -> None:
        """Wait for the first start to end.

        Raises:
            BackendDownError: it failed; says why.

        """
        await self._settled.wait()
        if self.state is not EngineState.READY:
            raise BackendDownError(f"{self.name} does not start: {self.error}", permanent=True)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End the engine and its supervision; `run` returns when it is gone."""
        self._stop.set()

    def ready_in_s(self) -> float | None:
        """Return about how long the engine takes to be ready; None where that is not known."""
        if self.state is EngineState.READY:
            return 0.0
        if self._start_took_s is None:
            return None
        return max(0.0, self._starts_at + self._start_took_s - asyncio.get_running_loop().time())

    async def stream(
        self, question: Question, place: Place | None = None, deadline: Deadline = NO_DEADLINE
    ) -> Stream:
        """Answer; waits for an engine that is restarting. See `LlamaClient.stream`.

        Raises:
            DeadlineError: it does not restart before the deadline.

        """
        said = False
        for last_try in (False, True):
            client = await self._connected(deadline)
            generation = self.restarts
            try:
                answer = (
                    client.stream(question, place)
                    if isinstance(client, LlamaClient)
                    else client.stream(question)
                )
                async with aclosing(answer) as stream:
                    async for item in stream:
                        said = True
                        yield item
            except BackendDownError as error:
                died = await self._died(generation)
                if died and not said and not last_try:  # perhaps before it was asked: ask the next one, once
                    continue
                if died:
                    message = f"{self.name} ended within the answer; it is being restarted"
                    raise BackendDownError(message, retry_after_s=1.0) from error
                raise
            return

    async def probe(self, adapters: tuple[float, ...], batch: str) -> Probe:
        """Say a few tokens under these adapters, in a turn of their own; tell what is wrong, if it can be told.

        Raises:
            BackendDownError: the engine is down.

        """
        error = ""
        for _ in range(2):  # an engine that dies may die of something else
            client = await self._connected()
            if not isinstance(client, LlamaClient):
                return Probe()
            try:
                async with self.admission.place(batch, PROBE_TOKENS, probes=True) as place:
                    sound = await client.probe(adapters, place)
            except BackendDownError as failure:
                error = str(failure)
                await self._died(self.restarts)
            else:
                return Probe("" if sound else "log-probabilities under this adapter are not numbers")
        return Probe(f"the engine fails under this adapter: {error}", died=True)

    async def _connected(self, deadline: Deadline = NO_DEADLINE) -> ChatClient | LlamaClient:
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._ready, self._stop)]
        ready = asyncio.ensure_future(asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED))
        try:
            async with asyncio.timeout(self._settings.start_timeout_s):
                await deadline.wait(ready, self.ready_in_s(), f"{self.name} is being started")
        except TimeoutError:
            message = f"{self.name} is down: {self.error}"
            public = f"{self.name} is down; it is being restarted"
            raise BackendDownError(message, retry_after_s=5.0, public=public) from None
        finally:
            for task in (ready, *waiting):
                task.cancel()
        if self._client is None:  # it is ending, or ended again before we came to ask it
            raise BackendDownError(f"{self.name} is gone", retry_after_s=1.0)
        return self._client

    async def _died(self, generation: int) -> bool:
        """Return whether the engine that was asked is gone; its connections break a moment before it is."""
        if self._process is not None and self._process.returncode is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEATH_NOTICE_S):
                    await self._process.wait()
                    while self.restarts == generation:  # its supervisor notices it, too
                        await asyncio.sleep(0.01)
        return self.restarts != generation or self._process is None or self._process.returncode is not None

    async def _live_once(self) -> None:
        self.state = EngineState.STARTING
        self._starts_at = asyncio.get_running_loop().time()
        if self._files is not None:
            await asyncio.to_thread(self._files.verify)
        process = await self._spawn()
        self._process = process
        self.pid = process.pid
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._drain(process), name=f"{self.name} stderr")
                try:
                    port = await self._handshake(process)
                    if port is not None:
                        await self._serve(process, port)
                finally:
                    await self._end(process)
        finally:
            self._ready.clear()
            self.state = EngineState.DOWN
            self._settled.set()
            if self._client is not None:
                await self._client.close()
                self._client = None

    async def _spawn(self) -> Process:
        files = self.admission.files  # which the engine inherits
        specification = self.spec.as_json(api_key=self._key, copies=bool(files))
        self._stderr.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _CHILDREN[self.spec.kind],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C is for us: we drain first
            pass_fds=files,
        )
        assert process.stdin is not None  # noqa: S101 - piped
        try:
            process.stdin.write(specification)
            await process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it died at once; the handshake says so
        return process

    async def _handshake(self, process: Process) -> int | None:
        assert process.stdout is not None  # noqa: S101 - piped
        stopping = asyncio.ensure_future(self._stop.wait())
        reading = asyncio.ensure_future(process.stdout.readline())
        try:
            await asyncio.wait(
                {stopping, reading},
                timeout=self._settings.start_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._stop.is_set():
                return None
            if not reading.done():
                self.error = (
                    f"not loaded within {self._settings.start_timeout_s:g} s (engine.start_timeout_s)"
                )
                return None
            line = reading.result()
        finally:
            stopping.cancel()
            reading.cancel()
        if not line:
            self.error = await self._epitaph(process)
            return None
        answer = json.loads(line)
        if "error" in answer:
            self.error = f"{answer['error']}{self._last_words()}"
            return None
        return int(answer["port"])

    async def _serve(self, process: Process, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        # In a thread: the first client of a process imports and reads files.
        self._client = await asyncio.to_thread(self._connect)
        self.admission.engine_began()
        if isinstance(self._client, LlamaClient) and self.admission.interlude and self.admission.last_slot:
            await self._client.fill(self.admission.last_slot)
        self.state = EngineState.READY
        self._start_took_s = asyncio.get_running_loop().time() - self._starts_at
        self.error = ""
        self._ready.set()
        self._settled.set()
        _log.info("engine.ready", engine=self.name, pid=process.pid, adapters=len(self.spec.adapters))
        waiting = [
            asyncio.ensure_future(process.wait()),
            asyncio.ensure_future(self._stop.wait()),
            asyncio.ensure_future(until_silent(self.url, self._settings.health_interval_s)),
        ]
        if self._files is not None:
            waiting.append(asyncio.ensure_future(until_overwritten(self.name, self._files)))
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a watcher that failed is a fault of ours, not of the engine
        finally:
            for task in waiting:
                task.cancel()
        if not self._stop.is_set():
            self.error = (
                "stopped answering health checks"
                if process.returncode is None
                else (await self._epitaph(process))
            )

    def _connect(self) -> ChatClient | LlamaClient:
        read_s = self._settings.idle_read_timeout_s
        if self.spec.takes_turns:
            return LlamaClient(self.name, self.url, self._key, connect_s=_CONNECT_S, read_s=read_s)
        model = self.spec.model.name
        return ChatClient(
            self.name,
            f"{self.url}/v1",
            model,
            self._key,
            connect_s=_CONNECT_S,
            read_s=read_s,
            retries=0,
            ours=True,
        )

    async def _end(self, process: Process) -> None:
        """End the child: by the end of its stdin, and by force when that does not help."""
        assert process.stdin is not None  # noqa: S101 - piped
        process.stdin.close()
        try:
            async with asyncio.timeout(self._settings.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _drain(self, process: Process) -> None:
        assert process.stderr is not None  # noqa: S101 - piped
        rest = ""
        while chunk := await process.stderr.read(_CHUNK):  # not readline: a line without end would raise
            *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
            for line in (*lines, rest[-_CHUNK:] if len(rest) > _CHUNK else ""):
                if line.strip():
                    self._stderr.append(line.strip())
                    _log.debug("engine.said", engine=self.name, line=line.strip())
            rest = "" if len(rest) > _CHUNK else rest
        if rest.strip():
            self._stderr.append(rest.strip())

    async def _epitaph(self, process: Process) -> str:
        try:
            async with asyncio.timeout(self._settings.stop_timeout_s):
                code = await process.wait()
        except TimeoutError:
            return f"closed its output{self._last_words()}"
        await asyncio.sleep(0)  # let the last lines arrive
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"{how}{self._last_words()}"

    def _last_words(self) -> str:
        return f"; it said: {self._stderr[-1]}" if self._stderr else ""


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
