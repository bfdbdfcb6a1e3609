"""The report over a ledger whose sums are known."""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pointsman.ledger.history import past_of
from pointsman.ledger.report import Report, report_of
from pointsman.ledger.report_html import page
from pointsman.ledger.report_text import headlines, markdown
from pointsman.ledger.weeks import drift
from pointsman.ledger.writer import LedgerWriter
from pointsman.sections import Ledger
from pointsman.values.ledger import Comparison, Entry, Feedback
from pointsman.values.price import LocalCosts, ModelPrice, PriceList
from test_evaluate import read_page


def datetime_days_ago(days: float) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)


PRICES = PriceList("EUR", {"big": ModelPrice(2.0, 2.0, 10.0)})
DAY = 86400.0


def local(i: int, **more: Any) -> Entry:
    fields: dict[str, Any] = {
        "caller": "shop", "tier": "local", "specialist": "support", "routed_to": "support", "prompt_tokens": 100,
        "cached_tokens": 50, "completion_tokens": 10, "ttft_ms": 20.0, "total_ms": float(100 + i), "retries": 0,
    }  # fmt: skip
    plain = {"time": time.time() - 60, "request_id": f"l{i}", "method": "generate", "outcome": "ok"}
    return Entry(**(plain | fields | more))


def cloud(i: int, **more: Any) -> Entry:
    fields = {
        "tier": "cloud",
        "specialist": "",
        "routed_to": "",
        "cost": 0.01,
        "currency": "EUR",
        "retries": 1,
    }
    return local(i, **(fields | more))


def compared(i: int, *, agrees: bool, **more: Any) -> Comparison:
    fields: dict[str, Any] = {
        "time": time.time(), "request_id": f"l{i}", "caller": "shop", "specialist": "support", "model": "big",
        "method": "exact", "score": float(agrees), "agrees": agrees, "cost": 0.02, "currency": "EUR",
        "answers_hash": "h", "cut": False, "logprobs": "[-0.1, -0.2]", "answer": "what the cloud said",
    }  # fmt: skip
    return Comparison(**(fields | more))


def written(path: Path, *entries: Entry | Comparison, ratings: tuple[Feedback, ...] = ()) -> str:
    url = f"sqlite:///{path / 'ledger.db'}"
    note_all(url, *entries, ratings=ratings)
    return url


def note_all(url: str, *entries: Entry | Comparison, ratings: tuple[Feedback, ...] = ()) -> None:
    writer = LedgerWriter(Ledger(url=url, flush_s=0.02))  # type: ignore[arg-type]
    for entry in entries:
        writer.note(entry)
    begun = time.monotonic()
    while writer.waiting:
        assert time.monotonic() - begun < 20
        time.sleep(0.01)
    for rating in ratings:
        writer.rate(rating)
    writer.close()


def figures(url: str, days: float = 30, prices: PriceList = PRICES) -> Report:
    return report_of(url, datetime_days_ago(days), prices, "big")


def test_answers_of_the_cloud_that_were_given_up_are_told_as_their_cost_is_not(tmp_path: Path) -> None:
    unknown = {"outcome": "cancelled", "cost": None, "completion_tokens": None, "prompt_tokens": None}
    broken = local(4, outcome="flagged", uncounted=1)  # the local answer stands, and the cloud's is paid for
    paid = local(5, outcome="flagged", uncounted=0, cost=0.02, currency="EUR")
    entries = [
        local(0, outcome="cancelled", uncounted=0), cloud(1, uncounted=0), cloud(2, uncounted=1, **unknown),
        cloud(3, **unknown), broken, paid,
    ]  # fmt: skip
    found = figures(written(tmp_path, *entries))
    assert (found.uncounted, found.cost) == (3, pytest.approx(0.03))
    said = "answers of the cloud given up or broken off, at a cost that is not known and not in here"
    assert (said, "3") in list(headlines(found))


