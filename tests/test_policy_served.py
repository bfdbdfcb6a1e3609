"""The policy over the wire: what a loopback cloud got to see."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness import Cloud, Site, collect, running, until
from pointsman.client import AsyncClient, constraints
from pointsman.ledger.metrics import Metrics
from pointsman.v1 import router_pb2

IBAN = "DE89 3704 0044 0532 0130 00"
OTHER = "Compare the foreign policies of Bismarck and Metternich in an essay."
"""Fits no intent, so it is one for the cloud."""


def conversation(*texts: str) -> list[router_pb2.Message]:
    roles = (router_pb2.ROLE_USER, router_pb2.ROLE_ASSISTANT)
    return [router_pb2.Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]


def seen_by(cloud: Cloud) -> str:
    return json.dumps(cloud.requests, ensure_ascii=False)


def metric(metrics: Metrics, file: str) -> float | None:
    return metrics.registry.get_sample_value("pointsman_file_stale", {"file": file})


@pytest.mark.model
async def test_a_sensitive_conversation_is_answered_here_though_it_is_one_for_the_cloud(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {iban: stay_local}")
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings)) as server:
            messages = conversation(f"my account is {IBAN}", "Thank you.", OTHER)
            sampling = router_pb2.Sampling(max_tokens=8)
            text, events = await collect(server.client.generate(messages, None, sampling))
            decision = events[0].decision
            _, after = await collect(server.client.generate(OTHER, None, sampling))
    assert (decision.tier, decision.reason) == (
        router_pb2.TIER_LOCAL,
        router_pb2.DECISION_REASON_POLICY,
    )
    assert "The policy keeps it local: it holds iban (message 1)." in decision.explanation
    assert "DE89" not in decision.explanation
    assert text
    assert after[0].decision.tier == router_pb2.TIER_CLOUD  # the same prompt, with nothing before it
    assert len(cloud.requests) == 1


async def test_who_names_the_cloud_for_what_stays_local_is_refused(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {iban: stay_local, payment_card: refuse}")
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings), engines=False) as server:
            for asked in (constraints(tier="cloud"), constraints(task_type="reasoning")):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await collect(server.client.generate(f"{OTHER} {IBAN}", asked))
                assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
                assert "iban (message 1)" in (raised.value.details() or "")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await server.client.route("charge 4111 1111 1111 1111")
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert cloud.requests == []


async def test_logged_prompts_hold_nothing_that_the_policy_names(
    site: Site, log_lines: list[dict[str, Any]]
) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {iban: stay_local, payment_card: refuse}")
    asked = (f"refund to {IBAN}", "charge 4111 1111 1111 1111", "word " * 918 + IBAN)

    def prompts() -> list[str]:
        return [line["prompt"] for line in log_lines if "prompt" in line]

    async with running(site.settings(log={"prompts": True}), engines=False) as server:
        for prompt in asked:
            with suppress(grpc.aio.AioRpcError):
                await server.client.route(prompt)
        await until(lambda: len(prompts()) == len(asked))
    first, second, third = sorted(prompts(), key=len)
    assert first.startswith("refund to [IBAN")
    assert second.startswith("charge [PAYMENT_CARD")
    assert third.startswith("word word")
    assert third.endswith("…")  # where it was cut, half an account number was left
    assert len(third) < 4200
    assert not any(digits in str(log_lines) for digits in ("DE89", "4111"))


@pytest.mark.parametrize("action", ["stay_local", "refuse", "redact"])
async def test_what_ends_an_answer_leaves_too_and_is_read_as_well(site: Site, action: str) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text(f"actions: {{iban: {action}}}")
    settings = {"general_specialist": ""}
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings, routing=settings), engines=False) as server:
            asked = server.client.generate(OTHER, None, router_pb2.Sampling(stop=["so", IBAN]))
            if action == "redact":
                await collect(asked)
                assert cloud.requests[0]["stop"] == ["so", "[IBAN_1]"]
            else:
                with pytest.raises(grpc.aio.AioRpcError):
                    await collect(asked)
                assert cloud.requests == []
    assert "DE89" not in seen_by(cloud)


async def test_where_nobody_local_can_answer_the_call_fails_and_nothing_leaves(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {iban: stay_local}")
    settings = {"general_specialist": "", "on_cloud_down": "general"}
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings, routing=settings), engines=False) as server:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await collect(server.client.generate(f"{OTHER} {IBAN}"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert cloud.requests == []


async def test_the_cloud_sees_placeholders_and_the_caller_sees_what_they_stand_for(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text("actions: {email: redact}")
    words = ("I wrote to [EMA", "IL_1", "] and [EMAIL_2] today[")
    with Cloud(words=words) as cloud:
        async with running(site.settings(cloud=cloud.settings), engines=False) as server:
            messages = conversation(
                "I am ann@acme-corp.com", "Hello Ann.", f"{OTHER} Send it to bob@acme-corp.com."
            )
            text, events = await collect(server.client.generate(messages))
    assert text == "I wrote to ann@acme-corp.com and bob@acme-corp.com today["
    assert "@acme-corp.com" not in seen_by(cloud)
    assert "Send it to [EMAIL_2]." in seen_by(cloud)
    assert "redacted: email (message 1, 3)" in events[0].decision.explanation


async def test_a_name_that_anybody_may_say_opens_nothing(site: Site) -> None:
    site.fill()
    (site.root / "policy.yaml").write_text(
        "actions: {iban: stay_local}\ncallers: [{caller: crm, actions: {iban: allow}}]"
    )
    with Cloud() as cloud:
        async with (
            running(site.settings(cloud=cloud.settings), engines=False) as server,
            AsyncClient(server.address, caller="crm") as client,
        ):
            reply = await client.route(f"{OTHER} {IBAN}")
    assert reply.decision.tier == router_pb2.TIER_LOCAL


async def test_a_changed_policy_holds_within_a_second(site: Site) -> None:
    site.fill()
    path = site.root / "policy.yaml"
    path.write_text("actions: {iban: redact}")
    with Cloud() as cloud:
        async with running(site.settings(cloud=cloud.settings), engines=False, watch=True) as server:

            async def tier() -> int:
                return (await server.client.route(f"{OTHER} {IBAN}")).decision.tier

            assert await tier() == router_pb2.TIER_CLOUD
            path.write_text("actions: {iban: stay_local}")

            async def stays() -> bool:
                return await tier() == router_pb2.TIER_LOCAL

            assert await until(stays) < 2
            for broken in ("actions: {iban: nothing}", None):
                path.unlink() if broken is None else path.write_text(broken)
                await until(lambda: metric(server.core.metrics, "policy") == 1)
                assert await tier() == router_pb2.TIER_LOCAL
                path.write_text("actions: {iban: stay_local}")
                await until(lambda: metric(server.core.metrics, "policy") == 0)


def test_a_policy_is_checked_and_tried_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("actions: {email: redact, iban: stay_local}")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "pointsman", "policy", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False)

    assert run("check").stdout == "email: redact\niban: stay_local\n"
    tried = run("try", f"copy ann@acme-corp.com, IBAN {IBAN}")
    assert tried.stdout.splitlines() == [
        "email: characters 5 to 22, redact",
        "iban: characters 29 to 56, stay_local",
        "copy [EMAIL_1], IBAN [IBAN_1]",
    ]
    (tmp_path / "policy.yaml").write_text("actions:\n  emial: redact\n")
    wrong = run("check")
    assert wrong.returncode == 1
    assert "policy.yaml:2: actions.emial: unknown kind" in wrong.stderr
