"""The cloud is a real OpenAI-compatible server on loopback, told to misbehave in every known way."""

import asyncio
import socket
from typing import Any

import grpc
import pytest

from harness import Cloud, Running, Site, collect, running, until, write_prices
from pointsman.client import constraints, explain
from pointsman.settings import Settings
from pointsman.v1 import router_pb2

FAR = "prove that there are infinitely many primes"
CLOUD = constraints(tier="cloud")


def _settings(site: Site, cloud: Cloud, routing: dict[str, Any] | None = None, **more: Any) -> Settings:
    return site.fill().settings(cloud=cloud.settings | {"max_retries": 0} | more, routing=routing or {})


async def _fails(server: Running, rules: router_pb2.Constraints = CLOUD) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await collect(server.client.generate(FAR, rules))
    return raised.value


async def test_a_prompt_that_no_intent_is_near_is_answered_by_the_cloud_with_its_cost(site: Site) -> None:
    with Cloud() as cloud:
        write_prices(site.root, "EUR", big_model=(2.0, 1.0, 10.0))
        async with running(_settings(site, cloud), engines=False) as server:
            text, events = await collect(server.client.generate(FAR))
    assert text == "from the cloud"
    decision, done = events[0].decision, events[-1].done
    assert decision.tier == router_pb2.TIER_CLOUD
    assert decision.reason == router_pb2.DECISION_REASON_LOW_SIMILARITY
    assert decision.model == "big-model"
    assert (done.usage.prompt_tokens, done.usage.cached_tokens, done.usage.completion_tokens) == (
        1000,
        400,
        500,
    )
    assert done.cost.currency == "EUR"
    assert done.cost.amount == pytest.approx((600 * 2 + 400 * 1 + 500 * 10) / 1e6)
    (asked,) = cloud.requests
    assert asked["path"] == "/v1/chat/completions"
    assert asked["key"] == "Bearer secret-key"
    assert asked["model"] == "big-model"
    assert asked["messages"] == [{"role": "user", "content": FAR}]
    assert "temperature" not in asked  # what the caller leaves open is the cloud's to choose


async def test_sampling_of_the_request_reaches_the_cloud(site: Site) -> None:
    with Cloud() as cloud:
        async with running(_settings(site, cloud), engines=False) as server:
            sampling = router_pb2.Sampling(temperature=0.5, top_p=0.5, max_tokens=7, seed=3, stop=["END"])
            await collect(server.client.generate(FAR, CLOUD, sampling))
    asked = cloud.requests[0]
    assert (asked["temperature"], asked["top_p"], asked["max_tokens"], asked["seed"]) == (0.5, 0.5, 7, 3)
    assert asked["stop"] == ["END"]


@pytest.mark.parametrize(
    ("behaviour", "code", "says"),
    [
        (401, grpc.StatusCode.UNAVAILABLE, "the cloud does not let this service in (401)"),
        (403, grpc.StatusCode.UNAVAILABLE, "the cloud does not let this service in (403)"),
        (404, grpc.StatusCode.UNAVAILABLE, "the cloud has not what it was asked for (404)"),
        (400, grpc.StatusCode.INVALID_ARGUMENT, "the cloud refuses the conversation"),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED, "the cloud is asked too much (429)"),
        (500, grpc.StatusCode.UNAVAILABLE, "the cloud failed (500)"),
        ("half", grpc.StatusCode.UNAVAILABLE, "without finishing"),
        ("silent", grpc.StatusCode.UNAVAILABLE, "without finishing"),
        ("garbage", grpc.StatusCode.UNAVAILABLE, "no chat-completions stream"),
        ("null choices", grpc.StatusCode.UNAVAILABLE, "without finishing"),
    ],
)
async def test_a_failing_cloud_is_a_clear_error(site: Site, behaviour, code, says, log_lines) -> None:
    with Cloud(behaviour) as cloud:
        async with running(_settings(site, cloud), engines=False) as server:
            error = await _fails(server)
            assert error.code() is code
            assert says in error.details()
            if isinstance(behaviour, int):  # what it says of the messages may quote them
                assert "told to say" not in error.details() + str(log_lines)
                assert f"the cloud answered {behaviour}" in str(log_lines)
            assert "secret-key" not in error.details()
            assert "secret-key" not in str(log_lines)
            cloud.behaviours = ["ok"]
            assert (await collect(server.client.generate(FAR, CLOUD)))[0] == "from the cloud"


async def test_a_429_says_when_to_come_back(site: Site) -> None:
    with Cloud(429) as cloud:
        async with running(_settings(site, cloud), engines=False) as server:
            assert "try again in 0.1 s" in explain(await _fails(server))  # it says 0.01, which is at once


