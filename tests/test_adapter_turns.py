"""Adapters taking turns at the real engine: what is said, and in what order, when they meet."""

import asyncio
import os
import signal
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from adapters import write_adapter
from harness import Running, Site, collect, running, until, write_specialist
from pointsman.client import constraints
from pointsman.v1 import catalog_pb2, router_pb2

pytestmark = pytest.mark.model

TALES = ("a café by the sea", "a night train", "a lost key", "an old bridge")


def _two(site: Site, base: Path, **more: Any) -> Site:
    site.fill()
    for name, seed in (("red", 1), ("blue", 2)):
        sha256 = write_adapter(site.specialists / f"{name}.gguf", base, seed=seed)
        adapter = {"uri": f"file:{name}.gguf", "sha256": sha256}
        write_specialist(site.specialists, name, adapter=adapter, **more)
    return site


async def _tale(server: Running, specialist: str, subject: str, tokens: int = 60, **more: Any) -> str:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=tokens, **more)
    prompt = f"Invent a tale about {subject}."
    text, events = await collect(server.client.generate(prompt, constraints(specialist=specialist), sampling))
    assert events[-1].WhichOneof("event") == "done"
    assert events[-1].done.usage.completion_tokens <= tokens
    return text


async def test_an_answer_that_gave_way_reads_like_one_that_did_not(site: Site, base_model: Path) -> None:
    # Turns so short that every answer is interrupted several times.
    settings = _two(site, base_model).settings(engine={"slots": 1, "adapter_turn_s": 0.2})
    async with running(settings) as server:
        alone = {
            (name, tale): await _tale(server, name, tale) for name in ("red", "blue") for tale in TALES[:3]
        }
        assert server.engine.admission.switches == 0
        asked = list(alone)
        met = await asyncio.gather(*(_tale(server, *who) for who in asked))
        assert server.engine.admission.switches > len(asked)
        same = sum(text == alone[who] for who, text in zip(asked, met, strict=True))
        # A batch of another make-up rounds differently: now and then a near tie falls the other way.
        assert same >= len(asked) - 1, [(alone[w], t) for w, t in zip(asked, met, strict=True)]


