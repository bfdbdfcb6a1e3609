"""Callers, sessions, deadlines and the mid tier over the wire: real server, real channel, real encoder."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from harness import Site, collect, running
from pointsman import AsyncClient, Client
from pointsman.client import constraints
from pointsman.sections import Server as ServerSettings
from pointsman.service.convert import Limits, decision_message, request_of
from pointsman.service.server import GrpcServer
from pointsman.v1 import router_pb2
from pointsman.values.decision import Decision, Evidence, Hardness, Reason, Routed, RouteTimings
from pointsman.values.events import Event
from pointsman.values.request import Constraints, Request, Tier

ASKED = router_pb2.RouteRequest(messages=[router_pb2.Message(role="ROLE_USER", content="hi")])
LIMITS = Limits(1000, 10)


def _field(error: grpc.RpcError) -> str:
    for detail in rpc_status.from_call(error).details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return bad.field_violations[0].field
    return ""


# What a request says beside its messages


def test_a_request_keeps_its_session_caller_and_budget():
    message = router_pb2.RouteRequest(messages=ASKED.messages, session_id="s-1")
    found = request_of(message, LIMITS, "id", caller="nightly-batch", budget_s=0.5)
    assert (found.session_id, found.caller, found.budget_s) == ("s-1", "nightly-batch", 0.5)
    bare = request_of(ASKED, LIMITS, "id")
    assert (bare.session_id, bare.caller, bare.budget_s) == ("", "", None)


@pytest.mark.parametrize(
    ("stated", "max_tokens", "expected"), [(0, None, 0), (0, 64, 64), (300, 64, 300), (300, None, 300)]
)
def test_the_length_of_the_answer_is_what_is_stated_or_else_the_most_that_may_come(
    stated, max_tokens, expected
):
    message = router_pb2.GenerateRequest(
        messages=ASKED.messages,
        constraints=router_pb2.Constraints(output_tokens=stated),
        sampling=router_pb2.Sampling(max_tokens=max_tokens),
    )
    assert request_of(message, LIMITS, "id").constraints.output_tokens == expected


def test_a_decision_message_says_rule_required_confidence_and_difficulty():
    evidence = Evidence(required_confidence=0.75, hardness=Hardness(0.5, None))
    decision = Decision(Tier.MID, None, Reason.RULE, "Because.", evidence, "v1", "m", "batch")
    found = decision_message(decision)
    assert (found.tier, found.rule, found.required_confidence) == (router_pb2.TIER_MID, "batch", 0.75)
    assert found.difficulty.score == 0.5
    assert not found.difficulty.HasField("threshold")


def test_a_decision_without_a_difficulty_model_has_no_difficulty_in_its_message():
    bare = decision_message(Decision(Tier.CLOUD, None, Reason.LOW_SIMILARITY, "x", Evidence(), "v1", "m"))
    assert not bare.HasField("difficulty")
    scored = Evidence(hardness=Hardness(0.0, 0.0))
    found = decision_message(Decision(Tier.CLOUD, None, Reason.LOW_SIMILARITY, "x", scored, "v1", "m"))
    assert found.HasField("difficulty")
    assert found.difficulty.HasField("threshold")


async def test_a_session_id_of_128_characters_is_taken_and_a_longer_one_refused_by_its_field(site: Site):
    async with running(site.fill().settings(), engines=False) as server:
        assert (await server.client.route("refund me", session_id="ä" * 128)).decision.specialist
        for call in (
            server.client.route("refund me", session_id="x" * 129),
            anext(server.client.generate("refund me", session_id="x" * 129)),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert _field(raised.value) == "session_id"
            assert "129 characters; the limit is 128" in raised.value.details()


@pytest.mark.parametrize("session", ["two words", "ann@acme-corp.com", "a\x00b"])
async def test_a_session_id_that_is_a_text_is_refused(site: Site, session):
    async with running(site.fill().settings(), engines=False) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.route("refund me", session_id=session)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert _field(raised.value) == "session_id"
    assert session not in raised.value.details()


@pytest.mark.parametrize("caller", ["two words", "x" * 129])
async def test_a_caller_that_cannot_be_one_is_refused_by_the_name_of_its_metadata(site: Site, caller):
    async with (
        running(site.settings(), engines=False) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        call = channel.unary_unary("/pointsman.v1.RouterService/Route")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(ASKED.SerializeToString(), metadata=(("x-pointsman-caller", caller),))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _field(raised.value) == "x-pointsman-caller"


@pytest.mark.parametrize("client", [AsyncClient, Client])
def test_a_client_refuses_a_caller_that_cannot_be_sent(client):
    with pytest.raises(ValueError, match="'two words'"):
        client(caller="two words")


async def test_a_mid_tier_that_is_not_configured_names_the_setting(site: Site):
    async with running(site.fill().settings(), engines=False) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.route("refund me", constraints(tier="mid"))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "set routing.mid" in raised.value.details()


async def test_a_mid_tier_may_be_a_specialist_of_this_machine(site: Site):
    settings = site.fill().settings(routing={"mid": "specialist:general"})
    async with running(settings, engines=False) as server:
        rules = constraints(tier="mid", local_only=True)
        decision = (await server.client.route("refund me", rules)).decision
        assert (decision.tier, decision.specialist) == (router_pb2.TIER_MID, "general")


# What arrives, at a server that only listens


class Listener:
    """Keeps what it is asked, and sends everything to one specialist."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def route(self, request: Request) -> Routed:
        self.asked.append(request)
        rule, evidence = "some_rule", Evidence(hardness=Hardness(0.25, 0.5))
        reason = Reason.RULE if request.caller else Reason.DIFFICULTY
        return Routed(
            Decision(Tier.MID, "support", reason, "Because.", evidence, "v1", "m", rule), RouteTimings()
        )

    async def generate(self, request: Request) -> AsyncGenerator[Event, None]:
        yield await self.route(request)

    def kept_out(self, method: str, request_id: str, caller: str, error: BaseException) -> None:
        raise AssertionError("everybody comes in") from error


