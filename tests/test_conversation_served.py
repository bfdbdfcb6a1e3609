"""Conversations and difficulty over the wire: the shipped intents, a real encoder."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from harness import Running, Site, running, until
from outcome_builders import TOPICS
from pointsman.decision.difficulty import QualityPromise, fit
from pointsman.decision.difficulty_file import save
from pointsman.decision.outcomes import make_outcomes
from pointsman.host.offline import open_workbench
from pointsman.v1 import router_pb2

ROOT = Path(__file__).parent.parent
FOLLOW_UP = router_pb2.DECISION_REASON_FOLLOW_UP
SHIPPED = {"intents": ROOT / "intents", "specialists": ROOT / "specialists"}


async def _decision(
    server: Running, *turns: str, session: str = "", local_only: bool = False
) -> router_pb2.Decision:
    conversation = []
    for turn in turns:
        conversation += [
            router_pb2.Message(role=router_pb2.ROLE_USER, content=turn),
            router_pb2.Message(role=router_pb2.ROLE_ASSISTANT, content="Here you are."),
        ]
    rules = router_pb2.Constraints(local_only=local_only)
    return (await server.client.route(conversation[:-1], rules, session_id=session)).decision


async def test_a_follow_up_stays_and_a_change_of_topic_leaves(site: Site) -> None:
    async with running(site.settings(paths=SHIPPED), engines=False) as server:
        opening = "will it rain in Oslo on friday"
        stays = await _decision(server, opening, "and for last month?")
        assert (stays.intent, stays.specialist, stays.reason) == ("get_weather", "slots", FOLLOW_UP)
        assert "follows up on the one before it" in stays.explanation
        assert "continues the topic of the turn before it" in stays.explanation
        alone = await _decision(server, "and for last month?")
        assert alone.reason != FOLLOW_UP
        leaves = await _decision(server, opening, "I was charged twice and want my money back")
        assert (leaves.specialist, leaves.intent) == ("support", "refund_request")
        assert "opens a new topic" in leaves.explanation


async def test_a_session_remembers_what_the_caller_does_not_send(site: Site) -> None:
    async with running(site.settings(paths=SHIPPED), engines=False) as server:
        await _decision(server, "will it rain in Oslo on friday", session="a")
        await _decision(server, "I was charged twice and want my money back", session="b")
        follow_up = "and for last month?"
        assert (await _decision(server, follow_up, session="a")).specialist == "slots"
        assert (await _decision(server, follow_up, session="b")).specialist == "support"
        assert (await _decision(server, follow_up, session="unknown")).reason != FOLLOW_UP


async def test_sessions_end_with_their_time(site: Site) -> None:
    settings = site.settings(paths=SHIPPED, conversations={"session_ttl_s": 0.2})
    async with running(settings, engines=False) as server:
        await _decision(server, "will it rain in Oslo on friday", session="a")
        await asyncio.sleep(0.3)
        assert (await _decision(server, "and for last month?", session="a")).reason != FOLLOW_UP


async def test_a_session_id_that_is_too_long_is_refused(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.client.route("hello", session_id="x" * 129)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "128" in (caught.value.details() or "")


async def test_turns_are_embedded_once(site: Site) -> None:
    async with running(site.settings(paths=SHIPPED), engines=False) as server:
        encoder = server.core.answers._router._worker._encoder
        seen: list[str] = []
        encode = encoder.encode

        def counted(texts):
            seen.extend(texts)
            return encode(texts)

        encoder.encode = counted
        try:
            await _decision(server, "will it rain in Oslo on friday")
            await _decision(server, "will it rain in Oslo on friday", "and for last month?")
            await _decision(server, "will it rain in Oslo on friday", "and for last month?", "thanks")
        finally:
            del encoder.encode
        assert seen == ["will it rain in Oslo on friday", "and for last month?", "thanks"]


def _difficulty(site: Site, topics: tuple[str, ...] = ("get_weather",)) -> Path:
    """Write a difficulty model in which long prompts are too hard for the local model."""
    generator = np.random.default_rng(0)
    repeats = generator.integers(0, 12, 520)
    texts = [f"will it rain on day {i} {'and will it snow ' * times}" for i, times in enumerate(repeats)]
    with open_workbench(site.settings(paths=SHIPPED)) as bench:
        rows, encoder_hash = bench.embed(texts), bench.encoder_hash
    local = (generator.random(520) < np.where(repeats > 5, 0.05, 0.97)).astype(float)
    named = [topics[i % len(topics)] for i in range(520)]
    parts = [
        make_outcomes(rows[part], texts[part], named[part], local[part], np.ones(520)[part])
        for part in (slice(0, 310), slice(310, 520))
    ]
    path = site.root / "difficulty.npz"
    save(fit(parts[0], parts[1], QualityPromise(), encoder_hash), path)
    return path


async def test_a_prompt_too_hard_for_its_specialist_goes_to_the_cloud(site: Site) -> None:
    await asyncio.to_thread(_difficulty, site)
    cloud = {"model": "big", "base_url": "http://127.0.0.1:9", "api_key": "k"}
    async with running(site.settings(paths=SHIPPED, cloud=cloud), engines=False) as server:
        hard = "will it rain " + "and will it snow " * 12
        easy = await _decision(server, "will it rain and will it snow")
        assert (easy.specialist, easy.reason) == ("slots", router_pb2.DECISION_REASON_INTENT_MATCH)
        assert easy.difficulty.score <= easy.difficulty.threshold
        up = await _decision(server, hard)
        assert (up.tier, up.reason) == (router_pb2.TIER_CLOUD, router_pb2.DECISION_REASON_DIFFICULTY)
        assert up.difficulty.score > up.difficulty.threshold
        assert up.intent == "get_weather"
        assert "looks hard for the local model" in up.explanation
        assert (await _decision(server, hard, local_only=True)).specialist == "slots"


async def test_a_topic_without_calibration_labels_goes_to_the_cloud(site: Site) -> None:
    assert "get_weather" not in TOPICS
    await asyncio.to_thread(_difficulty, site, ("some_other_topic",))
    cloud = {"model": "big", "base_url": "http://127.0.0.1:9", "api_key": "k"}
    async with running(site.settings(paths=SHIPPED, cloud=cloud), engines=False) as server:
        decision = await _decision(server, "will it rain and will it snow")
        assert decision.reason == router_pb2.DECISION_REASON_DIFFICULTY
        assert not decision.difficulty.HasField("threshold")


async def test_a_difficulty_model_is_taken_into_use_and_one_that_breaks_keeps_serving(site: Site) -> None:
    path = await asyncio.to_thread(_difficulty, site)
    later = site.root / "later"
    path.rename(later)
    async with running(site.settings(paths=SHIPPED), engines=False, watch=True) as server:
        assert not (await _decision(server, "will it rain")).HasField("difficulty")
        later.rename(path)

        async def applied() -> bool:
            return (await _decision(server, "will it rain")).HasField("difficulty")

        await until(applied, 5.0)
        await asyncio.to_thread(path.write_bytes, b"garbage")

        async def noticed() -> bool:
            problems = (await server.client.list_intents()).health.problems
            return any("difficulty.npz" in problem.file for problem in problems)

        await until(noticed, 5.0)
        assert (await _decision(server, "will it rain")).HasField("difficulty")
