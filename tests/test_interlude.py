"""Moments between two steps of an engine: whom they cost nothing, and what they save."""

import asyncio
import os
import time
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import Running, Site, running, slots_of, until
from pointsman.errors import BackendDownError, InvalidRequestError
from pointsman.generation.backend import Question
from pointsman.generation.engine_slots import EngineSlots
from pointsman.generation.interlude import BALLAST, Interlude, interlude
from pointsman.values.request import Message, Role

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux only")

LONG = "Tell me a very long story about a railway, a river and a town, with many details."


class Engine:
    """Notes what it is asked; answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.steps = asyncio.Event()
        self.down = False
        self.writes = True

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        self.asked.append(path)
        await self.steps.wait()
        if self.down:
            raise BackendDownError("down", retry_after_s=1)
        if self.writes:
            os.pwrite(int(body["filename"]), b"a cache", 0)
        return {}


async def test_the_shortest_idle_cache_that_will_do_is_copied_and_the_copy_dropped() -> None:
    engine = Engine()
    engine.steps.set()
    with interlude(wanted=True) as opened:
        assert opened is not None
        opened.ask([(0, "x" * 4000), (1, BALLAST), (2, "too short"), (3, "")], engine.post)
        await asyncio.sleep(0.01)
        assert engine.asked == ["/slots/1?action=save"]
        assert os.fstat(opened.file).st_size == 0


async def test_nothing_is_asked_where_no_idle_slot_holds_what_will_do() -> None:
    engine = Engine()
    with interlude(wanted=True) as opened:
        assert opened is not None
        opened.ask([], engine.post)
        opened.ask([(0, "too short"), (1, ""), (2, "too long " * 1000)], engine.post)
        await asyncio.sleep(0.01)
    assert engine.asked == []


async def test_one_moment_serves_all_streams_that_are_closed_before_it() -> None:
    engine = Engine()
    with interlude(wanted=True) as opened:
        assert opened is not None
        for _ in range(3):
            opened.ask([(0, BALLAST)], engine.post)
            await asyncio.sleep(0)
        assert len(engine.asked) == 1
        engine.steps.set()
        await asyncio.sleep(0.01)
        opened.ask([(0, BALLAST)], engine.post)
        await asyncio.sleep(0.01)
        assert len(engine.asked) == 2


async def test_an_engine_that_fails_at_it_fails_nobody() -> None:
    engine = Engine()
    engine.down = True
    engine.steps.set()
    with interlude(wanted=True) as opened:
        assert opened is not None
        for _ in range(2):
            opened.ask([(0, BALLAST)], engine.post)
            await asyncio.sleep(0.01)
            assert opened._asking is not None
            assert opened._asking.exception() is None
    assert len(engine.asked) == 2


async def test_an_engine_that_makes_no_copy_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.generation.interlude._PATIENCE_S", 0.01)
    engine = Engine()
    with interlude(wanted=True) as opened:
        assert opened is not None
        for _ in range(2):
            opened.ask([(0, BALLAST)], engine.post)
            await asyncio.sleep(0.05)
    assert len(engine.asked) == 2


async def test_a_copy_that_is_made_after_the_end_touches_no_other_file(tmp_path: Path) -> None:
    engine = Engine()
    with interlude(wanted=True) as opened:
        assert opened is not None
        number = opened.file
        opened.ask([(0, BALLAST)], engine.post)
        await asyncio.sleep(0)
    (tmp_path / "another").write_text("kept")
    another = os.open(tmp_path / "another", os.O_RDWR)
    os.dup2(another, number)  # which it has already, as the lowest that is free
    engine.writes = False
    engine.steps.set()
    await asyncio.sleep(0.01)
    os.close(number)
    assert (tmp_path / "another").read_text() == "kept"


def test_there_is_none_where_there_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: str) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    with interlude(wanted=True) as opened:
        assert opened is None
    monkeypatch.delattr(os, "memfd_create")
    with interlude(wanted=True) as opened:
        assert opened is None


def test_none_is_opened_where_none_is_wanted() -> None:
    with interlude(wanted=False) as opened:
        assert opened is None


def test_slots_of_a_new_engine_hold_nothing_but_what_its_last_one_reads() -> None:
    slots, owner = EngineSlots(3), object()
    slots.take("red", "a prompt", owner, set())
    slots.free(owner)
    slots.begin("ballast")
    assert slots.idle() == [(0, ""), (1, ""), (2, "ballast")]
    slots.take("red", "a prompt", owner, set())
    assert len(slots.idle()) == 2
    slots.begin("ballast")  # it died, and its answer goes on in the same slot of the next
    assert len(slots.idle()) == 2


async def _left_in_a_step(server: Running) -> int:
    """Close an answer in the middle of a step; return how many tokens its slot then holds."""
    general = server.core.catalogs.catalog.specialist("general")
    assert general
    question = Question((Message(Role.USER, LONG),), 200, 0.0, 1.0)
    told: list[float] = []
    async with (
        server.core.engines.lease(general) as lease,
        lease.place(200),
        aclosing(lease.stream(question)) as stream,
    ):
        async for _ in stream:
            told.append(time.perf_counter())
            if len(told) == 16:
                break
        await asyncio.sleep(float(np.median(np.diff(told))) / 2)

    await asyncio.sleep(0.2)  # a new client of HTTP reads certificates, and holds the loop up

    slots: list[dict[str, Any]] = []

    async def idle() -> bool:
        slots[:] = await slots_of(server.engine)
        return not any(slot["is_processing"] for slot in slots)

    await until(idle)
    return int(max(slots, key=lambda slot: slot.get("id_task", -1))["n_prompt_tokens"])


@pytest.mark.model
async def test_an_engine_makes_fewer_tokens_of_what_was_closed(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        admission = server.engine.admission
        opened = admission.interlude
        assert opened is not None
        held: dict[Interlude | None, list[int]] = {opened: [], None: []}
        for _ in range(6):
            for which, found in held.items():
                admission.interlude = which
                found.append(await _left_in_a_step(server))
        assert sum(held[opened]) < sum(held[None]), held
        assert os.fstat(opened.file).st_size == 0


@pytest.mark.model
async def test_nothing_is_asked_where_an_answer_ends_or_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(site.fill().settings()) as server:
        asked: list[object] = []
        monkeypatch.setattr(Interlude, "ask", lambda *given: asked.append(given))
        general = server.core.catalogs.catalog.specialist("general")
        assert general
        for prompt, tokens in ((LONG, 3), (LONG * 500, 3)):
            question = Question((Message(Role.USER, prompt),), tokens, 0.0, 1.0)
            async with server.core.engines.lease(general) as lease, lease.place(tokens):
                with suppress(InvalidRequestError):
                    assert [piece async for piece in lease.stream(question)]
                    assert prompt == LONG
        assert asked == []
        await _left_in_a_step(server)
        assert len(asked) == 1


@pytest.mark.model
async def test_a_cache_that_was_copied_serves_as_before(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        admission = server.engine.admission
        for _ in range(3):
            await _left_in_a_step(server)
        assert (admission.last_slot, BALLAST) in admission._engine_slots.idle()
        client: Any = server.engine._client
        body = {"prompt": BALLAST, "n_predict": 1, "id_slot": admission.last_slot}
        reply = await client._post("/completion", body)
        assert reply["timings"]["cache_n"] >= 50
