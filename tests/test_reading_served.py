"""What the encoder does not read of a prompt: said in the decision, and never taken for a match."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from harness import REFUND, WEATHER, Site, running, write_intent
from pointsman.host.bundles import build_bundle
from pointsman.host.offline import load_catalog, open_workbench

UNKNOWN = ("🙂", "🙂 🙂", "ඔයාට කොහොමද", "🦄 " * 300)


def lenient(site: Site) -> Site:
    """Intents that accept whatever is not the very opposite."""
    write_intent(site.fill().intents, "refund", "support", REFUND, threshold=-0.5)
    write_intent(site.intents, "weather", "general", WEATHER, threshold=-0.5)
    return site


def bundled(site: Site) -> Path:
    settings = site.settings()
    with open_workbench(settings) as bench:
        build_bundle(settings, bench, site.root / "a.bundle")
    return site.root / "a.bundle"


@pytest.mark.parametrize("served", ["folders", "bundle"])
async def test_a_text_of_which_no_token_is_known_is_accepted_by_no_intent(site: Site, served: str) -> None:
    settings = lenient(site).settings()
    if served == "bundle":
        settings = site.settings(paths={"bundle": await asyncio.to_thread(bundled, site)})
    async with running(settings, engines=False) as server:
        for text in UNKNOWN:
            decision = (await server.client.route(text)).decision
            assert decision.score == -1.0
            assert decision.confidence == 0.0
            assert (
                decision.specialist == "general"
            )  # who answers where nothing is near and no cloud is configured
            assert "The encoder knows none of the tokens that it read" in decision.explanation
        known = (await server.client.route(f"🙂 {REFUND[0]}")).decision
        assert (known.intent, known.specialist) == ("refund", "support")
        assert "encoder" not in known.explanation


def test_a_turn_that_follows_up_keeps_the_evidence_of_the_turn_before_it(site: Site) -> None:
    settings = site.fill().settings()
    with open_workbench(settings) as bench:
        matcher = bench.matcher(load_catalog(settings))
        evidence = replace(matcher.match(bench.embed([REFUND[0]])[0]), follow_up=True)
        assert matcher.read(evidence, "👍") == evidence
        assert not matcher.read(replace(evidence, follow_up=False), "👍").accepted


async def test_a_decision_says_that_only_the_edges_of_a_long_text_were_read(site: Site) -> None:
    async with running(site.fill().settings(), engines=False) as server:
        text = f"please refund my order. {'The council met on Monday to speak about the bridge. ' * 60}"
        decision = (await server.client.route(text)).decision
        assert "of its tokens the first and the last 16 were read" in decision.explanation
        short = (await server.client.route("please refund my order " * 12)).decision
        assert "tokens" not in short.explanation
