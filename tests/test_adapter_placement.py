"""Which adapters an engine holds: least recently used, checked before they serve, changed under load."""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from adapters import write_adapter
from harness import BASE_SHA256, BASE_URI, Running, Site, collect, running, until, write_specialist
from pointsman.cli.specialists import specialists
from pointsman.client import constraints
from pointsman.errors import ArtifactError
from pointsman.generation.gguf_check import check_adapter, check_scale
from pointsman.v1 import catalog_pb2, router_pb2

pytestmark = pytest.mark.model


def _fill(site: Site, base: Path, *names: str, **flaws: Any) -> Site:
    write_specialist(site.specialists, "general")
    for seed, name in enumerate(names, 1):
        sha256 = write_adapter(site.specialists / f"{name}.gguf", base, seed=seed, **flaws)
        adapter = {"uri": f"file:{name}.gguf", "sha256": sha256}
        write_specialist(site.specialists, name, adapter=adapter)
    return site


async def _say(server: Running, specialist: str, tokens: int = 6) -> str:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=tokens)
    text, _ = await collect(
        server.client.generate("Name a colour and a town.", constraints(specialist=specialist), sampling)
    )
    return text


async def _statuses(server: Running) -> dict[str, catalog_pb2.SpecialistStatus]:
    return {s.specialist.name: s for s in (await server.client.list_specialists()).specialists}


async def test_the_least_recently_used_adapter_makes_room_for_one_that_is_asked_for(
    site: Site, base_model: Path
) -> None:
    settings = _fill(site, base_model, "red", "blue", "green").settings(engine={"max_adapters": 2})
    async with running(settings) as server:
        loaded = {name for name, status in (await _statuses(server)).items() if status.loaded}
        assert len(loaded) == 3  # the bare base, and two of three
        (spare,) = {"red", "blue", "green"} - loaded
        kept, first = sorted(loaded - {"general"})
        said = {name: await _say(server, name) for name in (first, kept)}
        engine = server.engine
        assert len({*said.values(), await _say(server, spare)}) == 3
        assert server.engine is not engine
        loaded = {name for name, status in (await _statuses(server)).items() if status.loaded}
        assert loaded == {"general", kept, spare}
        # Several that ask for the same one at once share one switch.
        engine = server.engine
        assert set(await asyncio.gather(*(_say(server, first) for _ in range(3)))) == {said[first]}
        assert server.engine is not engine
        assert len(server.core.engines.engines) == 1


