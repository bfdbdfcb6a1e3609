"""Local answers that the cloud is asked for as well: which, how they are compared, what bounds it."""

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from harness import Cloud as Endpoint
from harness import Site, collect, running, until, write_prices
from pointsman.catalog.output_format import format_of
from pointsman.decision.compare import agreement, judged, similar
from pointsman.embedding.encoder import Rows
from pointsman.errors import BackendDownError, ConfigError
from pointsman.generation.cloud import Cloud
from pointsman.generation.generator import Generator
from pointsman.generation.shadows import Shadows
from pointsman.ledger.database import database
from pointsman.ledger.tables import comparisons
from pointsman.policy.gate import Gate
from pointsman.sections import Shadow
from pointsman.values.catalog import FREE_TEXT, Output, Rule
from pointsman.values.decision import Reason
from pointsman.values.events import Cost, Done, Usage
from pointsman.values.ledger import Comparison
from pointsman.values.policy import Action, Pattern, Policy, Span
from pointsman.values.price import ModelPrice, PriceList
from test_cascade import BAD, GOOD, Engine, asked, events_of, generator

PRICES = PriceList("EUR", {"big-model": ModelPrice(2.0, 1.0, 10.0)})
COST = (600 * 2 + 400 * 1 + 500 * 10) / 1e6
"""What one answer of the loopback cloud costs."""
JSON = Output("json", schema=json.dumps({"type": "object"}))
CHOICE = Output("choice", choices=("A", "B"))
for _form in (JSON, CHOICE):
    format_of(_form)  # as a catalog does when it is loaded, in a thread


class Book:
    """Comparisons, in memory."""

    def __init__(self, spent: float | Exception = 0.0) -> None:
        self.rows: list[Comparison] = []
        self.before = spent
        self.asked: list[float] = []

    def keep(self, row: Comparison) -> None:
        self.rows.append(row)

    def spent(self, since: float) -> float:
        self.asked.append(since)
        if isinstance(self.before, Exception):
            raise self.before
        return self.before


