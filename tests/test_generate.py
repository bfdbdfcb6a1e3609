"""Answers from the real engine, through the real service."""

import asyncio
import os
import signal
import sys
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from adapters import write_adapter
from harness import Site, collect, running, slots_of, until, write_specialist
from pointsman.client import constraints
from pointsman.v1 import router_pb2

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("base_model")]

LATE = 4
"""Most tokens that an engine makes after its caller has gone: what is on the way to the caller, and one or two until it hears."""
LONG = "Tell me a very long story about a railway, a river and a town, with many details."


def _sampling(**fields: Any) -> router_pb2.Sampling:
    return router_pb2.Sampling(temperature=0, **fields)


async def _busy_slots(engine: Any) -> int:
    return sum(slot["is_processing"] for slot in await slots_of(engine))


async def _decoded(server: Any, specialist: str = "general") -> int:
    """Return how many tokens the engine made for the last `LONG`, once its slot is free."""

    async def free() -> bool:
        return await _busy_slots(server.engine) == 0

    await until(free, 5.0)
    last = max(await slots_of(server.engine), key=lambda slot: slot.get("id_task", -1))
    held = last["n_prompt_tokens"]
    _, events = await collect(
        server.client.generate(LONG, constraints(specialist=specialist), _sampling(max_tokens=1))
    )
    return held - events[-1].done.usage.prompt_tokens


def _retry_s(error: grpc.RpcError) -> float:
    for detail in rpc_status.from_call(error).details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToMilliseconds() / 1e3
    raise AssertionError("no RetryInfo")


async def test_an_answer_is_a_decision_then_tokens_then_done(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        text, events = await collect(
            server.client.generate("please refund my order", None, _sampling(max_tokens=20))
        )
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "decision"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"token"}
    assert events[0].decision.specialist == "support"
    done = events[-1].done
    assert text.strip()
    assert 0 < done.usage.completion_tokens <= 20
    assert done.usage.prompt_tokens > 10
    assert done.finish_reason in {router_pb2.FINISH_REASON_STOP, router_pb2.FINISH_REASON_LENGTH}
    assert 0 < done.timings.ttft_ms <= done.timings.total_ms
    assert not done.HasField("cost")
    assert not events[1].token.HasField("logprob")