async def test_an_adapter_under_which_the_engine_says_nothing_but_noise_is_refused_and_the_rest_serves(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    # Finite, and of a size that the static check lets pass: only the engine can tell.
    sha256 = write_adapter(site.specialists / "wild.gguf", base_model, size=900.0, alpha=4000.0)
    write_specialist(
        site.specialists, "wild", adapter={"uri": "file:wild.gguf", "sha256": sha256, "scale": 1.0}
    )
    async with running(site.settings()) as server:
        (problem,) = (await server.client.list_intents()).health.problems
        assert problem.value == "wild"
        assert "wild.gguf" in problem.message
        assert await _say(server, "red")
        with pytest.raises(grpc.aio.AioRpcError, match=r"'[a-z_]+' cannot answer now"):
            await _say(server, "wild")


@pytest.mark.parametrize(("flaw", "says"), [({"poison": 1e30}, "1e\\+30"), ({"size": 1e5}, "trained weight")])
def test_huge_values_are_refused(base_model: Path, tmp_path: Path, flaw: dict[str, Any], says: str) -> None:
    path = tmp_path / "huge.gguf"
    write_adapter(path, base_model, **flaw)
    with pytest.raises(ArtifactError, match=says):
        check_adapter(path, base_model)


@pytest.mark.parametrize(("alpha", "scale"), [(1e30, 1.0), (8.0, 1e30), (8.0, float("nan"))])
def test_an_absurd_strength_is_refused(base_model: Path, tmp_path: Path, alpha: float, scale: float) -> None:
    path = tmp_path / "strong.gguf"
    write_adapter(path, base_model, alpha=alpha)
    check_adapter(path, base_model)
    with pytest.raises(ArtifactError, match=r"strong\.gguf: a scale of"):
        check_scale(path, scale)
    write_adapter(tmp_path / "usual.gguf", base_model)
    check_scale(tmp_path / "usual.gguf", 1.0)


def _message(name: str, sha256: str, file: str) -> catalog_pb2.RegisterSpecialistRequest:
    return catalog_pb2.RegisterSpecialistRequest(
        specialist=catalog_pb2.Specialist(
            name=name,
            base=catalog_pb2.Artifact(uri=BASE_URI, sha256=BASE_SHA256),
            adapter=catalog_pb2.Adapter(artifact=catalog_pb2.Artifact(uri=f"file:{file}", sha256=sha256)),
            system_prompt="You answer in one short sentence.",
            context_tokens=512,
        )
    )


async def test_one_name_registered_by_two_clients_at_once_ends_as_one_of_the_two(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model)
    files = {}
    for seed, name in enumerate(("one", "two"), 1):
        files[name] = write_adapter(site.specialists / f"{name}.gguf", base_model, seed=seed)
    async with running(site.settings()) as server:
        replies = await asyncio.gather(
            *(
                server.client.catalog.RegisterSpecialist(_message("twin", sha256, f"{name}.gguf"))
                for name, sha256 in files.items()
            )
        )
        assert len({reply.catalog_version for reply in replies}) == 2
        status = (await _statuses(server))["twin"]
        assert server.core.catalogs.version in {reply.catalog_version for reply in replies}
        winner = status.specialist.adapter.artifact.sha256
        assert winner in files.values()
        assert winner in (site.specialists / "twin.yaml").read_text()
        assert await _say(server, "twin")
        assert len(server.core.engines.engines) == 1


async def test_a_registration_neither_drops_nor_stalls_a_stream_that_runs(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    sha256 = write_adapter(site.specialists / "new.gguf", base_model, seed=9)
    write_specialist(site.specialists, "long", max_output_tokens=500)
    async with running(site.settings()) as server:
        times: list[float] = []

        async def read() -> Any:
            sampling = router_pb2.Sampling(temperature=0, max_tokens=400)
            prompt = "Tell me a very long story about a railway, a river and a town, with many details."
            events = []
            async for event in server.client.generate(prompt, constraints(specialist="long"), sampling):
                times.append(time.perf_counter())
                events.append(event)
            return events[-1]

        stream = asyncio.create_task(read())
        await until(lambda: len(times) > 3)
        begun, before = time.perf_counter(), server.engine
        await server.client.catalog.RegisterSpecialist(_message("new", sha256, "new.gguf"))
        ended = time.perf_counter()
        assert server.engine is not before
        assert await _say(server, "new")
        last = await stream
        assert last.WhichOneof("event") == "done"
        meanwhile = [t for t in times if begun < t < ended]
        assert (
            len(meanwhile) > 5
        )  # it went on while the other engine loaded, and stood still at no time of it
        moments = [begun, *meanwhile, ended]
        assert max(b - a for a, b in itertools.pairwise(moments)) < (ended - begun) / 2


async def test_an_engine_killed_within_a_switch_leaves_one_that_answers(site: Site, base_model: Path) -> None:
    _fill(site, base_model, "red")
    sha256 = write_adapter(site.specialists / "new.gguf", base_model, seed=9)
    async with running(site.settings()) as server:
        registering = asyncio.ensure_future(
            server.client.catalog.RegisterSpecialist(_message("new", sha256, "new.gguf"))
        )
        await asyncio.sleep(0.05)
        os.kill(server.engine.pid, signal.SIGKILL)  # the one that serves, while the next one loads
        await registering
        assert await _say(server, "new")
        assert await _say(server, "red")
        assert len(server.core.engines.engines) == 1


async def test_an_engine_killed_while_it_loads_leaves_the_one_before_it_at_work(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    sha256 = write_adapter(site.specialists / "new.gguf", base_model, seed=9)
    async with running(site.settings()) as server:
        serves = server.engine.pid
        said = await _say(server, "red")
        registering = asyncio.ensure_future(
            server.client.catalog.RegisterSpecialist(_message("new", sha256, "new.gguf"))
        )
        await until(lambda: bool(_children() - {serves}))
        (loads,) = _children() - {serves}
        os.kill(loads, signal.SIGKILL)
        assert await _say(server, "red") == said  # while the next one is started again, or given up
        with contextlib.suppress(grpc.aio.AioRpcError):  # either is an answer; neither takes anything away
            await registering
            assert await _say(server, "new")
        assert await _say(server, "red") == said
        assert len(server.core.engines.engines) == 1


def _children() -> set[int]:
    """Return the processes that this one started, zombies left out."""
    found = {
        int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    }
    return {pid for pid in found if ") Z " not in Path(f"/proc/{pid}/stat").read_text()}


async def test_a_base_replaced_on_disk_is_not_loaded_and_what_runs_goes_on(
    site: Site, base_model: Path, tmp_path: Path
) -> None:
    _fill(site, base_model)
    models = tmp_path / "models"
    place = models / BASE_SHA256 / base_model.name

    def put() -> None:
        place.parent.mkdir(parents=True)
        place.write_bytes(base_model.read_bytes())

    def replace() -> None:
        other = tmp_path / "other"
        other.write_bytes(base_model.read_bytes()[:-1] + b"!")
        other.replace(place)

    await asyncio.to_thread(put)
    paths = site.settings().paths.model_dump() | {"models": models}
    async with running(site.settings(paths=paths)) as server:
        said = await _say(server, "general")
        await asyncio.to_thread(replace)
        assert await _say(server, "general") == said
        os.kill(server.engine.pid, signal.SIGKILL)
        await until(lambda: "changed on disk" in server.engine.error, 20)
        status = (await _statuses(server))["general"]
        assert status.engine_state != catalog_pb2.ENGINE_STATE_READY
        assert "delete it" in status.error
        await asyncio.to_thread(place.write_bytes, base_model.read_bytes())  # mended
        await until(lambda: server.engine.state == "ready", 30)
        assert await _say(server, "general") == said


async def test_the_listing_shows_every_specialist(site: Site, base_model: Path) -> None:
    async with running(_fill(site, base_model, "red").settings()) as server:
        await _say(server, "red")
        await _say(server, "red")
        result = await asyncio.to_thread(CliRunner().invoke, specialists, ["ls", "--address", server.address])
        assert result.exit_code == 0, result.output
        lines = {line.split()[0]: line for line in result.output.splitlines()}
        assert "ready" in lines["red"]
        assert "MiB" in lines["red"]
        assert "0/2" in lines["red"]
        as_json = await asyncio.to_thread(
            CliRunner().invoke, specialists, ["ls", "--json", "--address", server.address]
        )
        assert '"resident_bytes"' in as_json.output
