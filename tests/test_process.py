"""`pointsman serve` as an operator runs it: a process of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from harness import BASE_SHA256, Site, write_specialist
from pointsman import Client
from pointsman.client import constraints
from pointsman.settings import load
from pointsman.v1 import router_pb2

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("base_model")]

ROOT = Path(__file__).parent.parent


@dataclass
class Served:
    process: subprocess.Popen[str]
    log: Path
    port: int = 0

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, object]]:
        return [line for line in self.lines() if line["event"] == name]

    def wait_for(self, name: str) -> None:
        """Wait for a line: a reply is sent before it is noted."""
        deadline = time.monotonic() + 10
        while not self.events(name):
            assert time.monotonic() < deadline, f"no {name} in {self.log.read_text()}"
            time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _environment(site: Site, **settings: str) -> dict[str, str]:
    ours = {
        "PATHS__INTENTS": str(site.intents),
        "PATHS__SPECIALISTS": str(site.specialists),
        "PATHS__CACHE": str(site.root / "cache"),
        "LOG__FORMAT": "json",
    } | settings
    return os.environ | {f"POINTSMAN_{key}": value for key, value in ours.items()}


@contextmanager
def _serve(site: Site, *, prefix: tuple[str, ...] = (), **settings: str) -> Iterator[Served]:
    log = site.root / "log"
    # A port that is found free first may be taken by its own engine before it listens.
    listeners = {"SERVER__ADDRESS": "127.0.0.1:0", "SERVER__METRICS_ADDRESS": ""}
    environment = _environment(site, **listeners | settings)
    with log.open("w") as sink:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "pointsman", "serve"],
            env=environment,
            stderr=sink,
            cwd=site.root,
            text=True,
        )
    served = Served(process, log)
    try:
        deadline = time.monotonic() + 60
        while not served.events("server.ready"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        served.port = int(str(served.events("server.ready")[0]["port"]))
        yield served
    finally:
        process.kill()
        process.wait()


def _engine_pid(served: Served) -> int:
    return int(str(served.events("engine.ready")[0]["pid"]))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_drains_streams_finish_and_nothing_is_left(site: Site) -> None:
    with _serve(site.fill()) as served, Client(f"127.0.0.1:{served.port}") as client:
        sampling = router_pb2.Sampling(temperature=0, max_tokens=60)
        events = client.generate("Tell a long story.", constraints(specialist="general"), sampling)
        next(events)
        next(events)
        served.process.send_signal(signal.SIGTERM)
        rest = list(events)
        assert rest[-1].WhichOneof("event") == "done"
        assert served.process.wait(20) == 0
        assert served.events("server.stopped")[0]["streams_cut"] == 0
        assert not _alive(_engine_pid(served))


def test_ctrl_c_stops_it_the_same_way(site: Site) -> None:
    with _serve(site.fill()) as served:
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(20) == 0
        assert "Traceback" not in served.log.read_text()


def test_streams_that_outlast_the_grace_period_are_cut(site: Site) -> None:
    with _serve(site.fill(), SERVER__GRACE_S="0.2") as served, Client(f"127.0.0.1:{served.port}") as client:
        sampling = router_pb2.Sampling(temperature=0, max_tokens=250)
        story = "Tell me a very long story about a railway, a river and a town, with many details."
        events = client.generate(story, constraints(specialist="general"), sampling)
        next(events)
        next(events)
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError):
            list(events)
        assert served.process.wait(20) == 0
        assert served.events("server.stopped")[0]["streams_cut"] == 1


def test_an_engine_ends_when_its_server_is_killed(site: Site) -> None:
    with _serve(site.fill()) as served:
        pid = _engine_pid(served)
        served.process.kill()
        served.process.wait()
        deadline = time.monotonic() + 10
        while _alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_one_line_a_request_without_its_text_unless_switched_on(site: Site) -> None:
    secret = "my order number is heliotrope"
    with _serve(site.fill()) as served, Client(f"127.0.0.1:{served.port}") as client:
        client.route(secret)
        list(client.generate(secret, None, router_pb2.Sampling(max_tokens=3)))
        served.wait_for("route.decided")
        served.wait_for("generate.done")
    assert "heliotrope" not in served.log.read_text()
    (routed,) = served.events("route.decided")
    assert {"request_id", "tier", "specialist", "intent", "reason", "route_ms", "embed_ms"} <= set(routed)
    (done,) = served.events("generate.done")
    assert {"prompt_tokens", "completion_tokens", "ttft_ms", "answer_ms", "slot_wait_ms"} <= set(done)
    assert done["request_id"] != routed["request_id"]
    with _serve(site, LOG__PROMPTS="true") as served, Client(f"127.0.0.1:{served.port}") as client:
        client.route(secret)
        served.wait_for("route.decided")
    assert served.events("route.decided")[0]["prompt"] == secret


def test_metrics_count_on_their_own_port(site: Site) -> None:
    address = f"127.0.0.1:{_free_port()}"
    served_with_metrics = _serve(site.fill(), SERVER__METRICS_ADDRESS=address)
    with served_with_metrics as served, Client(f"127.0.0.1:{served.port}") as client:
        client.route("refund my order")
        list(client.generate("refund my order", None, router_pb2.Sampling(max_tokens=3)))
        with pytest.raises(grpc.RpcError):
            client.route("")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
            text = reply.read().decode()
    for sample in (
        'pointsman_rpc_total{code="OK",method="Route"} 1.0',
        'pointsman_rpc_total{code="INVALID_ARGUMENT",method="Route"} 1.0',
        'pointsman_decisions_total{reason="intent_match",specialist="support",tier="local"} 2.0',
        'pointsman_tokens_total{direction="completion",specialist="support",tier="local"} 3.0',
        "pointsman_catalog_intents 2.0",
        'pointsman_engine_up{engine="llama_cpp engine SmolLM2-135M-Instruct.Q4_1.gguf"} 1.0',
        'pointsman_engine_swap_failed{engine="llama_cpp engine SmolLM2-135M-Instruct.Q4_1.gguf"} 0.0',
    ):
        assert sample in text


@pytest.mark.parametrize("which", ["SERVER__ADDRESS", "SERVER__METRICS_ADDRESS"])
def test_a_taken_port_ends_the_start_with_one_line(site: Site, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"SERVER__ADDRESS": "127.0.0.1:0", "SERVER__METRICS_ADDRESS": ""} | {which: address}
        result = subprocess.run(
            [sys.executable, "-m", "pointsman", "serve"],
            env=_environment(site, **settings),
            cwd=site.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 2
    assert address in result.stderr
    assert which.lower().replace("__", ".") in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_file_that_was_damaged_while_nothing_ran_is_fetched_again_at_the_start(
    site: Site, base_model: Path
) -> None:
    source = site.root / "base.gguf"
    shutil.copy(base_model, source)
    write_specialist(site.specialists, "general", base={"uri": f"file:{source}", "sha256": BASE_SHA256})
    cached = load().paths.models / BASE_SHA256 / "base.gguf"
    try:
        content = bytearray(base_model.read_bytes())
        content[-1] ^= 0xFF
        cached.write_bytes(content)
        with _serve(site) as served, Client(f"127.0.0.1:{served.port}") as client:
            events = list(client.generate("hello", constraints(specialist="general")))
        assert events[-1].WhichOneof("event") == "done"
        assert served.events("artifact.damaged")[0]["path"] == str(cached)
        assert cached.read_bytes() == base_model.read_bytes()
    finally:
        cached.unlink()
        cached.with_name(".base.gguf.verified").unlink(missing_ok=True)


def test_serving_imports_no_torch(site: Site) -> None:
    with _serve(site.fill()) as served:
        maps = Path(f"/proc/{served.process.pid}/maps").read_text()
        assert "onnxruntime" in maps
        assert "torch" not in maps
        assert "torch" not in Path(f"/proc/{_engine_pid(served)}/maps").read_text()


def test_buf_curl_uses_it_from_reflection_alone(site: Site) -> None:
    buf = Path(sys.executable).with_name("buf")
    with _serve(site.fill()) as served:

        def said(method: str, request: str) -> str:
            url = f"http://127.0.0.1:{served.port}/pointsman.v1.{method}"
            result = subprocess.run(
                [str(buf), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", request, url],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                cwd=site.root,
            )
            assert result.returncode == 0, result.stderr
            return result.stdout.replace(" ", "")

        prompt = '"messages": [{"role": "ROLE_USER", "content": "refund my order"}]'
        assert '"specialist":"support"' in said("RouterService/Route", f"{{{prompt}}}")
        answer = said("RouterService/Generate", f'{{{prompt}, "sampling": {{"maxTokens": 3}}}}')
        assert '"specialist":"support"' in answer
        assert '"done"' in answer
        assert '"name":"refund"' in said("CatalogService/ListIntents", "{}")
