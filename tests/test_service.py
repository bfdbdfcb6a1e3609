"""The wire: real server, real channel, real encoder; no engine is needed to route."""

import asyncio
import threading

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from harness import REFUND, Site, running, write_intent, write_specialist
from pointsman.client import constraints
from pointsman.router import worker
from pointsman.v1 import catalog_pb2, router_pb2


async def _error(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value


def _details(error: grpc.aio.AioRpcError, kind: type):
    status = rpc_status.from_call(error)
    found = [kind() for detail in status.details if detail.Is(kind.DESCRIPTOR)]
    for value, detail in zip(found, [d for d in status.details if d.Is(kind.DESCRIPTOR)], strict=True):
        detail.Unpack(value)
    return found


async def test_a_prompt_near_an_intent_goes_to_its_specialist_and_is_explained(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        response = await server.client.route("can I have my money back please")
    decision = response.decision
    assert (decision.tier, decision.specialist, decision.intent) == (
        router_pb2.TIER_LOCAL,
        "support",
        "refund",
    )
    assert decision.reason == router_pb2.DECISION_REASON_INTENT_MATCH
    assert decision.score >= decision.threshold
    assert 0 < decision.confidence <= 1
    assert decision.neighbors[0].text in REFUND
    assert decision.neighbors[0].exemplar_id.startswith("refund/")
    similarities = [n.similarity for n in decision.neighbors]
    assert similarities == sorted(similarities, reverse=True)
    assert "refund" in decision.explanation
    assert decision.model.endswith(".gguf")
    assert response.timings.total_ms >= response.timings.embed_ms > 0


async def test_the_same_prompt_gets_the_same_scores_whatever_else_is_in_flight(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        alone = await server.client.route("refund me")
        prompts = ["refund me", "x", "a much longer prompt about the weather " * 8, "snow?"] * 8
        together = await asyncio.gather(*(server.client.route(prompt) for prompt in prompts))
    assert {r.decision.score for r in together[::4]} == {alone.decision.score}


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "messages"),
        ([("user", "")], "messages[0].content"),
        ([("user", "  \n\t ")], "messages[0].content"),
        ([("user", "hi"), ("assistant", "hello")], "messages[1].role"),
        ([("unspecified", "hi")], "messages[0].role"),
        ([("user", "x" * 1_000_000)], "messages"),
        ([("user", "hi")] * 300, "messages"),
    ],
    ids=["none", "empty", "blank", "ends with the assistant", "no role", "one megabyte", "too many"],
)
async def test_a_bad_conversation_is_refused_by_field(site: Site, messages, field) -> None:
    conversation = [router_pb2.Message(role=f"ROLE_{role.upper()}", content=text) for role, text in messages]
    async with running(site.settings(), engines=False) as server:
        error = await _error(server.client.route(conversation))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (detail,) = _details(error, error_details_pb2.BadRequest)
        assert detail.field_violations[0].field == field


@pytest.mark.parametrize("method", ["Route", "Generate"])
async def test_bytes_that_are_not_utf8_are_an_invalid_argument_not_an_internal_error(
    site: Site, method
) -> None:
    good = router_pb2.RouteRequest(messages=[router_pb2.Message(role="ROLE_USER", content="AAAA")])
    broken = good.SerializeToString().replace(b"AAAA", b"\xff\xfe\xfd\xfc")
    async with (
        running(site.fill().settings(), engines=False) as server,
        grpc.aio.insecure_channel(server.address) as c,
    ):
        path = f"/pointsman.v1.RouterService/{method}"
        if method == "Route":
            error = await _error(c.unary_unary(path)(broken))
        else:
            error = await _error(c.unary_stream(path)(broken).read())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "UTF-8" in error.details()
        assert (await server.client.route("refund me")).decision.specialist == "support"


async def test_a_message_over_the_limit_of_the_channel_is_refused_and_the_server_lives(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        error = await _error(server.client.route("x" * (5 << 20)))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await server.client.route("refund me")).decision.specialist == "support"