@asynccontextmanager
async def listening() -> AsyncGenerator[tuple[str, Listener], None]:
    listener = Listener()
    server = GrpcServer(ServerSettings(address="127.0.0.1:0"), listener, None, lambda *_: None)  # type: ignore[arg-type]
    await server.start()
    try:
        yield f"127.0.0.1:{server.port}", listener
    finally:
        await server.drain(0.0)


@pytest.mark.parametrize("client", [AsyncClient, Client])
async def test_a_client_sends_caller_session_length_and_deadline_with_both_calls(client):
    rules = constraints(tier="mid", output_tokens=300)
    async with listening() as (address, listener):
        if client is Client:

            def ask() -> None:
                with Client(address, timeout_s=5, caller="reports") as sync:
                    sync.route("hi", rules, session_id="s-1")
                    list(sync.generate("hi", rules, session_id="s-1"))

            await asyncio.to_thread(ask)
        else:
            async with AsyncClient(address, timeout_s=5, caller="reports") as asker:
                await asker.route("hi", rules, session_id="s-1")
                await collect(asker.generate("hi", rules, session_id="s-1"))
    assert len(listener.asked) == 2
    for request in listener.asked:
        assert (request.caller, request.session_id) == ("reports", "s-1")
        assert request.constraints == Constraints(tier=Tier.MID, output_tokens=300)
        assert 4 < request.budget_s < 5.5  # clocks are rounded on the way


async def test_a_call_without_deadline_and_caller_has_neither():
    async with listening() as (address, listener), grpc.aio.insecure_channel(address) as channel:
        await channel.unary_unary("/pointsman.v1.RouterService/Route")(ASKED.SerializeToString())
    (request,) = listener.asked
    assert (request.budget_s, request.caller, request.session_id) == (None, "", "")


# The command line


async def _cli(*arguments: str) -> tuple[str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return out.decode(), err.decode()


@pytest.mark.parametrize("command", ["route", "generate"])
async def test_the_command_line_sends_session_caller_and_length(command):
    async with listening() as (address, listener):
        await _cli(
            command, "--address", address, "--session", "s-1", "--caller", "reports", "--output-tokens", "300",
            "--tier", "mid", "hi",
        )  # fmt: skip
    (request,) = listener.asked
    assert (request.session_id, request.caller) == ("s-1", "reports")
    assert request.constraints == Constraints(tier=Tier.MID, output_tokens=300)


async def test_the_command_line_shows_rule_and_difficulty():
    async with listening() as (address, _):
        by_rule, _ = await _cli("route", "--address", address, "--caller", "reports", "hi")
        by_difficulty, _ = await _cli("route", "--address", address, "hi")
    assert by_rule.startswith("mid: support (rule some_rule, intent none, similarity 0.000)\n")
    assert by_difficulty.startswith("mid: support (difficulty, rule some_rule, intent none")
    assert "difficulty 0.250, local up to 0.500" in by_difficulty


@pytest.mark.parametrize("where", [(), ("--address", "127.0.0.1:1")])
async def test_a_caller_that_cannot_be_one_is_one_line_on_the_command_line(site: Site, where):
    config = site.root / "pointsman.yaml"
    folders = {"intents": str(site.intents), "specialists": str(site.specialists), "cache": str(site.root)}
    config.write_text(json.dumps({"paths": folders}))
    out, err = await _cli("route", "--config", str(config), *where, "--caller", "two words", "hi")
    assert "Traceback" not in err
    assert "'two words'" in err
    assert out == ""
