"""A native llama-server in place of the embedded engine.

The binary here is a script over the same llama.cpp library that understands llama-server's flags; the flags
themselves are those of llama.cpp's documentation.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapters import write_adapter
from harness import Site, collect, running, until, write_specialist
from pointsman.client import constraints
from pointsman.v1 import router_pb2

pytestmark = pytest.mark.model

SCRIPT = f"""#!{sys.executable}
import argparse, os, signal, xllamacpp
parser = argparse.ArgumentParser()
for flag in ("model", "host", "lora"):
    parser.add_argument("--" + flag, default="")
for flag in ("port", "parallel", "ctx-size", "predict", "threads", "threads-batch", "verbosity", "batch-size",
             "cache-ram"):
    parser.add_argument("--" + flag, type=int)
for flag in ("slots", "no-webui", "lora-init-without-apply"):
    parser.add_argument("--" + flag, action="store_true")
a = parser.parse_args()
p = xllamacpp.CommonParams()
p.model.path, p.hostnames, p.port, p.n_parallel, p.n_ctx = a.model, [a.host], a.port, a.parallel, a.ctx_size
p.n_predict, p.cpuparams.n_threads, p.cpuparams_batch.n_threads = a.predict, a.threads, a.threads_batch
p.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(f, 1.0) for f in a.lora.split(",") if f]
p.lora_init_without_apply, p.verbosity = a.lora_init_without_apply, a.verbosity
p.n_batch, p.cache_ram_mib = a.batch_size, a.cache_ram
p.api_keys, p.endpoint_slots = [os.environ["LLAMA_API_KEY"]], a.slots
server = xllamacpp.Server(p)
signal.pause()
"""


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    path = tmp_path / "llama-server"
    path.write_text(SCRIPT)
    path.chmod(0o755)
    return path


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _answer(server: Any, specialist: str) -> str:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=12)
    return (
        await collect(server.client.generate("Name a colour.", constraints(specialist=specialist), sampling))
    )[0]


async def test_it_answers_with_adapters_restarts_and_leaves_nothing_behind(
    site: Site, base_model: Path, binary: Path
) -> None:
    site.fill()
    sha256 = write_adapter(site.specialists / "red.gguf", base_model, seed=1)
    write_specialist(site.specialists, "red", adapter={"uri": "file:red.gguf", "sha256": sha256})
    async with running(site.settings(engine={"llama_server": binary})) as server:
        base = await _answer(server, "general")
        assert base
        assert await _answer(server, "red") != base
        (native,) = _children(server.engine.pid)
        os.kill(native, signal.SIGKILL)
        await until(lambda: server.engine.restarts == 1 and server.engine.state == "ready", 20)
        assert await _answer(server, "general") == base
        (native,) = _children(server.engine.pid)
    await until(lambda: not Path(f"/proc/{native}").exists(), 5)


async def test_a_binary_that_is_not_there_is_named(site: Site, base_model: Path) -> None:
    settings = site.fill().settings(
        engine={"llama_server": Path("/nowhere/llama-server"), "start_timeout_s": 1}
    )
    async with running(settings) as server:
        with pytest.raises(grpc.aio.AioRpcError, match="is down; it is being restarted") as raised:
            await _answer(server, "general")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "/nowhere" not in raised.value.details()  # that is for the operator
        assert "/nowhere/llama-server" in server.engine.error