async def test_an_unknown_specialist_is_not_found_and_the_known_ones_are_named(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        error = await _error(server.client.route("hi", constraints(specialist="nobody")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "general, support" in error.details()
        assert _details(error, error_details_pb2.ResourceInfo)[0].resource_name == "nobody"
        assert _details(error, error_details_pb2.ErrorInfo)[0].reason == "UNKNOWN_NAME"


async def test_rules_override_similarity(site: Site) -> None:
    site.fill()
    write_specialist(site.specialists, "forms", task_types=["form_filling"])
    settings = site.settings(cloud={"model": "big", "base_url": "http://127.0.0.1:1/v1"})
    async with running(settings, engines=False) as server:
        for rules, tier, specialist, reason in [
            (constraints(specialist="general"), "LOCAL", "general", "EXPLICIT_SPECIALIST"),
            (constraints(tier="cloud"), "CLOUD", "", "EXPLICIT_TIER"),
            (constraints(task_type="form_filling"), "LOCAL", "forms", "TASK_TYPE"),
            (constraints(task_type="reasoning"), "CLOUD", "", "TASK_TYPE"),
            (constraints(tier="local"), "LOCAL", "support", "EXPLICIT_TIER"),
        ]:
            decision = (await server.client.route("refund my order please", rules)).decision
            assert router_pb2.Tier.Name(decision.tier) == f"TIER_{tier}"
            assert decision.specialist == specialist
            assert router_pb2.DecisionReason.Name(decision.reason) == f"DECISION_REASON_{reason}"


async def test_what_must_stay_local_stays_local_and_what_need_not_goes_to_the_cloud(site: Site) -> None:
    settings = site.fill().settings(cloud={"model": "big", "base_url": "http://127.0.0.1:1/v1"})
    async with running(settings, engines=False) as server:
        far = "prove that there are infinitely many primes"
        assert (await server.client.route(far)).decision.tier == router_pb2.TIER_CLOUD
        kept = (await server.client.route(far, constraints(local_only=True))).decision
        assert (kept.tier, kept.specialist) == (router_pb2.TIER_LOCAL, "general")
        assert kept.reason == router_pb2.DECISION_REASON_LOCAL_ONLY
        error = await _error(server.client.route(far, constraints(local_only=True, tier="cloud")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_with_no_cloud_and_no_stand_in_the_error_says_what_to_configure(site: Site) -> None:
    settings = site.fill().settings(routing={"on_no_cloud": "fail"})
    async with running(settings, engines=False) as server:
        error = await _error(server.client.route("prove that there are infinitely many primes"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "cloud.model" in error.details()


@pytest.mark.parametrize("exemplars", [["refund me"], REFUND], ids=["one exemplar", "one intent"])
async def test_one_intent_routes_what_is_near_and_rejects_what_is_far(site: Site, exemplars) -> None:
    write_specialist(site.specialists, "support")
    write_specialist(site.specialists, "general")
    write_intent(site.intents, "refund", "support", exemplars)
    async with running(site.settings(), engines=False) as server:
        assert (await server.client.route("please refund me")).decision.specialist == "support"
        assert (await server.client.route("how tall is the eiffel tower")).decision.specialist == "general"


async def test_zero_intents_route_to_the_general_specialist(site: Site) -> None:
    write_specialist(site.specialists, "general")
    async with running(site.settings(), engines=False) as server:
        decision = (await server.client.route("anything")).decision
        assert (decision.specialist, decision.intent) == ("general", "")


async def test_zero_intents_and_zero_specialists_fail_with_what_to_set(site: Site) -> None:
    async with running(site.settings(), engines=False) as server:
        error = await _error(server.client.route("anything"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "general_specialist" in error.details()


async def test_every_reply_carries_the_request_id_that_was_sent(site: Site) -> None:
    async with (
        running(site.fill().settings(), engines=False) as server,
        grpc.aio.insecure_channel(server.address) as c,
    ):
        request = router_pb2.RouteRequest(messages=[router_pb2.Message(role="ROLE_USER", content="hi")])
        call = c.unary_unary(
            "/pointsman.v1.RouterService/Route",
            request_serializer=router_pb2.RouteRequest.SerializeToString,
            response_deserializer=router_pb2.RouteResponse.FromString,
        )(request, metadata=(("x-request-id", "order-17"),))
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "order-17"
        failing = c.unary_unary("/pointsman.v1.RouterService/Route")(
            b"", metadata=(("x-request-id", "order-18"),)
        )
        error = await _error(failing)
        assert dict(error.trailing_metadata())["x-request-id"] == "order-18"


async def test_health_is_serving_and_turns_when_the_server_drains(site: Site) -> None:
    async with (
        running(site.fill().settings(), engines=False) as server,
        grpc.aio.insecure_channel(server.address) as c,
    ):
        health = health_pb2_grpc.HealthStub(c)
        for name in ("", "pointsman.v1.RouterService", "pointsman.v1.CatalogService"):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        await server.server.drain(1.0)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_client_built_from_reflection_alone_can_route(site: Site) -> None:
    from google.protobuf import message_factory
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    def ask(address: str) -> str:
        with grpc.insecure_channel(address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert "pointsman.v1.RouterService" in database.get_services()
            pool = DescriptorPool(database)
            method = pool.FindServiceByName("pointsman.v1.RouterService").FindMethodByName("Route")
            request = message_factory.GetMessageClass(method.input_type)()
            request.messages.add(role=2, content="refund my order")
            call = channel.unary_unary(
                f"/{method.containing_service.full_name}/{method.name}",
                request_serializer=lambda m: m.SerializeToString(),
                response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
            )
            return call(request).decision.specialist

    async with running(site.fill().settings(), engines=False) as server:
        assert await asyncio.to_thread(ask, server.address) == "support"


async def test_intents_are_put_listed_and_deleted_over_the_wire_and_written_to_files(site: Site) -> None:
    site.fill()
    async with running(site.settings(), engines=False) as server:
        catalog = server.client.catalog
        intent = catalog_pb2.Intent(
            name="opening_hours",
            target="general",
            threshold=0.25,
            exemplars=["when do you open", "opening hours on sunday", "how late is the shop open"],
        )
        before = (await server.client.list_intents()).health.version
        put = await catalog.PutIntent(catalog_pb2.PutIntentRequest(intent=intent))
        assert put.catalog_version != before
        listed = await server.client.list_intents()
        assert next(i for i in listed.intents if i.name == "opening_hours").threshold == pytest.approx(0.25)
        assert (await server.client.route("until when are you open")).decision.intent == "opening_hours"
        assert (site.intents / "opening_hours.yaml").is_file()
        await catalog.DeleteIntent(catalog_pb2.DeleteIntentRequest(name="opening_hours"))
        assert not (site.intents / "opening_hours.yaml").exists()
        assert (await server.client.list_intents()).health.version == before
        error = await _error(catalog.DeleteIntent(catalog_pb2.DeleteIntentRequest(name="opening_hours")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_an_intent_that_is_put_with_mistakes_is_refused_with_every_one(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        bad = catalog_pb2.Intent(name="Not A Name", target="support", exemplars=["", "x"])
        error = await _error(server.client.catalog.PutIntent(catalog_pb2.PutIntentRequest(intent=bad)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (detail,) = _details(error, error_details_pb2.BadRequest)
        assert {v.field for v in detail.field_violations} == {"name", "exemplars.0"}
        assert len((await server.client.list_intents()).intents) == 2


async def test_a_full_encoder_queue_rejects_at_once_and_says_when_to_come_back(site: Site) -> None:
    settings = site.fill().settings(encoder={"queue_limit": 1})
    async with running(settings, engines=False) as server:
        results = await asyncio.gather(
            *(server.client.route(f"refund number {i}") for i in range(30)), return_exceptions=True
        )
    refused = [r for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert refused
    assert {r.code() for r in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert _details(refused[0], error_details_pb2.RetryInfo)
    assert len(refused) < 30


async def test_a_prompt_is_searched_where_that_is_quickest_and_routes_the_same(
    site: Site, monkeypatch
) -> None:
    threads: list[str] = []
    searched = worker._search

    def search(*arguments):
        threads.append(threading.current_thread().name)
        return searched(*arguments)

    monkeypatch.setattr(worker, "_search", search)
    async with running(site.fill().settings(), engines=False) as server:

        async def crowd() -> list[router_pb2.Decision]:
            asked = (server.client.route("please refund my order") for _ in range(8))
            return [response.decision for response in await asyncio.gather(*asked)]

        alone = (await server.client.route("please refund my order")).decision
        assert threads == ["encoder_0"]
        among_few = await crowd()
        assert "MainThread" in threads
        threads.clear()
        monkeypatch.setattr(worker, "_SEARCH_INLINE", 0)
        among_many = await crowd()
        assert set(threads) == {"encoder_0"}
    assert [*among_few, *among_many] == 16 * [alone]


async def test_an_intent_with_hundreds_of_mistakes_is_still_an_invalid_argument(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        bad = catalog_pb2.Intent(name="hours", target="support", exemplars=[" "] * 500)
        error = await _error(server.client.catalog.PutIntent(catalog_pb2.PutIntentRequest(intent=bad)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (detail,) = _details(error, error_details_pb2.BadRequest)
        assert detail.field_violations[-1].description == "and 484 more"


async def test_an_intent_too_large_for_a_file_is_refused_and_the_old_one_stays(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        huge = catalog_pb2.Intent(
            name="refund", target="support", exemplars=[f"{i} " + "x" * 8000 for i in range(140)]
        )
        error = await _error(server.client.catalog.PutIntent(catalog_pb2.PutIntentRequest(intent=huge)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (await server.client.route("refund me please")).decision.intent == "refund"


async def test_a_refused_request_leaves_a_line_in_the_log(site: Site, log_lines) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        await _error(server.client.route(""))
        await _error(server.client.route("hi", constraints(specialist="nobody")))
    assert [line["event"] for line in log_lines if line["log_level"] == "warning"] == [
        "rpc.refused",
        "route.failed",
    ]