async def test_a_cloud_that_says_nothing_is_given_up_after_its_timeout(site: Site) -> None:
    with Cloud("hang") as cloud:
        settings = _settings(site, cloud, first_token_timeout_s=0.3)
        async with running(settings, engines=False) as server:
            error = await _fails(server)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "in time" in error.details()


@pytest.mark.parametrize("behaviour", ["pings", "empty"])
async def test_a_cloud_that_keeps_the_connection_alive_and_says_nothing_is_given_up_too(
    site: Site, behaviour: str
) -> None:
    with Cloud(behaviour) as cloud:
        settings = _settings(site, cloud, first_token_timeout_s=0.5)
        async with running(settings, engines=False) as server:
            error = await _fails(server)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "sent no token for 0.5 s" in error.details()
            await until(cloud.closed_early.is_set, 5.0)


async def test_a_cloud_that_thinks_before_it_answers_is_waited_for(site: Site) -> None:
    with Cloud("thinks") as cloud:
        settings = _settings(site, cloud, first_token_timeout_s=0.8)
        async with running(settings, engines=False) as server:
            assert (await collect(server.client.generate(FAR, CLOUD)))[0] == "from the cloud"


async def test_a_cloud_that_nobody_runs_cannot_be_reached(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cloud = {"model": "big", "base_url": f"http://127.0.0.1:{port}/v1", "max_retries": 0}
    async with running(site.fill().settings(cloud=cloud), engines=False) as server:
        error = await _fails(server)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "cannot be reached" in error.details()


async def test_failures_before_the_first_token_are_tried_again(site: Site) -> None:
    with Cloud(500, 429, "ok") as cloud:
        async with running(_settings(site, cloud, max_retries=2), engines=False) as server:
            assert (await collect(server.client.generate(FAR, CLOUD)))[0] == "from the cloud"
    assert len(cloud.requests) == 3


async def test_failures_within_the_answer_are_not(site: Site) -> None:
    with Cloud("half", "ok") as cloud:
        async with running(_settings(site, cloud, max_retries=2), engines=False) as server:
            assert (await _fails(server)).code() is grpc.StatusCode.UNAVAILABLE
    assert len(cloud.requests) == 1


async def test_a_caller_that_leaves_closes_the_connection_to_the_cloud(site: Site) -> None:
    with Cloud("slow", words=("word ",) * 200) as cloud:
        async with running(_settings(site, cloud), engines=False) as server:
            events = server.client.generate(FAR, CLOUD)
            async for event in events:
                if event.WhichOneof("event") == "token":
                    break
            await events.aclose()
            await until(cloud.closed_early.is_set, 5.0)


@pytest.mark.model
@pytest.mark.parametrize("behaviour", [500, 401, 429, "silent"])
async def test_where_settings_say_so_the_general_specialist_takes_over_from_a_cloud_that_is_down(
    site: Site, base_model: Any, behaviour: Any
) -> None:
    with Cloud(behaviour) as cloud:
        async with running(_settings(site, cloud, {"on_cloud_down": "general"})) as server:
            sampling = router_pb2.Sampling(temperature=0, max_tokens=5)
            text, events = await collect(server.client.generate(FAR, None, sampling))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["decision", "escalation"]
    assert events[0].decision.tier == router_pb2.TIER_CLOUD
    taken = events[1].escalation
    assert (taken.decision.specialist, taken.retract_from) == ("general", 0)
    assert taken.decision.reason == router_pb2.DECISION_REASON_CLOUD_DOWN
    assert text
    assert not events[-1].done.HasField("cost")


@pytest.mark.model
async def test_a_cloud_that_breaks_off_within_its_answer_is_not_taken_over(
    site: Site, base_model: Any
) -> None:
    with Cloud("half") as cloud:
        async with running(_settings(site, cloud, {"on_cloud_down": "general"})) as server:
            assert (await _fails(server)).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.model
async def test_a_request_that_must_stay_local_never_reaches_the_cloud(site: Site, base_model: Any) -> None:
    with Cloud() as cloud:
        async with running(_settings(site, cloud, {"on_cloud_down": "general"})) as server:
            sampling = router_pb2.Sampling(temperature=0, max_tokens=2)
            prompts = (FAR, "refund me", "write a compiler", "will it rain")
            for rules in (constraints(local_only=True), constraints(tier="local")):
                await asyncio.gather(*(collect(server.client.generate(p, rules, sampling)) for p in prompts))
    assert cloud.requests == []


@pytest.mark.model
async def test_who_names_the_cloud_is_not_given_a_local_answer(site: Site, base_model: Any) -> None:
    with Cloud(500) as cloud:
        async with running(_settings(site, cloud, {"on_cloud_down": "general"})) as server:
            assert (await _fails(server, CLOUD)).code() is grpc.StatusCode.UNAVAILABLE