async def embed(texts: Sequence[str]) -> Rows:
    """Return rows whose cosine is the share of letters that two texts have in common."""
    await asyncio.sleep(0)
    rows = np.array([[text.count(chr(c)) for c in range(97, 123)] for text in texts], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


Open = Callable[..., Awaitable[Generator]]


class Beside:
    """A generator whose answers are asked for beside, and what came of it."""

    def __init__(self, source: Generator, shadows: Shadows, book: Book) -> None:
        self.source, self.shadows, self.book = source, shadows, book

    async def ask(self, text: str = "my parcel is lost", **more: Any) -> Done:
        events = await events_of(self.source, asked(text, **more))
        last = events[-1]
        assert isinstance(last, Done)
        await until(lambda: not self.shadows._running)
        return last


@asynccontextmanager
async def beside(
    endpoint: Endpoint,
    script: Any = GOOD,
    *,
    book: Book | None = None,
    prices: PriceList = PRICES,
    **options: Any,
) -> AsyncGenerator[Beside, None]:
    settings = Shadow(**({"share": 1.0, "per_minute": 100, "similar": 0.9} | options.pop("shadow", {})))
    made: list[Shadows] = []
    kept = book or Book()

    def shadows(cloud: Cloud) -> Shadows:
        cloud.cost = prices.cost
        made.append(Shadows(settings, cloud, embed, kept, tasks))
        return made[0]

    async with asyncio.TaskGroup() as tasks:
        source = await generator(Engine(script), endpoint, shadows=shadows, **options)
        yield Beside(source, made[0], kept)
        made[0].stop()


async def test_a_local_answer_is_compared_with_what_the_cloud_says_to_the_same_question() -> None:
    with Endpoint(words=("The", " parcel", " is", " lost")) as endpoint:
        async with beside(endpoint) as site:
            done = await site.ask()
    assert done.cost is None  # the caller's answer is the local one
    (row,) = site.book.rows
    assert (row.specialist, row.model, row.caller, row.request_id) == ("support", "big-model", "", "r")
    assert (row.method, row.agrees, row.answer) == ("similarity", True, "The parcel is lost")
    assert row.score == pytest.approx(1)
    assert (row.cost, row.currency) == (pytest.approx(COST), "EUR")
    assert json.loads(row.logprobs) == [p for _, p in GOOD]
    assert not row.cut
    (question,) = endpoint.requests
    assert [m["role"] for m in question["messages"]] == ["system", "user", "assistant", "user"]
    assert question["messages"][-1]["content"] == "my parcel is lost"
    assert "draft" not in json.dumps(question)


async def test_another_answer_does_not_agree() -> None:
    with Endpoint(words=("zebra",)) as endpoint:
        async with beside(endpoint) as site:
            await site.ask()
    assert (site.book.rows[0].score, site.book.rows[0].agrees) == (pytest.approx(0, abs=0.4), False)


@pytest.mark.parametrize(
    ("output", "said", "cloud", "method", "score"),
    [
        (CHOICE, "A", ("A",), "exact", 1.0),
        (CHOICE, "A", ("B",), "exact", 0.0),
        (JSON, '{"a": 1, "b": 2}', ('{"b": 2,', ' "a": 1}'), "fields", 1.0),
        (JSON, '{"a": 1, "b": 2}', ("```json\n", '{"a": 1, "b": 3, "c": 4}\n```'), "fields", 1 / 3),
        (JSON, '{"a": 1}', ("I cannot say.",), "exact", 0.0),
    ],
)
async def test_stated_formats_are_compared_by_what_they_say(
    output: Output, said: str, cloud: tuple[str, ...], method: str, score: float
) -> None:
    with Endpoint(words=cloud) as endpoint:
        async with beside(endpoint, [(said, -0.1)], output=output) as site:
            await site.ask()
    (row,) = site.book.rows
    assert (row.method, row.score, row.agrees) == (method, pytest.approx(score), score == 1)
    assert "The answer is" in endpoint.requests[0]["messages"][0]["content"]


async def test_a_judge_is_asked_where_that_is_wanted_and_its_cost_counts() -> None:
    with Endpoint(words=("Yes",)) as endpoint:
        async with beside(endpoint, shadow={"free_text": "judge"}) as site:
            await site.ask()
    (row,) = site.book.rows
    assert (row.method, row.agrees, row.cost) == ("judge", True, pytest.approx(2 * COST))
    asked_of_judge = endpoint.requests[1]["messages"][0]["content"]
    assert "my parcel is lost" in asked_of_judge
    assert "The parcel is lost" in asked_of_judge
    with Endpoint(words=("Perhaps",)) as endpoint:
        async with beside(endpoint, shadow={"free_text": "judge"}) as site:
            await site.ask()
    assert site.book.rows[0].method == "similarity"  # the judge did not say


@pytest.mark.parametrize(
    ("constraints", "options"),
    [
        ({"local_only": True}, {}),
        ({"specialist": "support"}, {}),
        ({}, {"rules": (Rule("stay", "local"),)}),
        ({}, {"reason": Reason.CLOUD_DOWN}),
        ({}, {"shadow": {"share": 0.0}}),
    ],
)
async def test_what_stays_local_is_not_asked(constraints: dict[str, Any], options: dict[str, Any]) -> None:
    with Endpoint() as endpoint:
        async with beside(endpoint, **options) as site:
            await site.ask(**constraints)
    assert (endpoint.requests, site.book.rows) == ([], [])


async def test_an_answer_that_escalated_is_not_asked_for_again() -> None:
    with Endpoint() as endpoint:
        async with beside(endpoint, BAD) as site:
            await site.ask()
    assert len(endpoint.requests) == 1
    assert site.book.rows == []


class Finds:
    """A detector that finds one word."""

    def find(self, text: str) -> tuple[Span, ...]:
        return tuple(Span("project", *found.span()) for found in re.finditer("Jericho", text))


@pytest.mark.parametrize(("action", "sent"), [(Action.STAY_LOCAL, 0), (Action.REDACT, 1)])
async def test_the_policy_has_the_last_word_on_what_leaves(action: Action, sent: int) -> None:
    policy = Policy({"project": action}, patterns=(Pattern("project", "Jericho"),))
    gate = Gate(policy, Finds())  # type: ignore[arg-type]
    with Endpoint(words=("The parcel of [PROJECT_1] is lost",)) as endpoint:
        async with beside(endpoint, gate=gate, fitted=False) as site:
            await site.ask("where is the parcel of Jericho")
    assert len(endpoint.requests) == sent
    assert "Jericho" not in json.dumps(endpoint.requests)
    assert [row.answer for row in site.book.rows] == ["The parcel of Jericho is lost"] * sent
    assert site.shadows.skipped == ({} if sent else {"policy": 1})


@pytest.mark.parametrize(("answer", "asked_of"), [("Jeri", 1), ("J-e-r-i-c-h-o", 1), ("Jericho", 2)])
async def test_no_judge_is_asked_about_an_answer_with_a_piece_of_what_is_redacted(
    answer: str, asked_of: int
) -> None:
    gate = Gate(Policy({"project": Action.REDACT}, patterns=(Pattern("project", "Jericho"),)), Finds())  # type: ignore[arg-type]
    with Endpoint(words=("Yes",)) as endpoint:
        script = [(f"The parcel of {answer}", -0.01)]
        async with beside(endpoint, script, gate=gate, fitted=False, shadow={"free_text": "judge"}) as site:
            await site.ask("where is the parcel of Jericho")
    assert len(endpoint.requests) == asked_of
    assert answer not in json.dumps(endpoint.requests)
    assert [row.method for row in site.book.rows] == ["judge" if asked_of == 2 else "similarity"]


async def test_rate_budget_and_price_bound_it() -> None:
    with Endpoint() as endpoint:
        async with beside(endpoint, shadow={"per_minute": 2}) as site:
            for _ in range(5):
                await site.ask()
        assert (len(site.book.rows), site.shadows.skipped) == (2, {"rate": 3})
        async with beside(endpoint, shadow={"budget_per_day": 2.5 * COST}) as site:
            for _ in range(5):
                await site.ask()
        assert (len(site.book.rows), site.shadows.skipped) == (3, {"budget": 2})
        async with beside(endpoint, prices=PriceList()) as site:
            await site.ask()
        assert (len(site.book.rows), site.shadows.skipped) == (0, {"no price": 1})


async def test_what_a_process_before_this_one_spent_today_counts() -> None:
    with Endpoint() as endpoint:
        async with beside(endpoint, book=Book(0.99), shadow={"budget_per_day": 1.0}) as site:
            for _ in range(4):
                await site.ask()
        assert len(site.book.rows) == 2
        assert len(site.book.asked) == 1  # once a day
        assert site.book.asked[0] % 86400 == 0
        assert 0 <= time.time() - site.book.asked[0] < 86400
        async with beside(endpoint, book=Book(BackendDownError("the ledger cannot be reached"))) as site:
            await site.ask()
        assert (site.book.rows, site.shadows.skipped) == ([], {"failed": 1})


@pytest.mark.parametrize("behaviour", [500, 401, "half", "silent"])
async def test_a_cloud_that_fails_takes_nothing_from_the_caller(behaviour: int | str) -> None:
    with Endpoint(behaviour) as endpoint:
        async with beside(endpoint) as site:
            await site.ask()
    assert (site.book.rows, site.shadows.skipped) == ([], {"failed": 1})


async def test_whatever_goes_wrong_in_the_background_ends_nothing() -> None:
    async def broken(texts: Sequence[str]) -> Rows:
        raise TypeError(f"{len(texts)} texts that no tokenizer takes")

    with Endpoint() as endpoint:
        async with beside(endpoint) as site:
            site.shadows._likeness._embed = broken
            await site.ask()
            site.shadows._likeness._embed = embed
            await site.ask()
    assert (len(site.book.rows), site.shadows.skipped) == (1, {"failed": 1})


async def test_a_judge_that_fails_loses_nothing_that_was_paid_for() -> None:
    with Endpoint("ok", 500) as endpoint:
        async with beside(endpoint, shadow={"free_text": "judge"}) as site:
            await site.ask()
    (row,) = site.book.rows
    assert (row.method, row.cost) == ("similarity", pytest.approx(COST))


async def test_a_cloud_that_tells_no_tokens_is_asked_once_for_nothing_would_bound_its_cost() -> None:
    with Endpoint("mute") as endpoint:
        async with beside(endpoint) as site:
            await site.ask()
            await site.ask()
    assert len(endpoint.requests) == 1
    assert (site.book.rows, site.shadows.skipped) == ([], {"failed": 1, "no price": 1})


async def test_a_cloud_that_told_no_tokens_is_asked_again_on_the_next_day() -> None:
    with Endpoint("mute", "ok") as endpoint:
        async with beside(endpoint) as site:
            await site.ask()
            site.shadows._unbounded_on = "2026-01-01"
            await site.ask()
    assert (len(site.book.rows), site.shadows.skipped) == (1, {"failed": 1})


async def test_a_price_that_is_gone_for_a_while_keeps_nothing_from_being_asked_later() -> None:
    with Endpoint() as endpoint:
        async with beside(endpoint) as site:
            known, site.shadows._cloud.cost = (
                site.shadows._cloud.cost,
                lambda _, usage: Cost("EUR", 0.0) if usage == Usage() else None,
            )
            await site.ask()  # it goes while the cloud answers
            site.shadows._cloud.cost = known
            await site.ask()
    assert (len(site.book.rows), site.shadows.skipped) == (1, {"failed": 1})


async def test_what_the_first_of_a_day_spends_is_not_forgotten_by_the_second() -> None:
    class Slow(Book):
        """A book whose second reader gets what it held before the first has asked, once that has paid."""

        def spent(self, since: float) -> float:
            self.asked.append(since)
            if len(self.asked) > 1:
                time.sleep(1.0)
            return 0.0

    with Endpoint() as endpoint:
        async with beside(endpoint, book=Slow()) as site:
            await asyncio.gather(*(events_of(site.source, asked()) for _ in range(2)))
            await until(lambda: not site.shadows._running)
            assert site.shadows._spent == pytest.approx(2 * COST)
    assert len(site.book.asked) == 1


async def test_a_cloud_that_hangs_keeps_nobody_waiting_at_the_end() -> None:
    with Endpoint("hang") as endpoint:
        begun = time.monotonic()
        async with beside(endpoint) as site:
            for _ in range(3):
                await events_of(site.source, asked())
            await until(lambda: len(endpoint.requests) == 2)
        assert time.monotonic() - begun < 10
    assert site.shadows.skipped == {"busy": 1}


WORDS = st.text(alphabet='abc {}[]":,1', max_size=12)


@given(WORDS, WORDS, st.sampled_from([JSON, CHOICE, Output("regex", pattern="a*")]))
def test_comparing_never_fails_and_an_answer_agrees_with_itself(one: str, other: str, output: Output) -> None:
    found = agreement(output, one, other)
    assert found is not None
    assert 0 <= found.score <= 1
    assert found.agrees == (found.score == 1)
    assert agreement(CHOICE, one, one).agrees  # type: ignore[union-attr]
    assert agreement(FREE_TEXT, one, other) is None


def test_judges_and_cosines_are_read() -> None:
    assert [judged(reply) and judged(reply).agrees for reply in ("Yes.", "**no**", " NO", "maybe", "")] == [  # type: ignore[union-attr]
        True, False, False, None, None,
    ]  # fmt: skip
    assert (similar(1.0000001, 0.8).score, similar(-0.2, 0.8).score, similar(0.8, 0.8).agrees) == (1, 0, True)


def test_a_share_without_a_ledger_is_refused(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"shadow\.share is 0\.5, but no ledger"):
        site.settings(shadow={"share": 0.5})


@pytest.mark.model
async def test_a_server_keeps_comparisons_in_its_ledger(site: Site, tmp_path: Path) -> None:
    write_prices(site.root, big_model=(2.0, 1.0, 10.0))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with Endpoint() as cloud:
        settings = site.fill().settings(
            cloud=cloud.settings,
            shadow={"share": 1.0},
            ledger={"enabled": True, "url": url, "flush_s": 0.02, "text": True},
        )
        async with running(settings) as server:
            await collect(server.client.generate("please refund my order"))
            await until(lambda: len(cloud.requests) == 1)

            def counted() -> bool:
                value = server.core.metrics.registry.get_sample_value
                agreed = [
                    value("pointsman_comparisons_total", {"specialist": "support", "agrees": agrees})
                    for agrees in ("yes", "no")
                ]
                return any(agreed) and bool(value("pointsman_cost_total", {"currency": "USD"}))

            await until(counted)
    engine = await asyncio.to_thread(database, url)

    def read() -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(sa.select(comparisons)).mappings())

    (row,) = await asyncio.to_thread(read)
    engine.dispose()
    assert (row["specialist"], row["method"], row["answer"]) == ("support", "similarity", "from the cloud")
    assert row["cost"] == pytest.approx(COST)
    logprobs = json.loads(row["logprobs"])
    assert logprobs
    assert all(value <= 0 for value in logprobs)
