"""What the ledger has of requests that came to each of their ends, in memory and through a real server."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness import Cloud as Endpoint
from harness import Site, collect, running, until, write_prices
from pointsman.client import Access, constraints
from pointsman.errors import (
    BackendDownError,
    DeadlineError,
    OverloadedError,
    QuotaError,
    UnauthenticatedError,
    UnknownRequestError,
)
from pointsman.ledger.metrics import Metrics
from pointsman.ledger.recorder import Recorder
from pointsman.ledger.report import report_of
from pointsman.ledger.writer import LedgerWriter
from pointsman.values.catalog import Output
from pointsman.values.events import Cost, Token, Usage
from pointsman.values.ledger import Feedback
from pointsman.values.price import PriceList
from test_cascade import BAD, GOOD, Engine, asked, done_of, events_of, generator
from test_doors import entry, write_callers
from test_ledger import rows, settings

FAR = "prove that there are infinitely many primes"
CLOUD = constraints(tier="cloud")
COST = (600 * 2 + 400 * 1 + 500 * 10) / 1e6
"""What an answer of the loopback cloud costs."""


@pytest.mark.parametrize(
    ("behaviour", "priced", "cost", "uncounted"),
    [("half", True, None, 1), ("filtered", True, Cost("EUR", 1.5), 0), ("filtered", False, None, 1)],
)
async def test_what_the_cloud_charges_for_an_answer_that_does_not_stand_is_counted_where_it_is_known(
    behaviour: str, priced: bool, cost: Cost | None, uncounted: int
) -> None:
    def price(_: str, usage: Usage) -> Cost | None:
        return Cost("EUR", (usage.prompt_tokens + usage.completion_tokens) / 1000) if priced else None

    with Endpoint(behaviour) as endpoint:
        source = await generator(Engine(BAD), endpoint)
        assert source._egress is not None
        source._egress.cloud.cost = price
        events = await events_of(source, asked())
    done = done_of(events)
    assert (done.cost, done.uncounted) == (cost, uncounted)
    assert done.usage.completion_tokens == 4  # of the answer that stands


@asynccontextmanager
async def recorded(
    url: str, script: Any, endpoint: Endpoint | None, **more: Any
) -> AsyncGenerator[Recorder, None]:
    source = await generator(Engine(script), endpoint, **more)
    ledger = await asyncio.to_thread(LedgerWriter, settings(url))
    yield Recorder(source._router, source, Metrics(), ledger=ledger)
    await asyncio.to_thread(ledger.close)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.mark.parametrize(
    ("outcome", "script", "cloud", "more"),
    [
        ("ok", GOOD, "", {}),
        ("escalated", BAD, "ok", {}),
        ("flagged", BAD, "", {}),
        ("invalid", GOOD, "", {"output": Output("choice", choices=("A", "B")), "fitted": False}),
        ("throttled", OverloadedError("full", 1.0), "", {}),
        ("late", DeadlineError("4.0 s are needed", 1.0), "", {}),
        ("failed", BackendDownError("gone"), "", {}),
        ("failed", DeadlineError("4.0 s are needed", 1.0), "half", {}),
    ],
)
async def test_each_end_of_an_answer_has_its_outcome(
    sqlite: str, outcome: str, script: Any, cloud: str, more: dict[str, Any]
) -> None:
    with Endpoint(cloud or "ok") as endpoint:
        async with recorded(sqlite, script, endpoint if cloud else None, **more) as recorder:
            try:
                await events_of(recorder, asked())
            except (BackendDownError, OverloadedError):
                assert outcome in {"throttled", "late", "failed"}
    (row,) = await asyncio.to_thread(rows, sqlite)
    assert row["outcome"] == outcome
    assert (row["request_id"], row["method"], row["routed_to"]) == ("r", "generate", "support")
    assert (row["specialist"], row["tier"]) == (("", "cloud") if cloud else ("support", "local"))
    assert row["catalog_version"] == "v"
    assert row["total_ms"] > 0
    assert (row["uncounted"] or 0) == (cloud == "half")
    assert (row["completion_tokens"] is None) == (outcome in {"throttled", "late", "failed"})
    assert (row["answer_confidence"] is not None) == (outcome in {"ok", "flagged"})


async def test_an_answer_that_is_left_is_cancelled(sqlite: str) -> None:
    async with recorded(sqlite, GOOD, None) as recorder, aclosing(recorder.generate(asked())) as events:
        async for event in events:
            if isinstance(event, Token):
                break
        await events.aclose()
    (row,) = await asyncio.to_thread(rows, sqlite)
    assert (row["outcome"], row["uncounted"]) == ("cancelled", 0)  # nobody is paid for it


@pytest.mark.parametrize(
    ("outcome", "raised"), [("cancelled", asyncio.CancelledError()), ("failed", RuntimeError("a bug"))]
)
async def test_a_route_that_comes_to_no_decision_has_a_row(
    sqlite: str, monkeypatch: pytest.MonkeyPatch, outcome: str, raised: BaseException
) -> None:
    async def decide(_: Any) -> Any:
        raise raised

    async with recorded(sqlite, GOOD, None) as recorder:
        monkeypatch.setattr(recorder._router, "route", decide)
        with pytest.raises(type(raised)):
            await recorder.route(asked())
    (row,) = await asyncio.to_thread(rows, sqlite)
    assert (row["method"], row["outcome"], row["tier"]) == ("route", outcome, "")


async def test_of_calls_refused_at_the_door_few_have_a_row_which_says_how_many_had_none(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.ledger.recorder._MOST_REMEMBERED", 2)

    def every(seconds: float) -> None:
        monkeypatch.setattr("pointsman.ledger.recorder._ROW_EVERY_S", seconds)

    async with recorded(sqlite, GOOD, None) as recorder:
        assert recorder._ledger is not None
        every(1e9)
        for i, caller in enumerate(("shop", "shop", "shop", "billing", "crowd", "crowd")):
            recorder.kept_out("Route", f"r{i}", caller, QuotaError("slower", 1.0))
        recorder.kept_out("Feedback", "r9", "shop", QuotaError("slower", 1.0))
        assert recorder._ledger.unkept == 4
        every(0.0)
        recorder.kept_out("Generate", "r6", "shop", QuotaError("slower", 1.0))
        recorder.kept_out(
            "Generate", "r7", "crowd", UnauthenticatedError("who?")
        )  # those before may be forgotten
    found = [
        (row["request_id"], row["caller"], row["outcome"], row["asked"])
        for row in await asyncio.to_thread(rows, sqlite)
    ]
    assert found == [
        ("r0", "shop", "quota", '{"refused": "Quota"}'),
        ("r3", "billing", "quota", '{"refused": "Quota"}'),
        ("r6", "shop", "quota", '{"refused": "Quota", "more": 2}'),
        ("r7", "crowd", "rejected", '{"refused": "Unauthenticated"}'),
    ]


async def test_what_is_said_of_a_request_is_not_said_of_a_refused_one_of_the_same_id(sqlite: str) -> None:
    async with recorded(sqlite, GOOD, None) as recorder:
        ledger = recorder._ledger
        assert ledger is not None
        recorder.kept_out("Generate", "r", "shop", QuotaError("slower", 1.0))
        await until(lambda: ledger.written == 1)
        with pytest.raises(UnknownRequestError):
            await asyncio.to_thread(ledger.rate, Feedback("r", "shop", accepted=False))
        request = replace(asked(), request_id="r", caller="shop")
        async for _ in recorder.generate(request):
            pass
        recorder.kept_out("Generate", "r", "shop", UnauthenticatedError("who?"))
        await asyncio.to_thread(ledger.rate, Feedback("r", "shop", accepted=False))
    report = await asyncio.to_thread(report_of, sqlite, datetime.now(UTC) - timedelta(1), PriceList(), "big")
    assert (report.answers, report.successes, report.rated) == (2, 0, 1)
    assert report.outcomes == {"ok": 1, "quota": 1, "rejected": 1}


async def test_rows_of_a_real_server_have_all_that_is_known_of_their_requests(
    site: Site, sqlite: str
) -> None:
    site.fill()
    write_callers(site.root / "callers.yaml", entry("shop", "secret"))
    write_prices(site.root, "EUR", big_model=(2.0, 1.0, 10.0))
    with Endpoint("ok", 429, 429, 500, 500, "half", "slow", words=("word ",) * 200) as cloud:
        chosen = site.settings(
            cloud=cloud.settings | {"max_retries": 1},
            ledger={"enabled": True, "url": sqlite, "flush_s": 0.02},
        )
        async with running(chosen, engines=False, access=Access(token="secret")) as server:
            client = server.client
            reply = await client.route("please refund my order", session_id="visit-1")
            await collect(client.generate(FAR, request_id="order-1"))
            for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, *[grpc.StatusCode.UNAVAILABLE] * 2):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await collect(client.generate(FAR, CLOUD))
                assert raised.value.code() is code
            events = client.generate(FAR, CLOUD)
            async for event in events:
                if event.WhichOneof("event") == "token":
                    break
            await events.aclose()
            await until(cloud.closed_early.is_set)
            version = reply.decision.catalog_version
    routed, answered, *others = await asyncio.to_thread(rows, sqlite)
    assert [row["outcome"] for row in others] == ["throttled", "failed", "failed", "cancelled"]
    assert [row["retries"] for row in others] == [1, 1, 0, None]
    assert [row["uncounted"] for row in others] == [0, 0, 1, 1]
    everything = [routed, answered, *others]
    assert {row["caller"] for row in everything} == {"shop"}
    assert {row["catalog_version"] for row in everything} == {version}
    assert all(earlier["time"] <= later["time"] for earlier, later in pairwise(everything))
    assert all(0 <= row["similarity"] <= 1 and 0 <= row["confidence"] <= 1 for row in (routed, answered))
    assert (routed["session_id"], routed["intent"], routed["reason"]) == ("visit-1", "refund", "intent_match")
    assert routed["route_ms"] <= routed["total_ms"]
    assert (answered["request_id"], answered["outcome"], answered["retries"]) == ("order-1", "ok", 0)
    assert (answered["cost"], answered["currency"], answered["uncounted"]) == (pytest.approx(COST), "EUR", 0)
    assert (answered["prompt_tokens"], answered["cached_tokens"], answered["completion_tokens"]) == (
        1000,
        400,
        500,
    )
    assert answered["queue_ms"] >= 0
    assert 0 < answered["ttft_ms"] <= answered["total_ms"]


async def test_texts_are_stored_redacted_where_there_is_no_policy_too(site: Site, sqlite: str) -> None:
    ledger = {"enabled": True, "url": sqlite, "flush_s": 0.02, "text": True}
    with Endpoint() as cloud:
        async with running(
            site.fill().settings(cloud=cloud.settings, ledger=ledger), engines=False
        ) as server:
            await collect(
                server.client.generate(f"{FAR}, and tell ada@acme-corp.com of DE89 3704 0044 0532 0130 00")
            )
            await server.client.feedback(
                await _only_id(sqlite), accepted=False, answer="Ask ada@acme-corp.com."
            )
    (row,) = await asyncio.to_thread(rows, sqlite)
    assert row["prompt"] == f"{FAR}, and tell [EMAIL_1] of [IBAN_1]"
    assert (
        "ada@acme-corp.com" in cloud.requests[0]["messages"][-1]["content"]
    )  # no policy says that it may not leave


async def _only_id(url: str) -> str:
    found: list[str] = []

    async def there() -> bool:
        found[:] = [row["request_id"] for row in await asyncio.to_thread(rows, url)]
        return bool(found)

    await until(there)
    return found[0]


def test_without_the_extra_that_redacts_texts_are_not_stored_and_the_start_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['presidio_analyzer'] = None\n"
        "from pathlib import Path; from pointsman.host.policy_source import PolicySource\n"
        f"PolicySource(Path('none.yaml'), Path({str(tmp_path)!r})).redact_stored('ledger.text')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "ledger.text: texts are stored redacted, and a policy needs the extra `policy`" in done.stderr
