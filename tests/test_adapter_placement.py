"""Which adapters an engine holds: least recently used, checked before they serve, changed under load."""

import asyncio
import contextlib
import hashlib
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
from pointsman.training.export import write_unquantised
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


def _wild(site: Site, base: Path) -> str:
    """Write an adapter that says nothing but noise, though little at a tiny scale; returns its sha256.

    Its values are finite, and of a size that the static check lets pass: only the engine can tell.
    """
    return write_adapter(site.specialists / "wild.gguf", base, size=150.0, alpha=4000.0)


async def test_an_adapter_under_which_the_engine_says_nothing_but_noise_is_refused_and_the_rest_serves(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    adapter = {"uri": "file:wild.gguf", "sha256": _wild(site, base_model)}
    write_specialist(site.specialists, "wild", adapter=adapter)
    async with running(site.settings()) as server:
        (problem,) = (await server.client.list_intents()).health.problems
        assert problem.value == "wild"
        assert "wild.gguf at scale 1: log-probabilities" in problem.message
        assert await _say(server, "red")
        with pytest.raises(grpc.aio.AioRpcError, match=r"'[a-z_]+' cannot answer now"):
            await _say(server, "wild")


async def test_an_unsound_adapter_that_is_asked_for_starts_one_engine_and_not_one_for_each_request(
    site: Site, base_model: Path, log_lines: list[dict[str, object]]
) -> None:
    _fill(site, base_model, "blue")
    adapter = {"uri": "file:wild.gguf", "sha256": _wild(site, base_model)}
    write_specialist(site.specialists, "wild", adapter=adapter)
    async with running(site.settings(engine={"max_adapters": 1}, log={"level": "info"})) as server:
        assert (await _statuses(server))["wild"].loaded is False
        before = server.engine

        def started() -> int:
            return sum(line["event"] == "engine.ready" for line in log_lines)

        assert started() == 1
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError, match="'wild' cannot answer now"):
                await _say(server, "wild")
        assert started() == 2
        assert server.engine is before
        status = (await _statuses(server))["wild"]
        assert status.engine_state == catalog_pb2.ENGINE_STATE_DOWN
        assert "wild.gguf at scale 1: log-probabilities" in status.error
        assert await _say(server, "blue")


async def test_an_adapter_is_tried_at_every_scale_that_it_is_registered_with(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model)
    message = _message("wild", _wild(site, base_model), "wild.gguf")
    async with running(site.settings()) as server:
        message.specialist.adapter.scale = 1e-6
        await server.client.catalog.RegisterSpecialist(message)
        said = await _say(server, "wild")
        for name in ("wild", "wilder"):  # the scale edited, and another specialist
            message.specialist.name, message.specialist.adapter.scale = name, 1.0
            with pytest.raises(grpc.aio.AioRpcError, match=r"wild\.gguf at scale 1") as raised:
                await server.client.catalog.RegisterSpecialist(message)
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert await _say(server, "wild") == said
        assert "wilder" not in await _statuses(server)


