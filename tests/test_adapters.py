"""LoRA adapters: loaded, chosen by request, registered over the wire, never mixed up."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from adapters import write_adapter
from harness import BASE_SHA256, BASE_URI, Running, Site, collect, running, until, write_specialist
from pointsman.client import constraints
from pointsman.v1 import catalog_pb2, router_pb2

pytestmark = pytest.mark.model

STORY = "Tell me a very long story about a railway, a river and a town, with many details."
PROMPT = "Name a colour, an animal and a town."


def _adapter(site: Site, base: Path, name: str, **flaws: Any) -> dict[str, str]:
    sha256 = write_adapter(site.specialists / f"{name}.gguf", base, **flaws)
    return {"uri": f"file:{name}.gguf", "sha256": sha256}


async def _answer(server: Running, specialist: str) -> str:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=16)
    text, _ = await collect(server.client.generate(PROMPT, constraints(specialist=specialist), sampling))
    return text


def _message(name: str, adapter: dict[str, str] | None = None) -> catalog_pb2.RegisterSpecialistRequest:
    specialist = catalog_pb2.Specialist(
        name=name,
        base=catalog_pb2.Artifact(uri=BASE_URI, sha256=BASE_SHA256),
        system_prompt="You answer in one short sentence.",
        context_tokens=512,
    )
    if adapter:
        specialist.adapter.artifact.CopyFrom(catalog_pb2.Artifact(**adapter))
    return catalog_pb2.RegisterSpecialistRequest(specialist=specialist)


async def test_each_request_is_answered_under_its_own_adapter_whatever_came_before(
    site: Site, base_model: Path
) -> None:
    """A cache that one adapter filled and another reads would change an answer here."""
    site.fill()
    for name, seed in (("red", 1), ("blue", 2)):
        write_specialist(site.specialists, name, adapter=_adapter(site, base_model, name, seed=seed))
    settings = site.settings(engine={"slots": 1})  # one slot: everybody meets everybody's cache
    async with running(settings) as server:
        assert len(server.core.engines.engines) == 1
        alone = {name: await _answer(server, name) for name in ("general", "red", "blue")}
        assert len(set(alone.values())) == 3
        for name in ("general", "red", "general", "blue", "blue", "red", "red", "general", "blue", "general"):
            assert await _answer(server, name) == alone[name]


async def test_the_engine_reuses_the_cache_of_another_adapter_when_it_is_told_of_none(
    site: Site, base_model: Path
) -> None:
    """Why every request names every adapter. If this fails, the engine has mended it: be glad."""
    from dataclasses import replace

    from pointsman.generation.backend import Question
    from pointsman.values.events import Token
    from pointsman.values.request import Message, Role

    site.fill()
    write_specialist(site.specialists, "red", adapter=_adapter(site, base_model, "red", seed=1))
    async with running(site.settings(engine={"slots": 1})) as server:

        async def ask(adapters: tuple[float, ...] | None) -> str:
            question = Question((Message(Role.USER, PROMPT),), 16, 0.0, 1.0)
            stream = server.engine.stream(replace(question, adapters=adapters))
            return "".join([item.text async for item in stream if isinstance(item, Token)])

        base, red = await ask((0.0,)), await ask((1.0,))
        assert base != red
        assert await ask((0.0,)) == base
        await ask((1.0,))
        assert await ask(()) != base


async def test_a_specialist_registered_over_the_wire_answers_and_survives_a_restart(
    site: Site, base_model: Path
) -> None:
    adapter = _adapter(site.fill(), base_model, "red", seed=1)
    async with running(site.settings()) as server:
        engine = server.engine
        base = await _answer(server, "general")
        reply = await server.client.catalog.RegisterSpecialist(_message("red", adapter))
        assert reply.catalog_version
        registered = await _answer(server, "red")
        assert registered != base
        assert await _answer(server, "general") == base
        assert server.engine is not engine
    async with running(site.settings()) as server:
        assert await _answer(server, "red") == registered
        listed = await server.client.catalog.ListSpecialists(catalog_pb2.ListSpecialistsRequest())
        status = next(s for s in listed.specialists if s.specialist.name == "red")
        assert status.engine_state == catalog_pb2.ENGINE_STATE_READY
        assert status.specialist.adapter.artifact.sha256 == adapter["sha256"]


async def test_registering_an_adapter_drops_no_stream_that_runs(site: Site, base_model: Path) -> None:
    adapter = _adapter(site.fill(), base_model, "red", seed=1)
    write_specialist(site.specialists, "long", max_output_tokens=400)
    async with running(site.settings()) as server:
        sampling = router_pb2.Sampling(temperature=0, max_tokens=400)
        stream = asyncio.create_task(
            collect(server.client.generate(STORY, constraints(specialist="long"), sampling))
        )
        before = server.engine
        await until(lambda: before.admission.held == 1)
        await server.client.catalog.RegisterSpecialist(_message("red", adapter))
        assert server.engine is not before
        assert not stream.done()
        _, events = await stream
        assert events[-1].WhichOneof("event") == "done"
        assert await _answer(server, "red")


@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ({"poison": float("nan")}, "not finite"),
        ({"alpha": None}, "alpha"),
        ({"architecture": "qwen2"}, "architecture"),
    ],
    ids=["NaN", "no alpha", "another architecture"],
)
async def test_a_flawed_adapter_is_refused_and_everything_else_goes_on(
    site: Site, base_model: Path, flaw: dict[str, Any], says: str
) -> None:
    adapter = _adapter(site.fill(), base_model, "bad", **flaw)
    async with running(site.settings()) as server:
        before = server.engine
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.catalog.RegisterSpecialist(_message("bad", adapter))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert says in raised.value.details()
        assert server.engine is before
        assert not (site.specialists / "bad.yaml").exists()
        assert await _answer(server, "general")


async def test_a_wrong_sha256_is_refused_at_registration(site: Site, base_model: Path) -> None:
    adapter = _adapter(site.fill(), base_model, "red") | {"sha256": "0" * 64}
    async with running(site.settings()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.catalog.RegisterSpecialist(_message("red", adapter))
        assert "sha256" in raised.value.details()
        assert not (site.specialists / "red.yaml").exists()


async def test_a_specialist_in_use_is_not_removed_and_a_free_one_is(site: Site, base_model: Path) -> None:
    async with running(site.fill().settings()) as server:
        catalog = server.client.catalog
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await catalog.RemoveSpecialist(catalog_pb2.RemoveSpecialistRequest(name="support"))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "refund" in raised.value.details()
        await catalog.DeleteIntent(catalog_pb2.DeleteIntentRequest(name="weather"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:  # no intent's target any more, but the settings'
            await catalog.RemoveSpecialist(catalog_pb2.RemoveSpecialistRequest(name="general"))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "'general' is still the target of routing.general_specialist" in raised.value.details()
        assert await _answer(server, "general")
        await catalog.RegisterSpecialist(_message("spare"))
        assert await _answer(server, "spare")
        await catalog.RemoveSpecialist(catalog_pb2.RemoveSpecialistRequest(name="spare"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _answer(server, "spare")
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_model_that_no_engine_can_load_is_refused_and_not_kept(site: Site, base_model: Path) -> None:
    import gguf

    path = site.fill().specialists / "odd.gguf"
    writer = gguf.GGUFWriter(path, "no-such-architecture")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    request = _message("odd")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    request.specialist.base.CopyFrom(catalog_pb2.Artifact(uri="file:odd.gguf", sha256=sha256))
    async with running(site.settings()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.catalog.RegisterSpecialist(request)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "cannot be served" in raised.value.details()
        assert not (site.specialists / "odd.yaml").exists()
        assert await _answer(server, "general")


async def test_requests_do_not_fail_while_the_engines_change_under_them(site: Site, base_model: Path) -> None:
    adapter = _adapter(site.fill(), base_model, "red", seed=1)
    async with running(site.settings()) as server:
        stop = asyncio.Event()

        async def ask() -> int:
            answered = 0
            while not stop.is_set():
                assert await _answer(server, "general")
                answered += 1
            return answered

        askers = [asyncio.create_task(ask()) for _ in range(2)]
        await server.client.catalog.RegisterSpecialist(_message("red", adapter))
        await server.client.catalog.RemoveSpecialist(catalog_pb2.RemoveSpecialistRequest(name="red"))
        stop.set()
        assert min(await asyncio.gather(*askers)) > 0