async def test_a_stop_string_across_an_interruption_still_stops(site: Site, base_model: Path) -> None:
    settings = _two(site, base_model).settings(engine={"slots": 1, "adapter_turn_s": 0.2})
    async with running(settings) as server:
        whole = await _tale(server, "red", TALES[1], 80)
        stop = whole[len(whole) // 2 :][:12]
        other = asyncio.create_task(_tale(server, "blue", TALES[2], 80))
        await until(lambda: server.engine.admission.held == 1)
        cut = await _tale(server, "red", TALES[1], 80, stop=[stop])
        await other
        assert stop not in cut
        assert whole.startswith(cut[: len(cut) // 2])
        assert len(cut) < len(whole)


async def test_a_request_for_another_adapter_is_begun_before_a_long_answer_ends(
    site: Site, base_model: Path
) -> None:
    settings = _two(site, base_model, max_output_tokens=400).settings(engine={"adapter_turn_s": 0.5})
    async with running(settings) as server:
        long = [asyncio.create_task(_tale(server, "red", tale, 400)) for tale in TALES[:2]]
        await until(lambda: server.engine.admission.held == 2)
        for _ in range(3):
            assert await _tale(server, "blue", "a map", 3)
        assert not any(task.done() for task in long)
        assert all(await asyncio.gather(*long))


def _scales(site: Site, base: Path, **more: Any) -> Site:
    """Two specialists on one adapter: `red` at scale 1, `pink` at a half."""
    site.fill()
    sha256 = write_adapter(site.specialists / "red.gguf", base, seed=1)
    for name, scale in (("red", 1.0), ("pink", 0.5)):
        adapter = {"uri": "file:red.gguf", "sha256": sha256, "scale": scale}
        write_specialist(site.specialists, name, adapter=adapter, **more)
    return site


async def test_one_adapter_at_two_scales_takes_turns_as_two_adapters_do(site: Site, base_model: Path) -> None:
    settings = _scales(site, base_model, max_output_tokens=400).settings(engine={"adapter_turn_s": 0.5})
    async with running(settings) as server:
        long = asyncio.create_task(_tale(server, "red", TALES[0], 400))
        await until(lambda: server.engine.admission.held == 1)
        assert await _tale(server, "pink", "a map", 3)
        assert not long.done()
        assert server.engine.admission.switches > 0
        assert await long


async def test_a_prompt_read_at_one_scale_is_never_taken_for_that_of_another(
    site: Site, base_model: Path
) -> None:
    settings = _scales(site, base_model).settings(engine={"slots": 1, "spare_slots": 0})
    async with running(settings) as server:
        alone = {name: await _tale(server, name, TALES[0], 16) for name in ("red", "pink", "general")}
        assert len(set(alone.values())) == 3
        for name in ("pink", "red", "red", "pink", "general", "pink", "red"):
            assert await _tale(server, name, TALES[0], 16) == alone[name]


async def test_an_answer_held_to_a_grammar_is_waited_for_and_the_next_one_of_its_adapter_is_not(
    site: Site, base_model: Path
) -> None:
    _two(site, base_model)
    held = {
        "format": "regex",
        "pattern": "[a-z ]+",
        "grammar": "root ::= line line line line\nline ::= [a-z ]{120}",
        "constrained": "always",
    }
    adapter = {
        "uri": "file:red.gguf",
        "sha256": write_adapter(site.specialists / "red.gguf", base_model, seed=1),
    }
    write_specialist(site.specialists, "red", adapter=adapter, max_output_tokens=160, output=held)
    async with running(site.settings(engine={"slots": 1})) as server:

        async def begun(name: str, subject: str, tokens: int) -> float:
            """Return when a request had its first turn."""
            asked = time.perf_counter()
            sampling = router_pb2.Sampling(temperature=0, max_tokens=tokens)
            events = server.client.generate(f"Tell of {subject}.", constraints(specialist=name), sampling)
            done = (await collect(events))[1][-1].done
            return asked + done.timings.queue_ms / 1e3

        first = [asyncio.create_task(begun("red", tale, 160)) for tale in TALES[:2]]
        await until(lambda: server.engine.admission.held == 1 and server.engine.admission.waiting == 1)
        blue = await begun("blue", "a map", 3)
        one, two = sorted(await asyncio.gather(*first))
        assert one < blue < two  # one answer of red, of max_output_tokens at most, and no second


async def test_a_caller_that_does_not_read_holds_nobody_up(site: Site, base_model: Path) -> None:
    settings = _two(site, base_model, max_output_tokens=400).settings(
        engine={"slots": 1, "adapter_turn_s": 0.5}
    )
    async with running(settings) as server:
        pool, catalog = server.core.engines, server.core.catalogs.catalog
        from pointsman.generation.backend import Question
        from pointsman.values.request import Message, Role

        red = catalog.specialist("red")
        assert red
        async with pool.lease(red) as lease, lease.place(60):
            question = Question(
                (Message(Role.USER, "Invent a tale."),), 60, 0.0, 1.0, adapters=lease.adapters
            )
            async with aclosing(lease.stream(question)) as stream:
                await anext(stream)  # and no more
                assert await _tale(server, "blue", "a map", 5)
                await until(lambda: server.engine.admission.held == 0, 20)
                assert len([piece async for piece in stream]) > 5


async def test_a_cancelled_answer_that_waits_for_its_turn_gives_everything_back(
    site: Site, base_model: Path
) -> None:
    settings = _two(site, base_model, max_output_tokens=400).settings(
        engine={"slots": 1, "adapter_turn_s": 0.3}
    )
    async with running(settings) as server:
        tasks = [asyncio.create_task(_tale(server, name, "a map", 400)) for name in ("red", "blue")]
        await until(lambda: server.engine.admission.held == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: server.engine.admission.held == 0 and server.engine.in_flight == 0)
        assert await _tale(server, "red", "a map", 3)


async def test_a_prompt_of_another_adapter_is_never_taken_from_a_cache(site: Site, base_model: Path) -> None:
    """The engine's cache of prompts in memory knows no adapters; it must be off."""
    write_specialist(_two(site, base_model).specialists, "plain")
    # One slot: red's long prompt is pushed out by another one of red, and would be kept in memory; then blue,
    # whose slot already is blue's, asks red's long prompt.
    settings = site.settings(engine={"slots": 1, "spare_slots": 0})
    towns = "Here is a list of towns along the river, with bridges and mills, by a careful traveller: " * 3
    rice = "Cooking rice needs water, salt, a pot with a lid, patience and a small flame, they say: " * 3
    async with running(settings) as server:
        alone = await _tale(server, "blue", towns, 24)
        await _tale(server, "plain", rice, 2)
        for who, subject in (("red", towns), ("red", rice), ("blue", "a map")):
            await _tale(server, who, subject, 24)
        assert await _tale(server, "blue", towns, 24) == alone


async def test_a_prompt_that_begins_like_the_last_one_of_its_adapter_is_found_in_the_cache(
    site: Site, base_model: Path
) -> None:
    async with running(_two(site, base_model).settings()) as server:
        for _ in range(3):
            for name in ("red", "blue"):
                await _tale(server, name, "a river that is long and wide and slow and cold", 3)
        listed = await server.client.catalog.ListSpecialists(catalog_pb2.ListSpecialistsRequest())
        figures = {s.specialist.name: s.figures for s in listed.specialists}
        for name in ("red", "blue"):
            assert 0.5 < figures[name].hit_rate < 0.9  # two of three prompts, but for their last token
        assert not figures["general"].HasField("hit_rate")
        assert figures["red"].tokens_per_s > 0
        assert figures["red"].resident_bytes > 100 << 20
        assert (figures["red"].slots, figures["red"].busy_slots, figures["red"].waiting) == (2, 0, 0)


async def test_an_engine_killed_while_answers_take_turns_is_restarted_and_nobody_waits_for_ever(
    site: Site, base_model: Path
) -> None:
    settings = _two(site, base_model, max_output_tokens=400).settings(engine={"adapter_turn_s": 0.3})
    async with running(settings) as server:
        tasks = [asyncio.create_task(_tale(server, name, "a map", 300)) for name in ("red", "blue")]
        await until(lambda: server.engine.admission.switches > 1, 30)
        os.kill(server.engine.pid, signal.SIGKILL)
        await asyncio.wait(tasks, timeout=60)
        assert all(task.done() for task in tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await _tale(server, "red", "a map", 3)
        assert server.engine.admission.held == 0
