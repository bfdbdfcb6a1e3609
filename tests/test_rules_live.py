"""A rules file that changes while the server runs, and the mid tier on the cloud's endpoint."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest

from harness import Cloud, Running, Site, running, until, write_prices
from pointsman import AsyncClient
from pointsman.catalog.prices_file import read_prices
from pointsman.client import constraints
from pointsman.errors import BackendDownError, ConfigError
from pointsman.generation.cloud import Cloud as Endpoint
from pointsman.generation.generator import Generator
from pointsman.host.serve import open_core
from pointsman.settings import Settings
from pointsman.v1 import catalog_pb2, router_pb2
from pointsman.values.decision import Reason
from pointsman.values.events import Cost, Done, Escalation
from pointsman.values.request import Constraints, Message, Request, Role, Sampling, Tier

TO_GENERAL = "rules:\n  - {name: reports_first, when: {caller: [reports]}, to: 'specialist:general'}\n"
BY_ALL = """\
rules:
  - name: long_documents
    when: {tokens: {over: 1000}}
    to: specialist:general
  - name: long_answers
    when: {output_tokens: {over: 500}}
    to: specialist:general
  - name: in_a_hurry
    when: {budget_ms: {under: 30000}}
    to: local
  - name: summaries
    when: {task_type: [summary]}
    to: specialist:general
