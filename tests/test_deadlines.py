"""A deadline that cannot be met locally: refused at once, or answered by the cloud at once. Real engines, real calls."""

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from adapters import write_adapter
from harness import REFUND, Cloud, Running, Site, collect, running, until, write_intent, write_specialist
from pointsman import AsyncClient
from pointsman.client import constraints
from pointsman.v1 import router_pb2

pytestmark = pytest.mark.model

REFUNDS = "please refund my order"


def _fill(site: Site, base: Path, **more: Any) -> Site:
    """`support` answers refunds, under an adapter that is not loaded where an engine holds one."""
    write_specialist(site.specialists, "general")
    for seed, name in enumerate(("red", "support"), 1):
        sha256 = write_adapter(site.specialists / f"{name}.gguf", base, seed=seed)
        write_specialist(
            site.specialists, name, adapter={"uri": f"file:{name}.gguf", "sha256": sha256}, **more
        )
    write_intent(site.intents, "refund", "support", REFUND)
    return site


@asynccontextmanager
async def _within(server: Running, seconds: float) -> AsyncGenerator[AsyncClient, None]:
    async with AsyncClient(server.address, timeout_s=seconds) as client:
        yield client


async def _refusal(server: Running, seconds: float, prompt: str = REFUNDS, **only: Any) -> str:
    """Return why a call with a deadline is refused by the server, which the deadline's own end does not say."""
    async with _within(server, seconds) as client:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await collect(client.generate(prompt, constraints(**only), router_pb2.Sampling(max_tokens=64)))
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "s are left" in raised.value.details()
    return str(raised.value.details())


async def _from_cloud(server: Running, seconds: float, prompt: str = REFUNDS) -> None:
    """Ask what the cloud answers instead."""
    async with _within(server, seconds) as client:
        text, events = await collect(client.generate(prompt, None, router_pb2.Sampling(max_tokens=64)))
    assert text == "from the cloud"
    assert events[0].decision.specialist == "support"
    assert "The deadline cannot be met locally" in events[1].escalation.explanation
    assert events[-1].WhichOneof("event") == "done"


def _loading_s(server: Running) -> float:
    """Return what an engine took to load, at least; a deadline below it leaves no doubt."""
    (took_s,) = server.core.engines._took_s.values()
    return float(took_s)


async def test_an_adapter_that_takes_longer_to_load_is_refused_at_once_and_loaded_for_the_next(
    site: Site, base_model: Path
) -> None:
    settings = _fill(site, base_model).settings(engine={"max_adapters": 1})
    async with running(settings) as server:
        before = server.engine
        said = await _refusal(server, 0.7 * _loading_s(server), specialist="support")
        assert "'support' is being loaded, which takes" in said
        await until(lambda: server.engine is not before, 30)
        _, events = await collect(server.client.generate(REFUNDS, constraints(specialist="support")))
        assert events[-1].WhichOneof("event") == "done"


async def test_an_adapter_that_takes_longer_to_load_leaves_the_answer_to_the_cloud(
    site: Site, base_model: Path
) -> None:
    with Cloud() as cloud:
        settings = _fill(site, base_model).settings(engine={"max_adapters": 1}, cloud=cloud.settings)
        async with running(settings) as server:
            await _from_cloud(server, 0.7 * _loading_s(server))
            assert len(cloud.requests) == 1


async def test_an_engine_that_restarts_too_late_is_not_waited_for(site: Site, base_model: Path) -> None:
    with Cloud() as cloud:
        engine = {"restart_backoff_s": 120.0, "restart_backoff_max_s": 120.0}
        settings = _fill(site, base_model).settings(engine=engine, cloud=cloud.settings)
        async with running(settings) as server:
            os.kill(server.engine.pid, signal.SIGKILL)
            await until(lambda: server.engine.state == "down")
            assert "is being started, which takes" in await _refusal(server, 30, specialist="support")
            await _from_cloud(server, 30)
            assert len(cloud.requests) == 1


async def test_a_prompt_that_takes_longer_to_read_is_refused_at_once_or_left_to_the_cloud(
    site: Site, base_model: Path
) -> None:
    with Cloud() as cloud:
        settings = _fill(site, base_model, context_tokens=2048).settings(cloud=cloud.settings)
        async with running(settings) as server:
            admission = server.engine.admission
            for turn in range(8):
                prompt = f"{turn}: please refund my order of yesterday, of the day before, and of last week"
                sampling = router_pb2.Sampling(max_tokens=24)
                await collect(server.client.generate(prompt, constraints(specialist="red"), sampling))
                if admission.tokens_per_s is not None:
                    break
            long = " ".join([REFUNDS] * 240)  # 1,400 tokens, and an adapter that has answered nothing yet
            needed_s = admission.pace.reading_s("", len(long) // 4)
            assert needed_s > 0
            assert "would need" in await _refusal(server, 0.7 * needed_s, long, specialist="support")
            await _from_cloud(server, 0.7 * needed_s, long)
            assert len(cloud.requests) == 1
            assert admission.held == admission.waiting == 0