def test_an_answer_that_looks_wrong_and_that_its_caller_accepts_is_a_success(tmp_path: Path) -> None:
    entries = [
        local(0, outcome="flagged"), local(1, outcome="invalid"), local(2, outcome="flagged"), local(3),
        local(4, outcome="cancelled"), local(5),
    ]  # fmt: skip
    said = {0: True, 1: True, 2: False, 4: True, 5: False}
    url = written(
        tmp_path, *entries, ratings=tuple(Feedback(f"l{i}", "shop", accepted=yes) for i, yes in said.items())
    )
    found = figures(url)
    assert found.successes == 3  # two accepted ones, and the one of which nobody said anything
    assert found.weeks[-1].well + sum(week.well for week in found.weeks[:-1]) == 3
    pasts = past_of(url, datetime_days_ago(1))
    assert [past.good for past in pasts] == []  # without a decision


def test_what_a_local_cache_had_is_not_taken_to_be_in_the_cloud_s(tmp_path: Path) -> None:
    prices = replace(PRICES, models={"big": ModelPrice(2.0, 0.2, 10.0)})
    found = figures(written(tmp_path, local(1), cloud(2)), prices=prices)
    fresh, cached = 100 * 2 + 10 * 10, 50 * 2 + 50 * 0.2 + 10 * 10
    assert found.all_cloud == pytest.approx((fresh + cached) / 1e6)


def test_a_cloud_that_tells_no_tokens_is_not_said_to_have_no_price(tmp_path: Path) -> None:
    mute = cloud(1, cost=None, currency="", prompt_tokens=0, cached_tokens=0, completion_tokens=0)
    found = figures(written(tmp_path, mute, cloud(2)))
    assert (found.cost, found.unpriced) == (
        None,
        "1 answers of the cloud came without a count of their tokens",
    )


def test_comparisons_of_one_specialist_in_two_currencies_are_never_summed(tmp_path: Path) -> None:
    found = figures(
        written(
            tmp_path, local(1), local(2), compared(1, agrees=True, currency="USD"), compared(2, agrees=False)
        )
    )
    assert (found.cost, found.compared_cost) == (None, pytest.approx(0.02))
    assert "costs in USD too" in found.unpriced
    assert (found.specialists[0].compared, found.specialists[0].agreed) == (2, 1)


def test_latencies_and_sums_are_those_of_a_plain_reading_of_the_rows(postgres_or_sqlite: str) -> None:
    draw = random.Random(3)  # noqa: S311 - a sample
    entries = [
        (local if draw.random() < 0.7 else cloud)(
            i,
            time=time.time() - draw.random() * 40 * DAY,
            outcome=draw.choice(("ok", "flagged", "failed", "cancelled")),
            total_ms=draw.choice((None, draw.random() * 1e5)),
            ttft_ms=draw.random() * 1e3,
            prompt_tokens=draw.randrange(1000),
            routed_to=draw.choice(("support", "other", "")),
        )
        for i in range(600)
    ]
    note_all(postgres_or_sqlite, *entries)
    for days in (50, 20, 2):  # read as a whole, and by the index on the time
        begin = datetime_days_ago(days)
        since = [e for e in entries if e.time >= begin.timestamp()]
        found = report_of(postgres_or_sqlite, begin, PRICES, "big")
        assert found.answers == len(since)
        assert found.outcomes == dict(Counter(e.outcome for e in since))
        assert found.cost == pytest.approx(sum(e.cost or 0 for e in since))
        for tier in found.tiers:
            took = [e.total_ms for e in since if e.tier == tier.tier and e.total_ms is not None]
            assert tier.total.p95 == pytest.approx(np.percentile(took, 95), abs=0.002)
        mondays = Counter(
            (d := datetime.fromtimestamp(e.time, UTC).date()) - timedelta(days=d.weekday()) for e in since
        )
        assert {week.monday: week.answers for week in found.weeks} == mondays
        judged = Counter(e.routed_to for e in since if e.routed_to and e.outcome != "cancelled")
        assert {one.name: one.answers for one in found.specialists} == judged


