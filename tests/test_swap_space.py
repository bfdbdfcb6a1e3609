"""Caches that leave their slot and come back: what is put where, with a stand-in and with the real engine."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters import write_adapter
from harness import Running, Site, collect, running, until, write_specialist
from pointsman.client import constraints
from pointsman.errors import BackendDownError, PointsmanError
from pointsman.generation import llama_client
from pointsman.generation.adapter_admission import AdapterAdmission
from pointsman.generation.backend import Question
from pointsman.generation.engine_slots import EngineSlots, Held, Slot, shared
from pointsman.generation.llama_client import LlamaClient
from pointsman.generation.swap_space import SwapSpace, swap_space
from pointsman.ledger.metrics import Metrics
from pointsman.v1 import router_pb2
from pointsman.values.catalog import EngineState
from pointsman.values.request import Message, Role

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")

RED, BLUE = (1.0, 0.0), (0.0, 1.0)


class Engine:
    """Slots as llama.cpp keeps them: a text that was read under adapters, dropped when those change."""

    def __init__(self, slots: int = 1) -> None:
        self.lora: list[tuple[float, ...]] = [()] * slots
        self.text = [""] * slots
        self.asked: list[str] = []
        self.down = False

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        if self.down:
            raise BackendDownError("down", retry_after_s=1)
        if path == "/completion":
            assert body["prompt"] == [[]]
            self.read(body["id_slot"], tuple(one["scale"] for one in body["lora"]), "")
            self.asked.append("wake")
            return {}
        number, _, action = path.removeprefix("/slots/").partition("?action=")
        self.asked.append(action)
        file = int(body["filename"])
        if action == "save":
            content = f"{self.lora[int(number)]}|{self.text[int(number)]}".encode()
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0)
            return {"n_saved": len(self.text[int(number)]), "n_written": len(content)}
        made_under, _, text = os.pread(file, 1 << 20, 0).decode().partition("|")
        # What the real engine does not know: under which adapters a cache was made.
        assert made_under == str(self.lora[int(number)]), "a cache is put in under other adapters"
        self.text[int(number)] = text
        return {}

    def read(self, number: int, adapters: tuple[float, ...], text: str) -> int:
        """Read a prompt; returns how much of it the cache held."""
        if adapters != self.lora[number]:
            self.lora[number], self.text[number] = adapters, ""
        found = shared(self.text[number], text)
        if text:
            self.text[number] = text
        return found


@pytest.fixture
def space() -> Iterator[SwapSpace]:
    made = SwapSpace(1 << 20)
    yield made
    made.close()


async def ask(space: SwapSpace, engine: Engine, slot: Slot, adapters: Any, text: str, owner: object) -> int:
    """Do what the client of an engine does; returns how much of the prompt was found."""
    await space.settle(slot, owner, adapters, text, engine.post)
    found = engine.read(slot.number, adapters, text)
    slot.holds = Held(adapters, text, owner)
    return found


def done(space: SwapSpace, slot: Slot, owner: object) -> None:
    if slot.holds is not None and slot.holds.owner is owner:
        slot.holds.owner = None
    space.forget(owner)


async def test_a_prompt_is_found_again_after_another_adapter_had_the_slot(space: SwapSpace) -> None:
    engine, slot = Engine(), Slot(0)
    rules = "Answer as a pirate would. " * 8
    for adapters, name in ((RED, "a"), (BLUE, "b")):
        assert await ask(space, engine, slot, adapters, rules + name, name) == 0
        done(space, slot, name)
    assert await ask(space, engine, slot, RED, rules + "c", "c") == len(rules)
    done(space, slot, "c")
    assert engine.asked == ["save", "save", "wake", "restore"]
    assert await ask(space, engine, slot, RED, rules + "d", "d") == len(
        rules
    )  # in its slot: nothing is moved
    assert len(engine.asked) == 4
    assert space.bytes > 2 * len(rules)


@pytest.mark.parametrize("together", [True, False])
async def test_a_second_answer_under_an_adapter_begins_from_the_cache_of_the_first_ones_slot(
    space: SwapSpace, together: bool
) -> None:
    engine, slots = Engine(2), [Slot(0), Slot(1)]
    rules = "Answer as a pirate would. " * 8
    assert await ask(space, engine, slots[0], RED, rules + "a", "a") == 0
    done(space, slots[0], "a")
    asked = [
        ask(space, engine, slot, RED, rules + name, name) for slot, name in zip(slots, "bc", strict=True)
    ]
    found = await asyncio.gather(*asked) if together else [await one for one in asked]
    assert found == [len(rules)] * 2
    assert engine.asked == ["save", "wake", "restore"]
    for slot, name in zip(slots, "bc", strict=True):
        done(space, slot, name)
    assert await ask(space, engine, slots[0], RED, rules + "d", "d") == len(rules)
    assert len(engine.asked) == 3  # once for all


@pytest.mark.parametrize(("limit", "asked"), [(1 << 20, ["save"]), (400, ["save"]), (600, [])])
async def test_a_copy_that_perhaps_nobody_asks_for_takes_nobodys_place(limit: int, asked: list[str]) -> None:
    """In room for all, for no such cache at all (which is tried once), and for what is kept already."""
    space, engine, slots = SwapSpace(limit), Engine(2), [Slot(0), Slot(1)]
    rules = "Answer as a pirate would. " * 16
    try:
        if limit == 600:  # an interrupted answer, which lost its slot
            await ask(space, engine, slots[1], BLUE, rules, "blue")
            await ask(space, engine, slots[1], RED, "other", "red")
            engine.asked.clear()
        for name in "abc":
            await ask(space, engine, slots[0], RED, rules + name, name)
            done(space, slots[0], name)
        assert engine.asked == asked
        assert space.bytes <= limit
    finally:
        space.close()


async def test_two_slots_with_one_prompt_copy_it_once(space: SwapSpace) -> None:
    engine, slots = Engine(2), [Slot(0), Slot(1)]
    rules = "Answer as a pirate would. " * 8
    for names in ("ab", "cd"):
        asked = [ask(space, engine, s, RED, rules + n, n) for s, n in zip(slots, names, strict=True)]
        await asyncio.gather(*asked)
        for slot, name in zip(slots, names, strict=True):
            done(space, slot, name)
    assert engine.asked == ["save"]


async def test_who_waits_for_a_copy_gives_up_what_fails(space: SwapSpace) -> None:
    engine, slots = Engine(2), [Slot(0), Slot(1)]
    rules = "Answer as a pirate would. " * 8
    await ask(space, engine, slots[0], RED, rules + "a", "a")
    done(space, slots[0], "a")
    engine.down = True
    asked = [ask(space, engine, s, RED, rules + n, n) for s, n in zip(slots, "bc", strict=True)]
    assert await asyncio.gather(*asked) == [len(rules), 0]
    assert engine.asked == []
    assert not space.working


async def test_what_is_read_again_as_fast_is_not_copied(space: SwapSpace) -> None:
    engine, slots = Engine(2), [Slot(0), Slot(1)]
    for name in "ab":
        await ask(space, engine, slots[0], RED, "Be brief. " + name, name)
        done(space, slots[0], name)
    assert await ask(space, engine, slots[1], RED, "Be brief. c", "c") == 0
    assert engine.asked == []


async def test_an_interrupted_answer_gets_its_own_cache_back(space: SwapSpace) -> None:
    engine, slot = Engine(), Slot(0)
    await ask(space, engine, slot, RED, "tell me of rivers", "first")
    engine.text[0] += " They flow."  # what was said meanwhile
    await ask(space, engine, slot, RED, "tell me of rivers, please", "second")
    done(space, slot, "second")
    found = await ask(space, engine, slot, RED, "tell me of rivers They flow. And", "first")
    assert found == len("tell me of rivers They flow.")


async def test_the_least_recently_used_cache_makes_room_and_one_too_large_is_not_kept() -> None:
    space, engine, slot = SwapSpace(260), Engine(), Slot(0)
    try:
        for adapters in ((1.0,), (2.0,), (3.0,), (4.0,)):
            await ask(space, engine, slot, adapters, "x" * 100, adapters)
            done(space, slot, adapters)
        assert 200 < space.bytes <= 260  # two of them
        assert await ask(space, engine, slot, (1.0,), "x" * 100, "again") == 0
        done(space, slot, "again")
        assert await ask(space, engine, slot, (4.0,), "x" * 100, "again") == 100
        await ask(space, engine, slot, (5.0,), "y" * 1000, "large")
        done(space, slot, "large")
        await ask(space, engine, slot, (6.0,), "z", "next")
        assert space.bytes <= 260
    finally:
        space.close()
    await space.settle(slot, "after the end", (7.0,), "z", engine.post)  # writes to no file of anybody else
    assert space.bytes == 0


@pytest.mark.parametrize(("adapters", "limit"), [(33, 1 << 20), (40, 1 << 20), (4, 636), (5, 636), (6, 636)])
async def test_a_cache_that_is_about_to_be_read_makes_no_room(adapters: int, limit: int) -> None:
    """The stand-in notices a cache of other adapters."""
    space, engine, slot = SwapSpace(limit), Engine(), Slot(0)
    try:
        for turn in range(3 * adapters):
            scales = (float(turn % adapters),)
            await ask(space, engine, slot, scales, f"{turn % adapters} " + "x" * 200, turn)
            done(space, slot, turn)
            assert space.bytes <= limit
    finally:
        space.close()


def test_without_files_there_is_no_space_and_none_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = os.memfd_create

    def few(name: str) -> int:
        if len(made) == 3:
            raise OSError(24, "Too many open files")
        made.append(real(name))
        return made[-1]

    monkeypatch.setattr(os, "memfd_create", few)
    with swap_space(1) as space:
        assert space is None
    for file in made:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(file)


async def test_an_engine_that_does_not_do_it_costs_nothing_but_time(
    space: SwapSpace, log_lines: list[dict[str, Any]]
) -> None:
    engine, slot = Engine(), Slot(0)
    await ask(space, engine, slot, RED, "one", "a")
    engine.down = True
    assert await ask(space, engine, slot, BLUE, "two", "b") == 0
    engine.down = False
    done(space, slot, "b")
    await ask(space, engine, slot, RED, "one", "c")
    assert (space.bytes, engine.asked) == (0, [])  # it may yet do what it was told: nothing can be relied on
    assert [line["event"] for line in log_lines] == ["engine.swap_failed"]
    space.clear()
    await ask(space, engine, slot, BLUE, "two", "d")
    assert engine.asked == ["save"]


@pytest.mark.parametrize("times", [1, 2, 3])
async def test_who_leaves_while_a_cache_is_moved_waits_for_it_and_leaves_the_slot_unknown(
    space: SwapSpace, times: int
) -> None:
    engine, slot = Engine(), Slot(0)
    await ask(space, engine, slot, RED, "one", "a")
    go_on = asyncio.Event()

    async def slow(path: str, body: dict[str, Any]) -> Any:
        await go_on.wait()
        return await engine.post(path, body)

    leaving = asyncio.create_task(space.settle(slot, "b", BLUE, "two", slow))
    for _ in range(times):
        await asyncio.sleep(0.01)
        leaving.cancel()
    await asyncio.sleep(0.01)
    assert not leaving.done()
    go_on.set()
    await asyncio.wait([leaving])
    assert leaving.cancelled()
    assert slot.holds is None
    engine.asked.clear()
    assert await ask(space, engine, slot, BLUE, "two", "c") == 0
    assert engine.asked == []  # what is not known is not kept


async def test_an_answer_that_ends_while_its_cache_is_saved_leaves_it_to_others(space: SwapSpace) -> None:
    engine, slot = Engine(), Slot(0)
    rules = "Answer as a pirate would. " * 8
    await ask(space, engine, slot, RED, rules + "a", "a")

    async def meanwhile(path: str, body: dict[str, Any]) -> Any:
        done(space, slot, "a")
        return await engine.post(path, body)

    await space.settle(slot, "b", BLUE, rules, meanwhile)
    engine.read(0, BLUE, rules)
    slot.holds = Held(BLUE, rules, None)
    await ask(space, engine, slot, RED, rules + "c", "c")
    done(space, slot, "c")
    engine.asked.clear()
    await ask(space, engine, slot, BLUE, rules, "d")
    assert engine.asked == ["wake", "restore"]  # c's cache is as good as a's was, which nobody waits for


async def test_what_was_read_of_a_prompt_in_part_stands_for_that_part(space: SwapSpace) -> None:
    engine, slot = Engine(), Slot(0)
    rules = "Answer as a pirate would. " * 8
    await ask(space, engine, slot, RED, rules[:20], "given up")
    done(space, slot, "given up")
    for turn, found in enumerate((20, len(rules), len(rules))):
        await ask(space, engine, slot, BLUE, f"other {turn}", ("blue", turn))
        done(space, slot, ("blue", turn))
        assert await ask(space, engine, slot, RED, f"{rules}{turn}", ("red", turn)) == found
        done(space, slot, ("red", turn))


async def test_nothing_is_moved_any_more_once_it_is_not_known_what_the_engine_does(
    space: SwapSpace, log_lines: list[dict[str, Any]]
) -> None:
    engine, slot = Engine(), Slot(0)
    await ask(space, engine, slot, RED, "one", "a")
    for _ in range(2):
        space.distrust("llama_cpp did not answer in time")
    await ask(space, engine, slot, BLUE, "two", "b")
    assert engine.asked == []
    assert [line["event"] for line in log_lines] == ["engine.swap_failed"]


def test_metrics_tell_that_nothing_is_swapped_any_more(space: SwapSpace) -> None:
    admission, metrics = AdapterAdmission("e", 1, 9, 0.1), Metrics()
    admission.swap = space
    engine: Any = SimpleNamespace(name="e", state=EngineState.READY, restarts=0, admission=admission)
    metrics.watch(lambda: [engine], lambda: 0)

    def told() -> float | None:
        return metrics.registry.get_sample_value("pointsman_engine_swap_failed", {"engine": "e"})

    assert told() == 0
    space.distrust("llama_cpp did not answer in time")
    assert told() == 1
    space.clear()  # the engine was started again
    assert told() == 0


STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([RED, BLUE, (0.5, 0.0)]), st.text("ab", max_size=6), st.booleans()),
    max_size=40,
)  # fmt: skip


@given(STEPS)
def test_no_cache_is_ever_put_in_under_other_adapters(
    steps: list[tuple[int, tuple[float, ...], str, bool]],
) -> None:
    """The stand-in checks it at each restore; answers go on, stop, and are interrupted in any order, two at a time."""
    rules = "Answer as a pirate would. " * 8  # long enough for caches to be copied and moved

    async def play() -> None:
        space, engine, slots = SwapSpace(800), Engine(3), EngineSlots(3)
        running: dict[int, object] = {}
        try:
            for pair in (steps[i : i + 2] for i in range(0, len(steps), 2)):
                now = {number: (adapters, f"{rules}{number}{text}") for number, adapters, text, _ in pair}
                owners = {number: running.setdefault(number, object()) for number in now}
                idle = {id(other) for other in running.values()} - {id(owner) for owner in owners.values()}
                asked = []
                for number, (adapters, text) in now.items():
                    owner = owners[number]
                    slot = slots.held_by(owner) or slots.take(
                        str(adapters), text, owner, idle, space.reach(adapters, text)
                    )
                    asked.append(ask(space, engine, slot, adapters, text, owner))
                await asyncio.gather(*asked)
                assert space.working, "the stand-in found fault"
                for number in {number for number, _, _, ends in pair if ends}:
                    owner = running.pop(number)
                    slots.free(owner)
                    space.forget(owner)
        finally:
            space.close()

    asyncio.run(play())


# The client, at a stand-in that says when it begins.


class Wire:
    """llama.cpp's API over HTTP. `begins`: when an answer is begun; `status`: what it is begun with."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.begins = asyncio.Event()
        self.status = 200
        self.asked = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.paths.append(head.split()[1])
        body = json.loads(await reader.readexactly(int(head.split("content-length:")[1].split()[0])))
        with suppress(ConnectionError):
            if "/completion " in head and body.get("stream"):
                self.asked.set()
                await self.begins.wait()
                await self._stream(writer)
            else:
                known = {"prompt": "tell me", "n_saved": 3, "n_written": 3}
                self._head(writer, 200)
                writer.write(json.dumps(known).encode())
            await writer.drain()
        writer.close()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        if self.status != 200:
            if self.status:
                self._head(writer, self.status)
                writer.write(b'{"error": {"message": "told to"}}')
            return
        self._head(writer, 200)
        for made in range(200):
            progress = {"total": 4, "cache": 0, "processed": 4}
            chunk = {"content": "x" * bool(made), "tokens": [int(bool(made))], "tokens_predicted": made}
            said = chunk | ({} if made else {"prompt_progress": progress})
            writer.write(f"data: {json.dumps(said)}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(0.01)

    @staticmethod
    def _head(writer: asyncio.StreamWriter, status: int) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nConnection: close\r\n\r\n".encode())


@asynccontextmanager
async def wired(space: SwapSpace | None) -> AsyncGenerator[tuple[Wire, AdapterAdmission, LlamaClient]]:
    wire, admission = Wire(), AdapterAdmission("e", 1, 9, 0.1)
    admission.swap = space
    server = await asyncio.start_server(wire.answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = await asyncio.to_thread(  # it reads files
        LlamaClient, "e", f"http://127.0.0.1:{port}", "k", connect_s=1, read_s=5
    )
    try:
        yield wire, admission, client
    finally:
        wire.begins.set()
        await client.close()
        server.close()


async def _read(
    admission: AdapterAdmission, client: LlamaClient, adapter: str = "red", tokens: int = 300
) -> None:
    question = Question(
        (Message(Role.USER, "a"),), tokens, 0.0, 1.0, adapters=RED if adapter == "red" else BLUE
    )
    async with admission.place(adapter, tokens) as place, aclosing(client.stream(question, place)) as stream:
        async for _ in stream:
            pass


async def test_who_gives_up_before_the_engine_begins_waits_for_that(space: SwapSpace) -> None:
    async with wired(space) as (wire, admission, client):
        asking = asyncio.create_task(_read(admission, client))
        await wire.asked.wait()
        for _ in range(3):
            asking.cancel()
            await asyncio.sleep(0.02)
        assert not asking.done()
        assert admission.held == 1
        wire.begins.set()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert admission.held == 0
        assert space.working


async def test_an_engine_that_does_not_begin_keeps_nobody_for_long(
    space: SwapSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_client, "_BEGINS_WITHIN_S", 0.1)
    async with wired(space) as (wire, admission, client):
        asking = asyncio.create_task(_read(admission, client))
        await wire.asked.wait()
        asking.cancel()
        await asyncio.wait([asking], timeout=2)
        assert asking.cancelled()
        assert not space.working  # it may begin later, and then nobody knows what its slot holds


async def test_without_swapping_nobody_waits_for_an_engine_to_begin() -> None:
    async with wired(None) as (wire, admission, client):
        asking = asyncio.create_task(_read(admission, client))
        await wire.asked.wait()
        asking.cancel()
        await asyncio.wait([asking], timeout=1)
        assert asking.cancelled()


async def test_a_short_answer_gives_way_while_its_prompt_is_read() -> None:
    async with wired(None) as (wire, admission, client):
        asking = asyncio.create_task(_read(admission, client, tokens=2))
        await wire.asked.wait()
        async with asyncio.timeout(2), admission.place("blue", 300):
            assert not asking.done()
        asking.cancel()
        await asyncio.wait([asking])


@pytest.mark.parametrize(("status", "works"), [(400, True), (429, True), (500, True), (0, False)])
async def test_a_refusal_is_known_and_a_connection_that_breaks_is_not(
    space: SwapSpace, status: int, works: bool
) -> None:
    async with wired(space) as (wire, admission, client):
        wire.status = status
        wire.begins.set()
        with pytest.raises(PointsmanError):
            await _read(admission, client)
        assert space.working is works


async def test_an_answer_that_waited_while_the_engine_ended_says_nothing_of_the_next_one(
    space: SwapSpace,
) -> None:
    async with wired(space) as (wire, admission, client):
        wire.begins.set()
        waits = asyncio.create_task(_read(admission, client))
        await wire.asked.wait()
        async with admission.place("blue", 300):  # red gives way, and waits
            await client.close()
            admission.engine_began()
        with pytest.raises(BackendDownError, match="is gone"):
            await waits
        assert space.working


async def test_the_token_that_progress_is_told_with_belongs_to_no_answer(space: SwapSpace) -> None:
    async with wired(space) as (wire, admission, client):
        wire.begins.set()
        asking = asyncio.create_task(_read(admission, client))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait([asking])
        assert wire.paths == ["/apply-template", "/completion"]  # no other names for what was said


async def test_a_reply_that_makes_no_sense_ends_swapping_and_no_answer(space: SwapSpace) -> None:
    slot = Slot(0, holds=Held(RED, "one", None))

    async def nonsense(path: str, body: dict[str, Any]) -> Any:
        return []

    await space.settle(slot, "b", BLUE, "two", nonsense)
    assert not space.working


async def test_a_save_of_an_engine_that_is_gone_is_not_kept(space: SwapSpace) -> None:
    engine, slot = Engine(), Slot(0)
    await ask(space, engine, slot, RED, "one", "a")

    async def late(path: str, body: dict[str, Any]) -> Any:
        reply = await engine.post(path, body)
        space.clear()
        return reply

    await space.settle(slot, "b", BLUE, "two", late)
    assert (space.bytes, space.working) == (0, True)
    assert len(set(space._free)) == len(space._free) == len(space.files)


# The real engine.


def _specialists(site: Site, base: Path, **more: Any) -> Site:
    site.fill()
    for name, seed in (("red", 1), ("blue", 2)):
        sha256 = write_adapter(site.specialists / f"{name}.gguf", base, seed=seed)
        adapter = {"uri": f"file:{name}.gguf", "sha256": sha256}
        rules = " ".join(f"Rule {i} of house {seed}: speak as number {i + seed}." for i in range(8))
        write_specialist(site.specialists, name, adapter=adapter, **({"system_prompt": rules} | more))
    return site


async def _answer(server: Running, name: str, prompt: str, tokens: int = 12) -> tuple[str, int, int]:
    """Return the answer, the tokens of its prompt, and those of them that were read."""
    sampling = router_pb2.Sampling(temperature=0, max_tokens=tokens)
    text, events = await collect(server.client.generate(prompt, constraints(specialist=name), sampling))
    usage = events[-1].done.usage
    return text, usage.prompt_tokens, usage.prompt_tokens - usage.cached_tokens


@pytest.mark.model
async def test_adapters_in_one_slot_read_their_prompts_once_and_answer_as_they_would_alone(
    site: Site, base_model: Path
) -> None:
    _specialists(site, base_model)
    order = [
        (name, f"Name {what}.") for what in ("a colour", "a town", "an animal") for name in ("red", "blue")
    ]

    async def answers(spare_slots: int, swap_mib: int) -> list[tuple[str, int, int]]:
        settings = site.settings(
            engine={"slots": 1, "spare_slots": spare_slots, "swap_mib": swap_mib},
            routing={"general_specialist": ""},
        )
        async with running(settings) as server:
            found = [await _answer(server, *one) for one in order]
            assert bool(server.engine.admission.swapped_bytes) is bool(swap_mib)
            await server.core.engines.measure()
            assert (server.engine.resident_bytes or 0) > server.engine.admission.swapped_bytes
        return found

    own_slots, swapped, neither = await answers(1, 0), await answers(0, 64), await answers(0, 0)
    assert swapped == own_slots
    assert all(read < total / 3 for _, total, read in swapped[2:])
    assert all(read == total for _, total, read in neither)


@pytest.mark.model
async def test_interrupted_answers_share_one_slot_and_read_as_if_each_had_its_own(
    site: Site, base_model: Path, log_lines: list[dict[str, Any]]
) -> None:
    settings = _specialists(site, base_model).settings(
        engine={"slots": 1, "spare_slots": 0, "adapter_turn_s": 0.2, "swap_mib": 64}
    )
    asked = [
        (name, f"Invent a tale about {what}.", 40) for what in ("a key", "a map") for name in ("red", "blue")
    ]
    async with running(settings) as server:
        alone = [(await _answer(server, *one))[0] for one in asked]
        met = await asyncio.gather(*(_answer(server, *one) for one in asked))
        assert server.engine.admission.switches > len(asked)
        assert server.engine.admission.swapped_bytes
    assert "engine.swap_failed" not in [line["event"] for line in log_lines]
    same = sum(text == other for (text, *_), other in zip(met, alone, strict=True))
    assert same >= len(asked) - 1  # a batch of another make-up rounds differently


@pytest.mark.model
async def test_requests_that_are_given_up_at_once_leave_no_cache_under_another_adapter(
    site: Site, base_model: Path, log_lines: list[dict[str, Any]]
) -> None:
    """What an engine has to read of a large request takes it a while, in which it begins with a small one."""
    _specialists(site, base_model, system_prompt="You answer in one short sentence.")
    stop = tuple(f"the end of answer number {i:,}" for i in range(100_000))
    lists = [" ".join(f"{turn + i * 7}" for i in range(40)) for turn in range(8)]

    async def give_up(server: Running, prompt: str, wait_s: float) -> None:
        red = server.core.catalogs.catalog.specialist("red")
        assert red
        asked = (Message(Role.SYSTEM, red.system_prompt), Message(Role.USER, prompt))
        async with server.core.engines.lease(red) as lease, lease.place(8):
            question = Question(asked, 8, 0.0, 1.0, stop=stop, adapters=lease.adapters)
            async with aclosing(lease.stream(question)) as stream:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await anext(stream)

    async def answers(swap_mib: int) -> list[str]:
        settings = site.settings(engine={"slots": 1, "spare_slots": 0, "swap_mib": swap_mib})
        found = []
        async with running(settings) as server:
            with pytest.raises(
                grpc.aio.AioRpcError, match="INVALID_ARGUMENT"
            ):  # the engine refuses it, which is no fault of its
                await _answer(server, "red", "word " * 600)
            for turn, prompt in enumerate(lists):
                if swap_mib:
                    await give_up(server, prompt, 0.04 + 0.02 * turn)
                await _answer(server, "blue", f"{prompt} are numbers.", 2)
                if swap_mib:
                    await _answer(server, "red", "Name an animal.", 2)
                found.append((await _answer(server, "blue", f"{prompt} are what?"))[0])
        return found

    assert await answers(64) == await answers(0)
    assert "engine.swap_failed" not in [line["event"] for line in log_lines]


@pytest.mark.model
async def test_an_engine_that_is_killed_takes_its_caches_with_it(site: Site, base_model: Path) -> None:
    settings = _specialists(site, base_model).settings(engine={"slots": 1, "spare_slots": 0, "swap_mib": 64})
    async with running(settings) as server:
        first = await _answer(server, "red", "Name a colour.")
        await _answer(server, "blue", "Name a colour.")
        assert server.engine.admission.swapped_bytes
        assert server.engine.pid is not None
        os.kill(server.engine.pid, 9)
        await until(lambda: server.engine.restarts == 1 and server.engine.state == "ready")
        assert server.engine.admission.swapped_bytes == 0
        assert await _answer(server, "red", "Name a colour.") == first


@pytest.mark.model
async def test_no_file_is_left_open(site: Site, base_model: Path) -> None:
    settings = _specialists(site, base_model).settings(engine={"slots": 1, "swap_mib": 64})

    def held() -> int:
        found = 0
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the one that lists them, among others
                found += "pointsman cache" in str(link.readlink())
        return found

    async with running(settings) as server:
        async with aclosing(server.client.generate("hi", constraints(specialist="red"))) as events:
            await anext(events)
        assert await asyncio.to_thread(held)
    assert await asyncio.to_thread(held) == 0
