"""Bundles whose specialists' files are not there, and what else a bundle carries: taken whole, or not at all."""

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters import write_adapter
from harness import REFUND, Running, Site, running, until, write_intent, write_specialist
from outcome_builders import outcomes_of
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.difficulty import QualityPromise, fit
from pointsman.decision.difficulty_file import save
from pointsman.host.bundles import activate, build_bundle, roll_back
from pointsman.host.offline import open_workbench
from pointsman.v1 import router_pb2
from pointsman.values.catalog import Artifact

HOURS = ["when do you open", "opening hours on sunday", "is the shop open at noon"]


def bundled(site: Site, name: str) -> Path:
    settings, out = site.settings(), site.root / name
    with open_workbench(settings) as bench:
        build_bundle(settings, bench, out)
    return out


def two_bundles(site: Site, adapter: dict[str, str]) -> tuple[Path, Path]:
    """Activate one bundle, and return where it is served, and another: a new intent, and `support` made anew."""
    active = site.root / "active.bundle"
    activate(bundled(site.fill(), "one.bundle"), active)
    write_intent(site.intents, "hours", "support", HOURS)
    write_specialist(site.specialists, "support", system_prompt="You are another one.", adapter=adapter)
    return active, bundled(site, "two.bundle")


async def _decision(server: Running, prompt: str) -> router_pb2.Decision:
    return (await server.client.route(prompt)).decision


async def _problems(server: Running) -> list[Any]:
    return list((await server.client.list_intents()).health.problems)


def _prompt_of_support(server: Running) -> str:
    specialist = server.core.catalogs.catalog.specialist("support")
    assert specialist is not None
    return specialist.system_prompt


@pytest.mark.model
async def test_a_bundle_whose_specialist_s_file_is_missing_is_not_taken_by_half(
    site: Site, base_model: Path
) -> None:
    missing = {"uri": "file:missing.gguf", "sha256": "0" * 64}
    active, second = await asyncio.to_thread(two_bundles, site, missing)
    async with running(site.settings(paths={"bundle": active}), watch=True) as server:
        before = await _decision(server, HOURS[0])
        await asyncio.to_thread(activate, second, active)

        async def refused() -> bool:
            return any("missing.gguf" in problem.message for problem in await _problems(server))

        await until(refused, 20.0)
        assert await _decision(server, HOURS[0]) == before
        assert before.intent != "hours"
        assert _prompt_of_support(server) == "You answer in one short sentence."
        intents = (await server.client.list_intents()).intents
        assert [intent.name for intent in intents] == ["refund", "weather"]
        await asyncio.to_thread(roll_back, active)

        async def well() -> bool:
            return not await _problems(server)

        await until(well, 20.0)
        assert await _decision(server, HOURS[0]) == before


@pytest.mark.model
async def test_a_bundle_is_taken_whole_once_its_specialist_s_file_was_fetched(
    site: Site, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = threading.Event(), ArtifactStore.fetch

    class Slow(ArtifactStore):
        def fetch(self, artifact: Artifact) -> Path:
            if artifact.uri.endswith("red.gguf"):
                fetched.wait(30)
            return fetch(self, artifact)

    monkeypatch.setattr("pointsman.host.serve.ArtifactStore", Slow)
    sha256 = write_adapter(site.specialists / "red.gguf", base_model, seed=77)
    store = ArtifactStore(site.settings().paths.models, site.specialists)
    store.path(Artifact("file:red.gguf", sha256)).unlink(missing_ok=True)  # from an earlier run
    active, second = await asyncio.to_thread(two_bundles, site, {"uri": "file:red.gguf", "sha256": sha256})
    async with running(site.settings(paths={"bundle": active}), watch=True) as server:
        before = await _decision(server, HOURS[0])
        await asyncio.to_thread(activate, second, active)

        async def waits() -> bool:
            return any("being fetched" in problem.message for problem in await _problems(server))

        await until(waits, 20.0)
        assert await _decision(server, HOURS[0]) == before
        assert _prompt_of_support(server) == "You answer in one short sentence."
        fetched.set()

        async def taken() -> bool:
            return (await _decision(server, HOURS[0])).catalog_version != before.catalog_version

        await until(taken, 60.0)
        assert (await _decision(server, HOURS[0])).intent == "hours"
        assert _prompt_of_support(server) == "You are another one."
        assert not await _problems(server)


async def test_a_bundle_carries_its_difficulty_model_and_says_which_one(site: Site) -> None:
    settings = site.fill().settings()

    def build() -> Path:
        with open_workbench(settings) as bench:
            columns = bench.embed(["x"]).shape[1]
            training, calibration = (outcomes_of(n, seed, d=columns) for n, seed in ((400, 1), (300, 2)))
            fitted = fit(training, calibration, QualityPromise(0.9, 0.9), bench.encoder_hash, 0.25)
            save(fitted, settings.paths.difficulty, datetime(2026, 1, 2, tzinfo=UTC))
            build_bundle(settings, bench, site.root / "a.bundle")
        return site.root / "a.bundle"

    bundle = await asyncio.to_thread(build)
    async with running(settings, engines=False) as server:
        by_folders = await _decision(server, REFUND[0])
    async with running(site.settings(paths={"bundle": bundle}), engines=False) as server:
        assert server.core.answers._router.snapshot.matcher.learned.difficulty.on
        by_bundle = await _decision(server, REFUND[0])
        learned = server.core.answers._router.snapshot.matcher.learned
    assert by_bundle.HasField("difficulty")
    assert by_bundle.difficulty == by_folders.difficulty
    assert len(learned.difficulty_digest) == 64
