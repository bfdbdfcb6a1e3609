"""Past decisions under another configuration: the same as that configuration would really decide."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harness import REFUND, WEATHER, Site, write_intent, write_prices, write_specialist
from pointsman.catalog.cascade_file import cascade_json
from pointsman.catalog.policy_file import read_policy
from pointsman.cli.replay import replay as replay_command
from pointsman.embedding.encoder import Rows
from pointsman.errors import PointsmanError
from pointsman.host.bundles import build_bundle
from pointsman.host.offline import learned_of, load_catalog, open_workbench
from pointsman.host.serve import open_core
from pointsman.ledger.history import past_of
from pointsman.ledger.writer import LedgerWriter
from pointsman.policy.detect import Detector
from pointsman.review.replay import Replay, replay, rescreened
from pointsman.review.replay_text import markdown
from pointsman.sections import Ledger
from pointsman.settings import Settings
from pointsman.values.cascade import Cascade
from pointsman.values.decision import Decision
from pointsman.values.ledger import Entry, Feedback, Past
from pointsman.values.price import ModelPrice, PriceList
from pointsman.values.request import Constraints, Message, Request, Role, Tier
from test_cascade import model as cascade_model

PRICES = PriceList("USD", {"big-model": ModelPrice(2.0, 1.0, 10.0), "small-model": ModelPrice(0.2, 0.1, 1.0)})
PROMPTS = [
    *(f"{text} please" for text in (*REFUND, *WEATHER)),
    "prove the Riemann hypothesis",
    "write a sonnet",
]
SINCE = datetime(2020, 1, 1, tzinfo=UTC)


def configured(site: Site, *, text: bool = True, **sections: Any) -> Settings:
    url = f"sqlite:///{site.root / 'ledger.db'}"
    ledger = {"enabled": True, "url": url, "flush_s": 0.02, "text": text}
    cloud = {"model": "big-model", "base_url": "http://127.0.0.1:9/v1"}
    return site.settings(ledger=ledger, cloud=cloud | sections.pop("cloud", {}), **sections)


def requests() -> list[Request]:
    plain = [Request((Message(Role.USER, text),), request_id=f"r{i}") for i, text in enumerate(PROMPTS)]
    fixed = [
        Constraints(tier=Tier.CLOUD),
        Constraints(tier=Tier.LOCAL),
        Constraints(local_only=True),
        Constraints(specialist="support"),
        Constraints(task_type="reasoning"),
        Constraints(output_tokens=900),
    ]
    more = [
        replace(plain[i % len(plain)], constraints=c, request_id=f"c{i}", caller="shop", budget_s=2.0)
        for i, c in enumerate(fixed * 3)
    ]
    long = Request((Message(Role.USER, "where is my refund " * 300),), request_id="long")
    return [*plain, *more, long]


async def decisions_of(settings: Settings, *, keep: bool) -> dict[str, Decision | None]:
    """Return what a configuration decides about the requests."""
    found: dict[str, Decision | None] = {}
    async with open_core(settings, engines=False, keep=keep) as core:
        for request in requests():
            try:
                found[request.request_id] = (await core.answers.route(request)).decision
            except PointsmanError:
                found[request.request_id] = None
        await asyncio.sleep(0)  # the last one is noted once its reply is on its way
    return found


def replayed(
    settings: Settings,
    embed: Callable[[Sequence[str]], Rows] | None = None,
    pasts: list[Past] | None = None,
    **options: Any,
) -> Replay:
    pasts = pasts or past_of(settings.ledger.url.get_secret_value(), SINCE)
    with open_workbench(settings) as bench:
        catalog = load_catalog(settings)
        snapshot = bench.snapshot(catalog, learned_of(bench, catalog)[0])
        return replay(pasts, snapshot, PRICES, embed or bench.embed, examples=1000, **options)


def never(texts: Sequence[str]) -> Rows:
    raise AssertionError(f"{len(texts)} prompts are embedded")


def elsewhere(found: Replay) -> dict[str, str]:
    return {request_id: flip.after for flip in found.flips for request_id, _ in flip.examples}


def where(decision: Decision | None) -> str:
    return "refused" if decision is None else decision.specialist or decision.model


def change_nothing(_: Site) -> dict[str, Any]:
    return {}


def stricter(site: Site) -> dict[str, Any]:
    write_intent(site.intents, "refund", "support", REFUND)
    path = site.intents / "refund.yaml"
    path.write_text(path.read_text() + "threshold: 0.97\n")
    return {}


def another_target(site: Site) -> dict[str, Any]:
    write_intent(site.intents, "weather", "cloud", WEATHER)
    return {}


def rules(site: Site) -> dict[str, Any]:
    (site.root / "rules.yaml").write_text(
        "rules:\n"
        "  - {name: long, to: cloud, when: {tokens: {over: 499}}}\n"
        "  - {name: wordy, to: cloud, when: {output_tokens: {over: 799}}}\n"
        "  - {name: shop, to: 'specialist:general', when: {caller: [shop]}}\n"
    )
    return {}


def another_cloud(_: Site) -> dict[str, Any]:
    return {"cloud": {"model": "small-model"}}


def no_cloud(_: Site) -> dict[str, Any]:
    return {"cloud": {"model": ""}, "routing": {"on_no_cloud": "fail"}}


def pickier(_: Site) -> dict[str, Any]:
    return {"routing": {"rejection": 0.9}}


@pytest.mark.parametrize(
    "change", [change_nothing, stricter, another_target, rules, another_cloud, no_cloud, pickier]
)
def test_what_the_ledger_knows_is_decided_as_the_configuration_would_without_any_model(
    site: Site, change: Callable[[Site], dict[str, Any]]
) -> None:
    before = asyncio.run(decisions_of(configured(site.fill(), text=False), keep=True))
    proposed = configured(site, text=False, **change(site))
    found = replayed(proposed, never)
    truly = asyncio.run(decisions_of(proposed, keep=False))
    assert (found.embedded, found.decisions) == (0, len([d for d in before.values() if d]))
    assert elsewhere(found) == {
        name: where(truly[name])
        for name, decision in before.items()
        if decision and where(decision) != where(truly[name])
    }
    assert found.kept == 0
    if change is change_nothing:
        assert found.flipped == 0
    else:
        assert found.flipped


POLICY = "words:\n  - {{name: poem, words: [sonnet], action: {poem}}}\n  - {{name: maths, words: [Riemann], action: {maths}}}\n"


@pytest.mark.parametrize(
    ("then", "now"),
    [
        (None, {"poem": "stay_local", "maths": "refuse"}),
        ({"poem": "stay_local", "maths": "redact"}, {"poem": "allow", "maths": "stay_local"}),
    ],
)
def test_another_policy_is_applied_to_prompts_as_they_were_stored(
    site: Site, then: dict[str, str] | None, now: dict[str, str]
) -> None:
    path = site.root / "policy.yaml"
    if then is not None:
        path.write_text(POLICY.format(**then))
    before = asyncio.run(decisions_of(configured(site.fill()), keep=True))
    path.write_text(POLICY.format(**now))
    proposed = configured(site)
    truly = asyncio.run(decisions_of(proposed, keep=False))
    policy = read_policy(path)
    find = Detector(policy, site.root / "rules").find
    pasts = [
        rescreened(past, policy, find) for past in past_of(proposed.ledger.url.get_secret_value(), SINCE)
    ]
    flips = {
        name: where(truly[name])
        for name, decision in before.items()
        if decision and where(decision) != where(truly[name])
    }
    assert elsewhere(replayed(proposed, pasts=pasts)) == flips
    assert flips


@pytest.mark.parametrize(
    ("prompt", "known", "action"),
    [
        (
            "write a sonnet",
            True,
            "stay_local",
        ),  # the policy of its time found nothing in it: in an earlier turn
        ("write a [POEM_1]", True, "redact"),
        ("prove the Riemann hypothesis", True, "stay_local"),
        ("and by tomorrow", True, "stay_local"),
        ("write a [MATHS_1]", True, "allow"),
        ("write a [MATHS_1]", False, "refuse"),  # a name that anybody may say loosens nothing
    ],
)
def test_what_an_earlier_turn_held_is_not_forgotten(
    site: Site, prompt: str, known: bool, action: str
) -> None:
    path = site.root / "policy.yaml"
    overrides = "callers:\n  - caller: crm\n    actions: {maths: allow}\n"
    path.write_text(POLICY.format(poem="redact", maths="refuse").replace("Riemann", "lemma") + overrides)
    policy = read_policy(path)
    past = Past(
        "r", "crm", "route", "ok", "local", "general", "", "", "", "local_only", None, None, None, None, "", "", None,
        None, None, None, "", {"policy": "stay_local"}, prompt, None,
    )  # fmt: skip
    found = rescreened(past, policy, Detector(policy, site.root / "rules").find, known=known)
    assert found.asked["policy"] == action


def test_other_exemplars_are_judged_by_the_prompts_that_the_ledger_has(site: Site) -> None:
    before = asyncio.run(decisions_of(configured(site.fill()), keep=True))
    write_specialist(site.specialists, "poet")
    write_intent(
        site.intents, "poem", "poet", ["write a poem", "write a sonnet", "a haiku please", "rhyme on spring"]
    )
    proposed = configured(site)
    found = replayed(proposed)
    truly = asyncio.run(decisions_of(proposed, keep=False))
    assert found.embedded > 20
    assert found.kept == 0
    assert elsewhere(found) == {
        name: where(truly[name]) for name, d in before.items() if d and where(d) != where(truly[name])
    }
    assert "poet" in elsewhere(found).values()
    sample = replayed(proposed, most=5)
    assert sample.decisions < found.decisions == sample.recorded
    assert "A random sample: the ledger has" in markdown(sample, "30d")


def test_another_share_out_of_scope_is_another_confidence_and_judged_anew(site: Site) -> None:
    asyncio.run(decisions_of(configured(site.fill()), keep=True))
    found = replayed(configured(site, routing={"out_of_scope": 0.4}))
    assert (found.embedded > 20, found.kept) == (True, 0)


def test_without_prompts_other_exemplars_leave_things_as_they_were(site: Site) -> None:
    asyncio.run(decisions_of(configured(site.fill(), text=False), keep=True))
    write_intent(
        site.intents, "poem", "general", ["write a poem", "write a sonnet", "a haiku please", "a rhyme"]
    )
    found = replayed(configured(site, text=False), never)
    assert found.kept
    assert found.kept + found.known == found.decisions
    assert f"{found.kept:,} stay as they were, for want of both" in markdown(found, "30d")


# Cost and quality, of rows whose sums are known.


def written(site: Site, entries: Sequence[Entry], ratings: Sequence[Feedback] = ()) -> Settings:
    settings = configured(site.fill())
    writer = LedgerWriter(Ledger(url=settings.ledger.url, flush_s=0.02))
    for entry in entries:
        writer.note(entry)
    writer.close()
    writer = LedgerWriter(Ledger(url=settings.ledger.url, flush_s=0.02))
    for rating in ratings:
        writer.rate(rating)
    writer.close()
    return settings


def entry(i: int, **more: Any) -> Entry:
    fields: dict[str, Any] = {
        "caller": "", "tier": "local", "specialist": "support", "routed_to": "support", "model": "m", "outcome": "ok",
        "reason": "explicit_specialist", "asked": json.dumps({"specialist": "support"}), "prompt_tokens": 100,
        "cached_tokens": 0, "completion_tokens": 10,
    }  # fmt: skip
    now = datetime.now(UTC).timestamp()
    return Entry(now, f"e{i}", "generate", **(fields | more))


CLOUD = {
    "tier": "cloud", "specialist": "", "routed_to": "", "model": "big-model", "reason": "explicit_tier",
    "asked": json.dumps({"tier": "cloud"}), "cost": 300 / 1e6, "currency": "USD",
}  # fmt: skip


def test_cost_and_quality_are_those_of_where_answers_go(site: Site) -> None:
    rows = [entry(i) for i in range(30)]
    rows += [
        entry(100 + i, outcome="escalated", tier="cloud", specialist="", cost=300 / 1e6, currency="USD")
        for i in range(10)
    ]
    rows += [entry(200 + i, **CLOUD) for i in range(25)]
    ratings = [Feedback(f"e{i}", accepted=False) for i in (0, 1, 200, 201, 202, 203, 204)]
    settings = written(site, rows, ratings)
    found = replayed(settings, never)
    assert found.flipped == 0
    assert found.before == found.after
    assert found.before.cost == pytest.approx(35 * 300 / 1e6)
    assert found.before.quality == pytest.approx(58 / 65)
    assert found.before.local_share == pytest.approx(40 / 65)
    # All that names no specialist goes to another model, a tenth as dear, of which nothing is known yet.
    cheaper = replayed(configured(site, cloud={"model": "small-model"}), never)
    assert cheaper.after.cost == pytest.approx(35 * 30 / 1e6)
    assert (cheaper.flipped, cheaper.unpredicted, cheaper.judged) == (25, 25, 40)
    # The specialist goes: what names it is refused, and no good answer.
    (site.specialists / "support.yaml").unlink()
    (site.intents / "refund.yaml").unlink()
    gone = replayed(configured(site), never)
    assert gone.flips[0].after == "refused"
    assert gone.after.quality == pytest.approx(20 / 65)
    assert "**support** → an error: 40" in markdown(gone, "7d")


def test_what_went_to_the_cloud_and_would_go_to_a_specialist_is_as_good_and_as_dear_as_its_answers(
    site: Site,
) -> None:
    shop = {"asked": json.dumps({}), "caller": "shop", "reason": "rule"}
    rows = [entry(i) for i in range(30)]
    rows += [
        entry(100 + i, outcome="escalated", tier="cloud", specialist="", cost=300 / 1e6, currency="USD")
        for i in range(10)
    ]
    rows += [entry(150 + i, outcome="flagged") for i in range(10)]
    rows += [entry(200 + i, **(CLOUD | shop)) for i in range(50)]
    written(site, rows)
    (site.root / "rules.yaml").write_text(
        "rules:\n  - {name: shop, to: 'specialist:support', when: {caller: [shop]}}\n"
    )
    found = replayed(configured(site), never)
    assert found.flipped == 50
    assert (found.before.local_share, found.after.local_share) == (0.5, 1.0)
    assert found.after.quality == pytest.approx((40 + 50 * 0.8) / 100)
    assert found.after.cost == pytest.approx((10 + 50 * 0.2) * 300 / 1e6)
    assert found.before.cost == pytest.approx(60 * 300 / 1e6)


def test_answers_are_judged_anew_by_the_proposed_cascade(site: Site) -> None:
    rows = [
        entry(i, answer_confidence=i / 100, asked="{}", reason="rule", rule="all", caller="shop")
        for i in range(100)
    ]
    rows += [entry(100 + i, answer_confidence=0.1) for i in range(10)]  # which name their specialist
    rows += [entry(200 + i, **CLOUD) for i in range(30)]
    settings = written(site, rows, [Feedback("e200", accepted=False)])
    (site.root / "rules.yaml").write_text(
        "rules:\n  - {name: all, to: 'specialist:support', when: {caller: [shop]}}\n"
    )
    none = replayed(settings, never)
    assert (none.moved, none.after.cost) == (0, pytest.approx(30 * 300 / 1e6))
    specialist = load_catalog(settings).specialist("support")
    assert specialist is not None
    learned = Cascade(datetime.now(UTC), 0.05, 0.95, (cascade_model(specialist, threshold=0.4),))
    (site.root / "cascade.json").write_text(cascade_json(learned))
    found = replayed(settings, never)
    assert (found.moved, found.flipped) == (40, 0)
    assert found.after.cost == pytest.approx((30 + 40) * 300 / 1e6)
    assert found.after.quality == pytest.approx((99 - 40 + 1 + 10 + 29 + 40 * 29 / 30) / 140)
    assert "40 answers that stood would move to the cloud" in markdown(found, "7d")
    assert replayed(settings, never, cascade=False).moved == 0


def test_a_cloud_that_told_no_tokens_is_not_said_to_have_had_no_price(site: Site) -> None:
    settings = written(
        site, [entry(1, **(CLOUD | {"cost": None, "prompt_tokens": 0, "completion_tokens": 0}))]
    )
    assert "came without a count of their tokens" in markdown(replayed(settings, never), "7d")


def test_what_has_no_price_is_said(site: Site) -> None:
    settings = written(site, [entry(1, **(CLOUD | {"cost": None}))])
    assert replayed(settings, never).before.cost is None
    assert "had no price" in markdown(replayed(settings, never), "7d")
    other = replayed(configured(site, cloud={"model": "unheard"}), never)
    assert other.after.cost is None
    assert "no price of the model 'unheard'" in other.unpriced


def test_the_command_prints_a_page_and_json(site: Site) -> None:
    written(site, [entry(1), entry(2, **CLOUD)])
    write_prices(site.root, big_model=(2.0, 1.0, 10.0))

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pointsman", "replay", *arguments], cwd=site.root, capture_output=True, text=True,
            timeout=90, check=False, env=os.environ | {
                "POINTSMAN_LEDGER__URL": f"sqlite:///{site.root / 'ledger.db'}", "POINTSMAN_CLOUD__MODEL": "big-model",
            },
        )  # fmt: skip

    page = run("--since", "1h")
    assert page.returncode == 0, page.stderr
    assert "# 2 decisions of the last 1h, under the proposed configuration" in page.stdout
    assert "| cost, USD | 0.0003 | 0.0003 | +0.0000 |" in page.stdout
    assert json.loads(run("--json").stdout)["known"] == 2
    missing = run("--policy")
    assert (missing.returncode != 0, "policy.yaml" in missing.stderr) == (True, True)
    (site.root / "policy.yaml").write_text("actions: {email: refuse}")
    assert json.loads(run("--policy", "--json").stdout)["known"] == 2
    (site.intents / "refund.yaml").write_text("name: refund\n")
    refused = run()
    assert refused.returncode != 0
    assert "refund.yaml" in refused.stderr


def test_the_command_replays_under_the_bundle_where_one_is_configured(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = written(site, [entry(1)])
    with open_workbench(settings) as bench:
        build_bundle(settings, bench, site.root / "a.bundle")
    (site.intents / "refund.yaml").write_text("name: refund\n")  # nobody reads it
    monkeypatch.chdir(site.root)
    monkeypatch.setenv("POINTSMAN_LEDGER__URL", settings.ledger.url.get_secret_value())
    monkeypatch.setenv("POINTSMAN_PATHS__BUNDLE", "a.bundle")
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(replay_command)
    done = CliRunner().invoke(app, ["--json"])
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    assert (found["known"], found["flipped"]) == (1, 0)
    (site.root / "a.bundle").write_bytes(b"x")
    assert "a.bundle" in str(CliRunner().invoke(app, ["--json"]).exception)


def test_rows_without_a_decision_are_no_decisions(site: Site, tmp_path: Path) -> None:
    failed = entry(1, tier="", reason="", routed_to="", outcome="failed")
    settings = written(site, [failed])
    assert past_of(settings.ledger.url.get_secret_value(), SINCE) == []
    assert "There were none." in markdown(replayed(settings, never), "7d")
    later = datetime.now(UTC) + timedelta(days=1)
    found: list[Past] = past_of(settings.ledger.url.get_secret_value(), later)
    assert found == []