@pytest.fixture(params=["sqlite", "postgres"])
def postgres_or_sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path / 'ledger.db'}"


def test_sums_are_those_of_the_rows(tmp_path: Path) -> None:
    entries = [*(local(i) for i in range(80)), *(cloud(100 + i) for i in range(20))]
    ratings = (
        Feedback("l3", "shop", accepted=True),
        Feedback("l4", "shop", accepted=True),
        Feedback("l4", "shop", accepted=False),
        Feedback("l100", "shop", accepted=True),  # the cloud's, which says nothing of what stayed
    )
    found = figures(written(tmp_path, *entries, ratings=ratings))
    assert (found.answers, found.successes, found.rated, found.accepted) == (100, 99, 2, 1)
    assert found.cost == pytest.approx(0.2)
    assert found.cost_per_success == pytest.approx(0.2 / 99)
    assert found.all_cloud == pytest.approx(100 * (100 * 2 + 10 * 10) / 1e6)
    assert found.local_share == pytest.approx(0.8)
    assert found.output_share == pytest.approx(10 / 110)
    assert found.retried == pytest.approx(0.2)
    assert found.tiers[0].total.p50 == pytest.approx(139.5)
    assert found.latency_gain[0] == pytest.approx(139.5 / 209.5)
    assert "| local latency, of the cloud's: p50 / p95 / p99; first token | 0.67 /" in markdown(found)
    assert "| cost per successful task | EUR 0.002020 |" in markdown(found)


def test_local_machines_cost_their_share_of_the_month(tmp_path: Path) -> None:
    month_old = Entry(time.time() - 15 * DAY, "old", "generate", "ok", tier="local")
    found = figures(written(tmp_path, month_old), prices=replace(PRICES, local=LocalCosts(200, 100, 1.43)))
    assert found.cost == pytest.approx(150, rel=0.01)  # half of 200 and 73 kWh


def test_a_specialist_that_falls_short_is_named_with_advice(tmp_path: Path) -> None:
    short = [local(i, outcome="flagged") for i in range(4)] + [
        local(10 + i, outcome="escalated", tier="cloud", specialist="", cost=0.01) for i in range(4)
    ]
    others = [local(100 + i) for i in range(92)] + [local(300 + i, outcome="cancelled") for i in range(50)]
    found = figures(written(tmp_path, *short, *others))
    (support,) = found.specialists
    assert (support.answers, support.short) == (100, 8)
    assert "| support | 100 | 8.0% | - | train it" in markdown(found)


def test_weeks_begin_on_monday_and_rows_before_the_time_do_not_count(tmp_path: Path) -> None:
    wednesday = datetime(2026, 11, 18, 12, tzinfo=UTC)
    entries = [
        Entry((wednesday + timedelta(days=days)).timestamp(), f"r{days}", "generate", "ok", tier=tier)
        for days, tier in ((-7, "cloud"), (0, "cloud"), (1, "local"), (4, "local"), (-900, "cloud"))
    ]
    url = written(tmp_path, *entries)
    found = report_of(url, wednesday - timedelta(days=30), PRICES, "big")
    assert [(str(week.monday), week.answers) for week in found.weeks] == [
        ("2026-11-09", 1),
        ("2026-11-16", 3),
    ]
    assert found.weeks[1].cloud_share == pytest.approx(1 / 3)


WEDNESDAY = datetime(2026, 11, 18, 12, tzinfo=UTC)


def week_of(back: int, **more: Any) -> list[Entry]:
    """A hundred local answers of a week."""
    begun = (WEDNESDAY - timedelta(weeks=back)).timestamp()
    fields: dict[str, Any] = {"caller": "shop", "tier": "local", "total_ms": 100.0} | more
    return [Entry(begun + i, f"w{back}-{i}", "generate", "ok", **fields) for i in range(100)]