async def test_log_probabilities_come_when_asked_for(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        sampling = _sampling(max_tokens=5, logprobs=True)
        _, events = await collect(
            server.client.generate("hello", constraints(specialist="general"), sampling)
        )
    tokens = [event.token for event in events if event.WhichOneof("event") == "token"]
    assert tokens
    assert all(token.HasField("logprob") and token.logprob <= 0 for token in tokens)


async def test_a_specialist_answers_in_the_way_of_its_worked_examples(site: Site) -> None:
    site.fill()
    shots = [
        {"user": word, "assistant": "<<BANANA>>"}
        for word in ("car", "tree", "house", "river", "stone", "cloud")
    ]
    write_specialist(site.specialists, "echo", few_shot=shots, system_prompt="Always answer <<BANANA>>.")
    async with running(site.settings()) as server:
        text, _ = await collect(
            server.client.generate("boat", constraints(specialist="echo"), _sampling(max_tokens=12))
        )
    assert "BANANA" in text


async def test_the_limit_of_the_specialist_holds_against_a_greedy_request(site: Site) -> None:
    site.fill()
    write_specialist(site.specialists, "terse", max_output_tokens=4)
    async with running(site.settings()) as server:
        rules = constraints(specialist="terse")
        _, events = await collect(server.client.generate(LONG, rules, _sampling(max_tokens=500)))
    assert events[-1].done.usage.completion_tokens == 4
    assert events[-1].done.finish_reason == router_pb2.FINISH_REASON_LENGTH


async def test_a_prompt_beyond_the_context_is_an_invalid_argument(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await collect(server.client.generate("word " * 3000, constraints(specialist="general")))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "context" in raised.value.details()


async def test_streams_of_several_callers_run_at_the_same_time(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        rules = constraints(specialist="general")

        async def first_and_last() -> tuple[float, float]:
            times = []
            async for event in server.client.generate(LONG, rules, _sampling(max_tokens=60)):
                if event.WhichOneof("event") == "token":
                    times.append(time.perf_counter())
            return times[0], times[-1]

        (a_first, a_last), (b_first, b_last) = await asyncio.gather(first_and_last(), first_and_last())
    assert a_first < b_last
    assert b_first < a_last


async def _left_after(server: Any, tokens: int, specialist: str) -> int:
    """Leave an answer after so many tokens; return how many more the engine made of it."""
    seen = 0
    rules = constraints(specialist=specialist)
    async with aclosing(server.client.generate(LONG, rules, _sampling(max_tokens=250))) as events:
        async for event in events:
            seen += event.WhichOneof("event") == "token"
            if seen == tokens:
                break
    return await _decoded(server, specialist) - tokens


@pytest.mark.parametrize("specialist", ["general", "red"])
async def test_a_cancelled_stream_frees_its_slot_within_a_few_tokens(
    site: Site, base_model: Path, specialist: str
) -> None:
    """As shipped: one adapter or none, caches swapped."""
    sha256 = write_adapter(site.specialists / "red.gguf", base_model, seed=1)
    write_specialist(site.specialists, "red", adapter={"uri": "file:red.gguf", "sha256": sha256})
    async with running(site.fill().settings()) as server:
        assert server.engine.admission.swap is not None
        late = [await _left_after(server, 20, specialist) for _ in range(5)]
        assert min(late) >= 0
        assert sorted(late)[2] <= LATE, late  # of five: once in a while the machine does something else
        await until(lambda: server.engine.in_flight == 0 and server.engine.admission.held == 0)


async def test_a_deadline_frees_the_slot_too(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        rules, patience_s = constraints(specialist="general"), server.client._timeout_s
        late = []
        for _ in range(5):
            seen, server.client._timeout_s = 0, 1.0  # before the story ends by itself
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                async for event in server.client.generate(LONG, rules, _sampling(max_tokens=250)):
                    seen += event.WhichOneof("event") == "token"
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            server.client._timeout_s = patience_s
            late.append(await _decoded(server) - seen)
        assert min(late) >= 0
        assert sorted(late)[2] <= LATE, late


async def test_a_client_that_vanishes_frees_the_slot(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        channel = grpc.aio.insecure_channel(server.address)
        call = channel.unary_stream(
            "/pointsman.v1.RouterService/Generate",
            request_serializer=router_pb2.GenerateRequest.SerializeToString,
            response_deserializer=router_pb2.GenerateResponse.FromString,
        )(
            router_pb2.GenerateRequest(
                messages=[router_pb2.Message(role="ROLE_USER", content=LONG)],
                constraints=constraints(specialist="general"),
                sampling=_sampling(max_tokens=250),
            )
        )
        await call.read()
        await call.read()
        assert await _busy_slots(server.engine) == 1
        await channel.close(None)

        async def free() -> bool:
            return await _busy_slots(server.engine) == 0

        assert await until(free, 3.0) < 2.0


VANISHING = """
import sys
from pointsman import Client
from pointsman.client import constraints
from pointsman.v1 import router_pb2
with Client(sys.argv[1]) as client:
    sampling = router_pb2.Sampling(temperature=0, max_tokens=250)
    for event in client.generate(sys.argv[2], constraints(specialist="general"), sampling):
        print(event.WhichOneof("event"), flush=True)
"""


async def test_a_client_that_is_killed_within_its_answer_frees_the_slot(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", VANISHING, server.address, LONG), stdout=asyncio.subprocess.PIPE
        )
        assert client.stdout is not None
        assert [await client.stdout.readline() for _ in range(3)] == [b"decision\n", b"token\n", b"token\n"]
        client.kill()
        await client.wait()
        assert await _decoded(server) < 100  # of 250: it did not just come to its end
        await until(lambda: server.engine.in_flight == 0 and server.engine.admission.held == 0)


async def test_a_full_queue_answers_resource_exhausted_with_a_time_to_come_back(site: Site) -> None:
    settings = site.fill().settings(engine={"slots": 1, "queue_limit": 1})
    async with running(settings) as server:
        rules = constraints(specialist="general")
        results = await asyncio.gather(
            *(collect(server.client.generate(LONG, rules, _sampling(max_tokens=20))) for _ in range(4)),
            return_exceptions=True,
        )
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert len(refused) == 2
    assert {r.code() for r in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert all(_retry_s(r) > 0 for r in refused)


async def test_an_engine_killed_within_an_answer_ends_it_unavailable_and_the_next_one_is_answered(
    site: Site,
) -> None:
    async with running(site.fill().settings()) as server:
        rules = constraints(specialist="general")
        events = server.client.generate(LONG, rules, _sampling(max_tokens=250))
        seen = 0
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for event in events:
                seen += event.WhichOneof("event") == "token"
                if seen == 3:
                    os.kill(server.engine.pid, signal.SIGKILL)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert _retry_s(raised.value) > 0
        text, _ = await collect(server.client.generate("hello", rules, _sampling(max_tokens=5)))
        assert text
        assert server.engine.restarts == 1


async def test_an_engine_that_hangs_is_replaced(site: Site) -> None:
    settings = site.fill().settings(engine={"slots": 1, "health_interval_s": 0.1, "stop_timeout_s": 0.5})
    async with running(settings) as server:
        pid = server.engine.pid
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: server.engine.pid != pid and server.engine.state == "ready", 40)
        rules = constraints(specialist="general")
        text, _ = await collect(server.client.generate("hello", rules, _sampling(max_tokens=5)))
        assert text


async def test_no_engine_outlives_its_server(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        pid = server.engine.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "content", [b"", b"GGUF", b"not a model at all", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64]
)
async def test_a_base_that_is_no_model_is_refused_and_the_others_serve(site: Site, content: bytes) -> None:
    import hashlib

    site.fill()
    (site.specialists / "bad.gguf").write_bytes(content)
    base = {"uri": "file:bad.gguf", "sha256": hashlib.sha256(content).hexdigest()}
    write_specialist(site.specialists, "broken", base=base)
    async with running(site.settings()) as server:
        health = (await server.client.list_intents()).health
        assert [p.value for p in health.problems] == ["broken"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await collect(server.client.generate("hi", constraints(specialist="broken")))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (
            raised.value.details() == "specialist 'broken' cannot answer now"
        )  # the files are the operator's
        rules = constraints(specialist="general")
        assert (await collect(server.client.generate("hi", rules, _sampling(max_tokens=3))))[0]


async def test_a_truncated_model_is_refused(site: Site, base_model: Path) -> None:
    import hashlib

    site.fill()
    content = base_model.read_bytes()[: 40 << 20]
    (site.specialists / "cut.gguf").write_bytes(content)
    base = {"uri": "file:cut.gguf", "sha256": hashlib.sha256(content).hexdigest()}
    write_specialist(site.specialists, "cut", base=base)
    async with running(site.settings()) as server:
        (problem,) = (await server.client.list_intents()).health.problems
        assert "cut short" in problem.message
        assert (problem.file, problem.line, problem.field) == ("specialists/cut.yaml", 2, "base")


async def test_a_wrong_sha256_and_a_missing_file_are_refused_by_name(site: Site) -> None:
    site.fill()
    write_specialist(site.specialists, "gone", base={"uri": "file:nowhere.gguf", "sha256": "0" * 64})
    (site.specialists / "other.gguf").write_bytes(b"GGUF")
    write_specialist(site.specialists, "wrong", base={"uri": "file:other.gguf", "sha256": "0" * 64})
    async with running(site.settings()) as server:
        problems = {p.value: p.message for p in (await server.client.list_intents()).health.problems}
    assert set(problems) == {"gone", "wrong"}
    assert "no such file" in problems["gone"]
    assert "0000" in problems["wrong"]


async def test_draining_lets_streams_finish_and_refuses_new_ones(site: Site) -> None:
    async with running(site.fill().settings()) as server:
        rules = constraints(specialist="general")
        stream = asyncio.create_task(collect(server.client.generate(LONG, rules, _sampling(max_tokens=40))))
        await until(lambda: server.engine.admission.held == 1)
        drain = asyncio.create_task(server.server.drain(20.0))
        await asyncio.sleep(0.1)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.route("hello")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        _, events = await stream
        assert events[-1].WhichOneof("event") == "done"
        assert await drain == 0