"""


def _with_rules(site: Site, text: str | None = None, **sections: dict[str, str]) -> Settings:
    if text is not None:
        (site.root / "rules.yaml").write_text(text)
    return site.fill().settings(**sections)


async def _rule(server: Running, client: AsyncClient | None = None) -> str:
    return (await (client or server.client).route("refund my order please")).decision.rule


async def test_rules_by_size_length_budget_and_task_type_decide_over_the_wire(site: Site) -> None:
    async with running(_with_rules(site, BY_ALL), engines=False) as server:
        prompt = "refund my order please"
        long = "refund my order please " * 200
        hurried = AsyncClient(server.address, timeout_s=20)
        for client, text, rules, expected in [
            (server.client, prompt, None, ("", "support")),
            (server.client, long, None, ("long_documents", "general")),
            (server.client, prompt, constraints(output_tokens=501), ("long_answers", "general")),
            (server.client, prompt, constraints(task_type="summary"), ("summaries", "general")),
            (hurried, prompt, None, ("in_a_hurry", "support")),
            (hurried, prompt, constraints(specialist="general"), ("", "general")),
        ]:
            decision = (await client.route(text, rules)).decision
            assert (decision.rule, decision.specialist) == expected, expected
            by_rule = decision.reason == router_pb2.DECISION_REASON_RULE
            assert by_rule == bool(decision.rule)
        await hurried.close()


async def test_a_written_a_changed_and_a_deleted_rules_file_take_effect_within_a_second(site: Site) -> None:
    path = site.root / "rules.yaml"
    async with (
        running(_with_rules(site), engines=False, watch=True) as server,
        AsyncClient(server.address, caller="reports") as client,
    ):
        assert await _rule(server, client) == ""
        version = (await client.route("refund my order please")).decision.catalog_version

        for text, expected in [
            (TO_GENERAL, "reports_first"),
            (TO_GENERAL.replace("reports_first", "reports_second"), "reports_second"),
            (None, ""),
        ]:
            if text is None:
                await asyncio.to_thread(path.unlink)
            else:
                await asyncio.to_thread(_replace, path, text)

            async def changed(expected: str = expected) -> bool:
                return await _rule(server, client) == expected

            assert await until(changed, 3.0) < 1.0
        decision = (await client.route("refund my order please")).decision
        assert decision.catalog_version == version
        assert await _rule(server) == ""  # the other client gives no name


def _replace(path: Path, text: str) -> None:
    """Write a file as careful editors do: another one, put in its place."""
    beside = path.with_suffix(".tmp")
    beside.write_text(text)
    beside.replace(path)


async def test_a_broken_rules_file_is_refused_by_line_and_the_last_good_rules_serve(
    site: Site, log_lines: list[dict[str, object]]
) -> None:
    path = site.root / "rules.yaml"
    async with (
        running(_with_rules(site, TO_GENERAL), engines=False, watch=True) as server,
        AsyncClient(server.address, caller="reports") as client,
    ):
        version = (await client.list_intents()).health.version
        await asyncio.to_thread(
            path.write_text, TO_GENERAL.replace("specialist:general", "specialist:nobody")
        )

        async def refused() -> bool:
            return len((await client.list_intents()).health.problems) == 1

        await until(refused, 3.0)
        health = (await client.list_intents()).health
        (problem,) = health.problems
        assert problem.file.endswith("/rules.yaml")
        assert (problem.line, problem.field, problem.value) == (2, "rules.0.to", "specialist:nobody")
        assert problem.message == "no such specialist; known: general, support"
        assert (health.version, await _rule(server, client)) == (version, "reports_first")
        (line,) = [line for line in log_lines if line["event"] == "catalog.refused"]
        assert (line["line"], line["field"]) == (2, "rules.0.to")


async def test_a_specialist_that_a_rule_names_cannot_be_removed(site: Site) -> None:
    async with running(_with_rules(site, TO_GENERAL), engines=False) as server:
        await server.client.catalog.DeleteIntent(catalog_pb2.DeleteIntentRequest(name="weather"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.client.catalog.RemoveSpecialist(catalog_pb2.RemoveSpecialistRequest(name="general"))
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "still the target of rule reports_first" in raised.value.details()


async def test_decisions_of_rules_are_counted_by_name_and_logged(
    site: Site, log_lines: list[dict[str, object]]
) -> None:
    async with (
        running(_with_rules(site, TO_GENERAL), engines=False) as server,
        AsyncClient(server.address, caller="reports") as client,
    ):
        for _ in range(2):
            await client.route("refund my order please")
        await server.client.route("refund my order please")
        await until(lambda: len([line for line in log_lines if line["event"] == "route.decided"]) == 3)
        metrics = server.core.metrics.registry
        counted = metrics.get_sample_value("pointsman_rule_decisions_total", {"rule": "reports_first"})
        assert counted == 2
        labels = {"tier": "local", "specialist": "general", "reason": "rule"}
        assert metrics.get_sample_value("pointsman_decisions_total", labels) == 2
    named = [line["rule"] for line in log_lines if line["event"] == "route.decided"]
    assert named == ["reports_first", "reports_first", None]


# The mid tier on the cloud's endpoint


def _asked(**constraints: object) -> Request:
    message = Message(Role.USER, "refund my order please")
    return Request((message,), Constraints(**constraints), Sampling())  # type: ignore[arg-type]


async def _answers(settings: Settings, request: Request) -> list[object]:
    async with open_core(settings, engines=False) as core:
        prices = await asyncio.to_thread(read_prices, settings.paths.prices)
        endpoint = await asyncio.to_thread(Endpoint, settings.cloud, "middling-model", prices.cost)
        generator = Generator(core.answers._router, core.engines, endpoint)
        try:
            async with aclosing(generator.generate(request)) as events:
                return [event async for event in events]
        finally:
            await endpoint.close()


async def test_the_mid_tier_is_another_model_of_the_same_endpoint_with_a_price_of_its_own(site: Site):
    with Cloud() as cloud:
        write_prices(site.root, big_model=(2.0, 2.0, 10.0), middling_model=(0.5, 0.5, 1.0))
        settings = _with_rules(site, cloud=cloud.settings, routing={"mid": "cloud:middling-model"})
        events = await _answers(settings, _asked(tier=Tier.MID))
        costly = await _answers(settings, _asked(tier=Tier.CLOUD))
    assert [(asked["model"], asked["key"]) for asked in cloud.requests] == [
        ("middling-model", "Bearer secret-key"),
        ("big-model", "Bearer secret-key"),
    ]
    decision, done, charged = events[0].decision, events[-1], costly[-1]
    assert (decision.tier, decision.specialist, decision.model) == (Tier.MID, None, "middling-model")
    assert isinstance(done, Done)
    assert isinstance(charged, Done)
    assert done.cost == Cost("USD", pytest.approx((1000 * 0.5 + 500 * 1) / 1e6))
    assert charged.cost == Cost("USD", pytest.approx((1000 * 2 + 500 * 10) / 1e6))


async def test_a_rule_leads_to_the_mid_tier_and_the_generalist_takes_over_when_it_is_down(site: Site):
    rules = "rules:\n  - {name: all_mid, to: mid}\n"
    routing = {"mid": "cloud:middling-model", "on_cloud_down": "general"}
    with Cloud(500) as cloud:
        settings = _with_rules(site, rules, cloud=cloud.settings | {"max_retries": 0}, routing=routing)
        async with open_core(settings, engines=False) as core:
            endpoint = await asyncio.to_thread(Endpoint, settings.cloud, "middling-model")
            generator = Generator(core.answers._router, core.engines, endpoint)
            seen = []
            with pytest.raises(BackendDownError):  # this server runs no engines
                async with aclosing(generator.generate(_asked())) as events:
                    async for event in events:
                        seen.append(event)
            await endpoint.close()
    routed, escalation = seen
    assert (routed.decision.tier, routed.decision.rule) == (Tier.MID, "all_mid")
    assert isinstance(escalation, Escalation)
    assert (escalation.decision.specialist, escalation.decision.reason) == ("general", Reason.CLOUD_DOWN)
    assert "the cloud's middling-model" in escalation.explanation


async def test_a_mid_model_without_a_cloud_is_refused_by_the_names_of_both_settings(site: Site):
    with pytest.raises(ConfigError, match=r"routing\.mid is 'cloud:m'.*set cloud\.model"):
        _with_rules(site, routing={"mid": "cloud:m"})


@pytest.mark.parametrize(
    "mid", ["support", "specialist:", "specialist:Big", "cloud:", "cloud:a b", "local:x"]
)
def test_a_mid_tier_that_is_none_is_refused_by_its_setting(site: Site, mid):
    with pytest.raises(ConfigError, match=r"routing\.mid"):
        _with_rules(site, routing={"mid": mid})