async def test_a_registration_is_answered_once_its_adapter_is_loaded_though_the_engine_was_full(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    wild = _message("wild", _wild(site, base_model), "wild.gguf")
    new = _message("new", write_adapter(site.specialists / "new.gguf", base_model, seed=9), "new.gguf")
    async with running(site.settings(engine={"max_adapters": 1})) as server:
        with pytest.raises(grpc.aio.AioRpcError, match=r"wild\.gguf at scale 1"):
            await server.client.catalog.RegisterSpecialist(wild)
        assert (await _statuses(server))["red"].loaded
        await server.client.catalog.RegisterSpecialist(new)
        loaded = {name for name, status in (await _statuses(server)).items() if status.loaded}
        assert loaded == {"general", "new"}
        assert len({await _say(server, name) for name in ("new", "red")}) == 2
        assert (await _statuses(server))["new"].loaded is False
        await server.client.catalog.RegisterSpecialist(new)  # the same again: it is what is asked for
        assert (await _statuses(server))["new"].loaded
        await until(lambda: len(_children()) == 1)  # the engines before it end


async def test_an_adapter_of_an_engine_that_failed_at_first_is_tried_before_it_serves(
    site: Site, base_model: Path
) -> None:
    _fill(site, base_model, "red")
    adapter = {"uri": "file:wild.gguf", "sha256": _wild(site, base_model)}
    write_specialist(site.specialists, "wild", adapter=adapter)
    here = _children()

    async def kill_the_first() -> None:
        await until(lambda: bool(_children() - here), 60)
        for pid in _children() - here:
            os.kill(pid, signal.SIGKILL)

    killing = asyncio.create_task(kill_the_first())
    async with running(site.settings()) as server:
        await killing
        assert (await server.client.list_intents()).health.problems  # it did not start
        await until(lambda: server.engine.state == "ready", 30)
        with pytest.raises(grpc.aio.AioRpcError, match="'wild' cannot answer now"):
            await _say(server, "wild")
        assert await _say(server, "red")


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


async def test_another_base_neither_drops_nor_stalls_a_stream_that_runs(site: Site, base_model: Path) -> None:
    _fill(site, base_model)
    path = site.specialists / "unquantised.gguf"
    await asyncio.to_thread(write_unquantised, base_model, path)
    sha256 = hashlib.sha256(await asyncio.to_thread(path.read_bytes)).hexdigest()
    write_specialist(site.specialists, "long", max_output_tokens=300)
    write_specialist(site.specialists, "other")
    async with running(site.settings()) as server:
        moments: list[list[float]] = []  # of each stream: when it was asked for, and each event
        changed = asyncio.Event()

        async def read() -> None:
            sampling = router_pb2.Sampling(temperature=0, max_tokens=300)
            prompt = "Tell me a very long story about a railway, a river and a town, with many details."
            while not changed.is_set():
                moments.append([time.perf_counter()])
                kinds: list[str] = []
                async for event in server.client.generate(prompt, constraints(specialist="long"), sampling):
                    moments[-1].append(time.perf_counter())
                    kinds.append(event.WhichOneof("event"))
                assert kinds[-1] == "done"

        stream = asyncio.create_task(read())
        await until(lambda: bool(moments) and len(moments[0]) > 3)
        switches = []
        for name in ("other", "long"):  # that of another specialist, and its own
            specialist = catalog_pb2.Specialist(name=name, context_tokens=512, max_output_tokens=300)
            specialist.base.CopyFrom(catalog_pb2.Artifact(uri="file:unquantised.gguf", sha256=sha256))
            await server.client.catalog.RegisterSpecialist(
                catalog_pb2.RegisterSpecialistRequest(specialist=specialist)
            )
            switches.append(time.perf_counter())
            assert await _say(server, name, 2)  # on its new base, beside the stream
        changed.set()
        await stream
        for switch in switches:
            assert any(times[0] < switch < times[-1] for times in moments)
        assert max(b - a for times in moments for a, b in itertools.pairwise(times)) < 20


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


def _stat(pid: int) -> str:
    """Return what Linux says of a process; as of one that has ended, where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return ") Z "


def _children() -> set[int]:
    """Return the processes that this one started, zombies left out."""
    found = {
        int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()
    }
    return {pid for pid in found if ") Z " not in _stat(pid)}


def _own_base(site: Site, base: Path, models: Path) -> tuple[Path, dict[str, Any]]:
    """Give a site a models folder of its own; returns where the base stands in it, and the site's paths."""
    place = models / BASE_SHA256 / base.name
    place.parent.mkdir(parents=True)
    place.write_bytes(base.read_bytes())
    return place, site.settings().paths.model_dump() | {"models": models}


async def test_a_base_overwritten_in_place_ends_the_engine_that_has_it_open_until_it_is_mended(
    site: Site, base_model: Path, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    place, paths = await asyncio.to_thread(
        _own_base, _fill(site, base_model), base_model, tmp_path / "models"
    )

    def overwrite() -> None:  # as `cp other base` does: the same file, other bytes
        with place.open("r+b") as file:
            file.seek(-4096, os.SEEK_END)
            file.write(bytes(4096))

    async with running(site.settings(paths=paths)) as server:
        said, pid = await _say(server, "general"), server.engine.pid
        await asyncio.to_thread(overwrite)
        await until(lambda: "changed on disk" in server.engine.error, 20)
        (line,) = [line for line in log_lines if line["event"] == "engine.files_changed"]
        assert line["goes_on"] is False
        assert f"{place}: overwritten on disk while it is served" in str(line["files"])
        assert pid not in _children()
        status = (await _statuses(server))["general"]
        assert status.engine_state != catalog_pb2.ENGINE_STATE_READY
        assert "changed on disk" in status.error
        await asyncio.to_thread(place.write_bytes, base_model.read_bytes())  # mended
        await until(lambda: server.engine.state == "ready", 30)
        assert await _say(server, "general") == said


async def test_a_base_replaced_on_disk_is_not_loaded_and_what_runs_goes_on(
    site: Site, base_model: Path, tmp_path: Path, log_lines: list[dict[str, object]]
) -> None:
    place, paths = await asyncio.to_thread(
        _own_base, _fill(site, base_model), base_model, tmp_path / "models"
    )

    def replace() -> None:
        other = tmp_path / "other"
        other.write_bytes(base_model.read_bytes()[:-1] + b"!")
        other.replace(place)

    async with running(site.settings(paths=paths)) as server:
        said = await _say(server, "general")
        await asyncio.to_thread(replace)
        await until(lambda: any(line["event"] == "engine.files_changed" for line in log_lines))
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
