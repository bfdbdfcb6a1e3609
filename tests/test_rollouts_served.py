"""A new version of a specialist beside the live one, on the real engine: on its way in, and on its way back."""

import asyncio
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness import Running, Site, collect, running, until, write_specialist
from pointsman.catalog.files import read
from pointsman.catalog.schema import SpecialistFile
from pointsman.cli.app import app
from pointsman.client import constraints
from pointsman.host.offline import file_store
from pointsman.host.rollouts import begin
from pointsman.settings import Settings
from pointsman.v1 import catalog_pb2, router_pb2
from pointsman.values.catalog import Specialist
from pointsman.values.rollout import Stage

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("base_model")]

SHORT = router_pb2.Sampling(temperature=0, max_tokens=8)


def _begin(settings: Settings, root: Path, more: dict[str, object], agreement: float = 0.0) -> None:
    candidate = write_specialist(root / "new", "support", **more)
    stated = read(candidate, SpecialistFile, "candidate").value
    assert isinstance(stated, Specialist)
    begin(file_store(settings), stated, share=1.0, bound=0.05, answers=2, agreement=agreement)


async def _ask(server: Running) -> tuple[str, router_pb2.Done]:
    text, events = await collect(
        server.client.generate("please refund my order", constraints(specialist="support"), SHORT)
    )
    return text, events[-1].done


def _stage(server: Running) -> Stage | None:
    rollout = server.core.catalogs.catalog.rollout("support")
    return rollout.stage if rollout else None


async def test_a_version_that_answers_as_well_ends_as_the_live_one(site: Site) -> None:
    settings = site.fill().settings()
    await asyncio.to_thread(_begin, settings, site.root, {"system_prompt": "Say something else."})
    async with running(settings) as server:
        assert _stage(server) is Stage.SHADOW
        seen = []
        for _ in range(30):
            seen.append(_stage(server))
            if seen[-1] is None:
                break
            _, done = await _ask(server)
            assert done.usage.completion_tokens
            if seen[-1] is Stage.SHADOW:  # a shadow's own answer comes after
                await until(lambda: not _shadowing(server))
        assert list(dict.fromkeys(seen)) == [Stage.SHADOW, Stage.CANARY, Stage.ALL, None]
        live = server.core.catalogs.catalog.specialist("support")
        assert live is not None
        assert live.system_prompt == "Say something else."
        assert server.core.catalogs.catalog.problems == ()
    manifest = await asyncio.to_thread((site.specialists / "support.yaml").read_text)
    assert "Say something else." in manifest


async def test_a_version_whose_answers_fail_goes_back_and_nobody_waits(site: Site) -> None:
    settings = site.fill().settings()
    await asyncio.to_thread(
        _begin,
        settings,
        site.root,
        {"output": {"format": "choice", "choices": ["yes"], "constrained": "never"}},
    )
    async with running(settings) as server:
        for _ in range(10):
            if _stage(server) is None:
                break
            text, _ = await _ask(server)
            assert text.strip() not in {"", "yes"}  # the live version's
            await until(lambda: not _shadowing(server))
        assert _stage(server) is None
        text, done = await _ask(server)
        assert text.strip()
        assert not done.low_confidence
    rejected = site.specialists / "rollouts" / "rejected" / "support.yaml"
    kept = yaml.safe_load(await asyncio.to_thread(rejected.read_text))
    assert kept["past"] == [
        {
            "stage": "shadow",
            "candidate": {"answers": 2, "successes": 0},
            "live": {"answers": 2, "successes": 2},
            "compared": 2,
            "agreed": 2,
        }
    ]
    assert "0 of 2" in kept["why"]


async def test_a_version_that_answers_in_the_right_format_and_wrongly_goes_back(site: Site) -> None:
    """One format; but a grammar holds the live version to one of the two answers, and the new one to the other."""
    output = {"format": "choice", "choices": ["yes", "no"], "constrained": "always"}
    settings = site.fill().settings()
    write_specialist(site.specialists, "support", output=output | {"grammar": 'root ::= "yes"'})
    wrong: dict[str, object] = {"output": output | {"grammar": 'root ::= "no"'}}
    await asyncio.to_thread(_begin, settings, site.root, wrong, 0.7)
    async with running(settings) as server:
        (listed,) = [s for s in (await server.client.list_specialists()).specialists if s.HasField("trial")]
        assert listed.specialist.name == "support"
        assert listed.trial.stage == catalog_pb2.ROLLOUT_STAGE_SHADOW
        ls = ["specialists", "ls", "--address", server.address]
        shown = (await asyncio.to_thread(CliRunner().invoke, app, ls)).output
        assert "support: a new version is at stage shadow: 0 of 0 of its answers succeeded" in shown
        for _ in range(10):
            if _stage(server) is None:
                break
            text, done = await _ask(server)
            assert (text, done.low_confidence) == ("yes", False)
            await until(lambda: not _shadowing(server))
            if _stage(server) is not None:
                compared = {"specialist": "support", "agrees": "no"}
                assert server.core.metrics.registry.get_sample_value("pointsman_rollout_compared", compared)
        assert _stage(server) is None
        assert all(not s.HasField("trial") for s in (await server.client.list_specialists()).specialists)
    rejected = site.specialists / "rollouts" / "rejected" / "support.yaml"
    kept = yaml.safe_load(await asyncio.to_thread(rejected.read_text))
    assert kept["past"] == [
        {
            "stage": "shadow",
            "candidate": {"answers": 2, "successes": 2},
            "live": {"answers": 2, "successes": 2},
            "compared": 2,
            "agreed": 0,
        }
    ]
    assert "0 of 2 say what callers got" in kept["why"]


async def test_a_candidate_whose_files_are_refused_is_on_no_trial(site: Site) -> None:
    settings = site.fill().settings()
    await asyncio.to_thread(
        _begin, settings, site.root, {"adapter": {"uri": "file:nothing.gguf", "sha256": "ab" * 32}}
    )
    async with running(settings) as server:
        assert _stage(server) is None
        assert any("nothing.gguf" in str(p) for p in server.core.catalogs.catalog.problems)
        text, _ = await _ask(server)
        assert text.strip()


def test_the_command_line_promotes_and_rolls_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.fill()
    monkeypatch.setenv("POINTSMAN_PATHS__INTENTS", str(site.intents))
    monkeypatch.setenv("POINTSMAN_PATHS__SPECIALISTS", str(site.specialists))
    candidate = write_specialist(site.root / "new", "support", system_prompt="Say something else.")
    run = CliRunner().invoke
    assert "in shadow for 20% of requests" in run(
        app, ["specialists", "promote", "support", "--candidate", str(candidate), "--share", "0.2"]
    ).output  # fmt: skip
    assert "at stage canary" in run(app, ["specialists", "promote", "support"]).output
    assert "ended at stage canary" in run(app, ["specialists", "rollback", "support"]).output
    assert run(app, ["specialists", "promote", "support"]).exit_code != 0


def _shadowing(server: Running) -> bool:
    generator = server.core.answers._generator
    return any(stage.shadows for stage in generator._trials._stages.values())