def test_what_got_worse_of_late_is_told(tmp_path: Path) -> None:
    entries = [entry for back in (3, 2, 1) for entry in week_of(back)] + week_of(0, total_ms=400.0)
    for i in (310, 320, 330):
        entries[i] = replace(entries[i], outcome="flagged")
    fields = [
        compared(
            i, agrees=back > 0 or i % 2 == 0, method="fields", request_id=f"w{back}-{i}",
            time=(WEDNESDAY - timedelta(weeks=back)).timestamp(),
        )
        for back in (1, 0)
        for i in range(60)
    ]  # fmt: skip
    other = compared(1, agrees=False, method="judge", request_id="w0-1", time=WEDNESDAY.timestamp())
    rejected = tuple(Feedback(f"w0-{i}", "shop", accepted=False) for i in range(40, 60))
    url = written(tmp_path, *entries, *fields, other, ratings=rejected)
    found = report_of(url, WEDNESDAY - timedelta(days=40), PRICES, "big")
    assert [(week.well, week.p95) for week in found.weeks] == [(100, 100)] * 3 + [(77, 400)]
    assert [(week.fields, week.same) for week in found.weeks] == [(0, 0), (0, 0), (60, 60), (60, 30)]
    assert drift(found.weeks) == (
        "ended well: 77.0%, 100.0% before",
        "agreed with the cloud on fields: 50.0%, 100.0% before",
        "p95 of local answers: 400 ms, 100 before",
    )
    text = markdown(found)
    assert "| worse in the last week | ended well: 77.0%, 100.0% before; agreed" in text
    assert "| 2026-11-16 | 100 | 0.0% | 77.0% | 400 | 30 of 60 |" in text


@pytest.mark.parametrize(("bad", "slow"), [(4, 120.0), (0, 100.0)])
def test_chance_is_no_drift(tmp_path: Path, bad: int, slow: float) -> None:
    last = [
        replace(entry, outcome="failed") if i < bad else entry
        for i, entry in enumerate(week_of(0, total_ms=slow))
    ]
    url = written(tmp_path, *week_of(1), *last)
    found = report_of(url, WEDNESDAY - timedelta(days=40), PRICES, "big")
    assert drift(found.weeks) == ()
    assert "| worse in the last week | nothing beyond chance |" in markdown(found)


def test_a_rating_is_of_the_request_it_came_after(tmp_path: Path) -> None:
    first = Entry(time.time() - 60, "same", "generate", "ok", caller="shop", tier="local")
    later = Entry(time.time() + 60, "same", "generate", "failed", caller="shop", tier="local")
    found = figures(written(tmp_path, first, later, ratings=(Feedback("same", "shop", accepted=False),)))
    assert (found.rated, found.accepted, found.successes) == (1, 0, 0)


def test_what_has_no_price_is_not_free(tmp_path: Path) -> None:
    found = figures(written(tmp_path, cloud(1, cost=None)), prices=PriceList())
    assert (found.cost, found.all_cloud, found.cost_per_success) == (None, None, None)
    assert "| cost | not known |" in markdown(found)
    assert "| why costs are not known | 1 answers of the cloud, and no prices" in markdown(found)
    unlisted = figures(written(tmp_path / "2", local(1)), prices=replace(PRICES, models={}))
    assert (unlisted.cost, unlisted.all_cloud) == (0, None)
    assert "no price of the model 'big' (priced: none)" in markdown(unlisted)


def test_a_mid_tier_or_a_broken_answer_without_a_price_is_not_free_either(tmp_path: Path) -> None:
    for i, more in enumerate(({"tier": "mid"}, {"outcome": "invalid"})):
        found = figures(written(tmp_path / str(i), cloud(1, cost=None, **more)))
        assert found.cost is None
    specialist = figures(written(tmp_path / "own", local(1, tier="mid")))
    assert specialist.cost == 0


def test_costs_of_comparisons_in_another_currency_are_not_added_up(tmp_path: Path) -> None:
    found = figures(written(tmp_path, local(1), compared(1, agrees=True, currency="USD")))
    assert found.cost is None
    assert "costs in USD too" in found.unpriced


def test_currencies_are_not_added_up(tmp_path: Path) -> None:
    found = figures(written(tmp_path, cloud(1), cloud(2, currency="USD")))
    assert found.cost is None
    assert "the ledger has costs in USD too, and prices are in EUR" in markdown(found)


def test_what_comparisons_cost_counts_and_what_they_say_is_told(tmp_path: Path) -> None:
    entries = [*(local(i) for i in range(4)), *(compared(i, agrees=i > 0) for i in range(4))]
    found = figures(written(tmp_path, *entries))
    assert (found.compared, found.agreed, found.specialists[0].agreed) == (4, 3, 3)
    assert found.cost == pytest.approx(0.08)
    page = markdown(found)
    assert "the same | 3 of 4 (75.0%), for EUR 0.080000 |" in page
    assert "| support | 4 | 0.0% | 3 of 4 | few answers |" in page


def test_what_found_no_place_is_throttled_and_nobody_s_shortfall(tmp_path: Path) -> None:
    found = figures(written(tmp_path, local(1), *(local(2 + i, outcome="throttled") for i in range(3))))
    assert found.throttled == pytest.approx(0.75)
    assert (found.specialists[0].answers, found.specialists[0].short) == (1, 0)


def test_the_command_reports_and_refuses_a_span_that_is_none(tmp_path: Path) -> None:
    url = written(tmp_path, local(1))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pointsman", "report", *arguments], cwd=tmp_path, capture_output=True, text=True,
            timeout=90, check=False, env=os.environ | {"POINTSMAN_LEDGER__URL": url},
        )  # fmt: skip

    told = json.loads(run("--json").stdout)
    assert (told["answers"], told["cost_per_request"], told["saved"]) == (1, 0.0, None)
    assert told["specialists"] == [
        {
            "name": "support",
            "answers": 1,
            "short": 0,
            "compared": 0,
            "agreed": 0,
            "share": 0.0,
            "advice": "few answers",
        }
    ]
    assert "# Answers since" in run("--since", "24h", "--html", "report.html").stdout
    assert "<h1>Answers since" in (tmp_path / "report.html").read_text()
    assert "--html: no/r.html cannot be written" in run("--html", "no/r.html").stderr
    assert "--since: a number with h, d or w, such as 7d (got 'week')" in run("--since", "week").stderr


def test_the_page_stands_alone_and_shows_what_the_text_shows(tmp_path: Path) -> None:
    entries = [*(local(i) for i in range(80)), *(cloud(100 + i) for i in range(20)), compared(3, agrees=True)]
    found = figures(
        written(tmp_path, *entries, local(500, specialist="<b>", routed_to="<b>", outcome="flagged"))
    )
    html = page(found)
    read_page(html)
    assert html.count("<svg") == 4
    assert html == page(found)
    assert "<b>EUR" in html
    assert "&lt;b&gt;" in html
    assert "<td><b></td>" not in html
    assert not re.search(r"<script|@import|url\((?!#)", html)
    read_page(page(figures(written(tmp_path / "empty"))))
    read_page(page(figures(written(tmp_path / "one", local(1, ttft_ms=None, total_ms=None)))))


def test_an_empty_ledger_says_so(tmp_path: Path) -> None:
    assert "There were none." in markdown(figures(written(tmp_path)))


def test_calls_that_were_rejected_are_told_of_and_are_in_no_other_figure(tmp_path: Path) -> None:
    refused = replace(local(2), outcome="rejected", tier="", specialist="", routed_to="", total_ms=None)
    only = figures(written(tmp_path / "only", refused))
    assert "There were none; 1 calls were rejected." in markdown(only)
    assert "0 answers, 1 calls rejected." in page(only)
    beside, alone = (
        figures(written(tmp_path / n, local(1), *more)) for n, more in (("a", [refused]), ("b", []))
    )
    assert beside.outcomes == {"ok": 1, "rejected": 1}
    assert replace(beside, outcomes=alone.outcomes, since=alone.since, cost=alone.cost) == alone
