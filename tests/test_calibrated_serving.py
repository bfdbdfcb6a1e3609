"""A calibration file and a bundle in a real server: taken into use, found stale, refused, rolled back."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest

from harness import REFUND, WEATHER, Running, Site, running, until, write_intent
from pointsman.artifacts import verdict
from pointsman.artifacts.store import ArtifactStore
from pointsman.catalog.calibration_file import calibration_json, read_calibration
from pointsman.embedding.build import TOKENIZER, default_graph
from pointsman.embedding.card import GRAPH_FILE, TOKENIZER_FILE, TWIN_FILE, Card, sha256_of
from pointsman.errors import ArtifactError, PreconditionError
from pointsman.host.bundles import activate, build_bundle, previous, roll_back
from pointsman.host.offline import open_workbench
from pointsman.host.served import open_served
from pointsman.v1 import catalog_pb2, router_pb2
from test_cli import _run

TRAFFIC = {
    "refund": [
        "could I have my money back for the chair",
        "please pay me back, the parcel was empty",
        "I returned the coat two weeks ago and have not seen the money",
        "reverse the charge on my card",
        "the refund you promised is still missing",
    ],
    "weather": [
        "is rain expected on friday",
        "how hot will it be in Rome",
        "weather for the coming days please",
        "any snow on the way",
        "should I take a coat tonight",
    ],
    None: [
        "who painted the night watch",
        "translate good morning into Greek",
        "what is the square root of 1764",
        "suggest a name for my cat",
        "when was the printing press invented",
    ],
}


def write_traffic(path: Path, times: int = 12) -> Path:
    lines = [
        json.dumps({"text": f"{text}{' please' * i}", "intent": intent})
        for i in range(times)
        for intent, texts in TRAFFIC.items()
        for text in texts
    ]
    path.write_text("\n".join(lines))
    return path


def calibrated(site: Site, **changes: Any) -> Path:
    """Write a calibration as `pointsman calibrate` would, with some fields changed."""
    path = site.root / "calibration.json"
    traffic = write_traffic(site.root / "traffic.jsonl")
    result = _run("calibrate", "--data", str(traffic), "--risk", "0.05", "--out", str(path), site=site)
    assert result.returncode == 0, result.stderr
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


async def _problems(server: Running) -> list[Any]:
    return list((await server.client.list_intents()).health.problems)


async def _decision(server: Running, prompt: str) -> router_pb2.Decision:
    return (await server.client.route(prompt)).decision


# pointsman calibrate


def test_calibrating_writes_a_promise_and_says_it(site: Site) -> None:
    site.fill()
    path = site.root / "c.json"
    traffic = write_traffic(site.root / "traffic.jsonl")
    asked = ("calibrate", "--data", str(traffic), "--risk", "0.05", "--out", str(path))
    result = _run(*asked, "--prompts", "2000", site=site)
    assert result.returncode == 0, result.stderr
    assert (
        "at most 5.0% of the next 2,000 prompts go to a wrong specialist, with 95% confidence"
        in result.stdout
    )
    assert "180 labels (120 in scope, 60 out of scope)" in result.stdout
    promise = read_calibration(path)
    assert promise.holds
    assert promise.local_share > 0.3
    assert promise.bound <= 0.05
    assert promise.prompts == 2000
    assert "about first turns only" in result.stdout


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("19", "no wrong one would be allowed: with --risk 0.05 give 20 or more (got 19)"),
        ("0", "Input should be greater than or equal to 1"),
        ("10000001", "Input should be less than or equal to 10000000"),
    ],
)
def test_a_promise_about_too_few_or_too_many_prompts_is_refused(site: Site, prompts: str, said: str) -> None:
    traffic = write_traffic(site.fill().root / "traffic.jsonl")
    result = _run("calibrate", "--data", str(traffic), "--risk", "0.05", "--prompts", prompts, site=site)
    assert result.returncode == 2
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_a_folder_that_is_missing_is_made_and_one_that_cannot_be_made_is_an_error(site: Site) -> None:
    traffic = write_traffic(site.fill().root / "traffic.jsonl")
    into = site.root / "new" / "c.json"
    asked = ("calibrate", "--data", str(traffic), "--risk", "0.05", "--out")
    assert _run(*asked, str(into), site=site).returncode == 0
    assert [path.name for path in into.parent.iterdir()] == ["c.json"]
    result = _run(*asked, str(traffic / "c.json"), site=site)
    assert result.returncode == 2
    assert "c.json: cannot be written" in result.stderr
    assert "Traceback" not in result.stderr


def test_too_few_labels_say_how_many_are_missing_and_send_all_to_the_cloud(site: Site) -> None:
    site.fill()
    traffic = write_traffic(site.root / "traffic.jsonl", times=4)
    result = _run("calibrate", "--data", str(traffic), "--out", str(site.root / "c.json"), site=site)
    assert result.returncode == 1
    assert "about 89 more labels like these would support one" in result.stderr
    assert "no cloud is configured, so the general specialist (general) answers all" in result.stderr
    assert read_calibration(site.root / "c.json").required_confidence == 1.0


def test_labels_that_are_the_exemplars_are_refused(site: Site) -> None:
    site.fill()
    path = site.root / "t.jsonl"
    labels = [(text, "refund") for text in REFUND] + [(text.upper() + " ", "weather") for text in WEATHER]
    path.write_text("\n".join(json.dumps({"text": text, "intent": intent}) for text, intent in labels))
    result = _run("calibrate", "--data", str(path), "--out", str(site.root / "c.json"), site=site)
    assert result.returncode == 1
    assert "20 of 20 labelled prompts are exemplars themselves" in result.stderr
    assert not (site.root / "c.json").exists()


def test_labels_naming_unknown_intents_are_refused_by_line(site: Site) -> None:
    site.fill()
    path = site.root / "t.jsonl"
    path.write_text('{"text": "hello", "intent": null}\n{"text": "money", "intent": "refunds"}\n')
    result = _run("calibrate", "--data", str(path), site=site)
    assert result.returncode == 1
    assert f"{path}:2: intent:" in result.stderr
    assert "refund" in result.stderr


@pytest.mark.parametrize(("flag", "value"), [("--risk", "0"), ("--risk", "1.5"), ("--confidence", "1")])
def test_a_risk_that_is_none_is_refused(site: Site, flag: str, value: str) -> None:
    path = write_traffic(site.root / "t.jsonl")
    result = _run("calibrate", "--data", str(path), flag, value, site=site.fill())
    assert result.returncode == 2
    assert f"{flag}: must lie between 0 and 1 (got {float(value)})" in result.stderr


# Serving it


async def test_a_calibration_is_taken_into_use_and_given_up_with_its_file(site: Site) -> None:
    path = calibrated(site.fill(), required_confidence=1.0)
    later = site.root / "later.json"
    path.rename(later)
    async with running(site.settings(), engines=False, watch=True) as server:
        before = await _decision(server, REFUND[0])
        assert (before.specialist, before.required_confidence) == ("support", 0.0)

        later.rename(path)

        async def applied() -> bool:
            return (await _decision(server, REFUND[0])).required_confidence == 1.0

        assert await until(applied, 3.0) < 1.0
        decision = await _decision(server, REFUND[0])
        assert decision.confidence < 1.0
        assert decision.specialist == "general"  # no cloud is configured
        assert decision.catalog_version != before.catalog_version
        assert not await _problems(server)

        path.unlink()

        async def gone() -> bool:
            return (await _decision(server, REFUND[0])).catalog_version == before.catalog_version

        await until(gone)


async def test_a_stale_calibration_is_named_and_serves_on(site: Site) -> None:
    calibrated(site.fill(), exemplar_hash="0" * 64)
    async with running(site.settings(), engines=False) as server:
        (problem,) = await _problems(server)
        assert problem.file == "calibration.json"
        assert "stale: made with other exemplars" in problem.message
        assert (await _decision(server, REFUND[0])).required_confidence > 0


async def test_changed_exemplars_make_a_calibration_stale(site: Site) -> None:
    calibrated(site.fill())
    async with running(site.settings(), engines=False, watch=True) as server:
        assert not await _problems(server)
        write_intent(site.intents, "weather", "general", WEATHER[:-1])

        async def stale() -> bool:
            return any("stale" in problem.message for problem in await _problems(server))

        await until(stale, 3.0)


async def test_with_refuse_a_stale_calibration_ends_the_start(site: Site) -> None:
    calibrated(site.fill(), encoder_hash="0" * 64)
    settings = site.settings(routing={"stale_calibration": "refuse"})
    with pytest.raises(ExceptionGroup) as caught:
        async with running(settings, engines=False):
            pass
    (error,) = caught.value.exceptions
    assert isinstance(error, PreconditionError)
    assert "made with another encoder" in str(error)


async def test_with_refuse_a_stale_file_put_in_place_while_serving_is_not_taken(site: Site) -> None:
    path = calibrated(site.fill(), required_confidence=0.5)
    settings = site.settings(routing={"stale_calibration": "refuse"})
    async with running(settings, engines=False, watch=True) as server:
        before = await _decision(server, REFUND[0])
        assert before.required_confidence == 0.5
        good = path.read_text()
        stale = json.loads(good) | {"exemplar_hash": "0" * 64, "required_confidence": 1.0}
        path.write_text(json.dumps(stale))

        async def refused() -> bool:
            return any("stale" in problem.message for problem in await _problems(server))

        await until(refused, 3.0)
        assert await _decision(server, REFUND[0]) == before
        write_intent(site.intents, "hours", "support", ["when do you open", "opening hours"])
        await asyncio.sleep(1.0)  # neither does the one that serves hold for these
        assert await _decision(server, REFUND[0]) == before
        (site.intents / "hours.yaml").unlink()
        path.write_text(good)

        async def well() -> bool:
            return not await _problems(server)

        await until(well, 3.0)
        assert await _decision(server, REFUND[0]) == before


async def test_with_refuse_a_stale_first_file_leaves_none_in_use(site: Site) -> None:
    path = calibrated(site.fill(), exemplar_hash="0" * 64, required_confidence=1.0)
    later = path.rename(path.with_suffix(".later"))
    settings = site.settings(routing={"stale_calibration": "refuse"})
    async with running(settings, engines=False, watch=True) as server:
        later.rename(path)

        async def refused() -> bool:
            return any("stale" in problem.message for problem in await _problems(server))

        await until(refused, 3.0)
        assert (await _decision(server, REFUND[0])).required_confidence == 0.0


async def test_other_settings_of_thresholds_make_a_calibration_stale(site: Site) -> None:
    calibrated(site.fill())
    async with running(site.settings(routing={"rejection": 0.3}), engines=False) as server:
        (problem,) = await _problems(server)
        assert "made with routing.rejection = 0.05, now 0.3" in problem.message
    async with running(site.settings(), engines=False) as server:
        assert not await _problems(server)


async def test_with_refuse_exemplars_that_make_it_stale_are_not_served(site: Site) -> None:
    calibrated(site.fill())
    settings = site.settings(routing={"stale_calibration": "refuse"})
    async with running(settings, engines=False, watch=True) as server:
        write_intent(site.intents, "hours", "support", ["when do you open", "opening hours"])

        async def refused() -> bool:
            return bool(await _problems(server))

        await until(refused, 3.0)
        names = [intent.name for intent in (await server.client.list_intents()).intents]
        assert names == ["refund", "weather"]
        (site.intents / "hours.yaml").unlink()

        async def well() -> bool:
            return not await _problems(server)

        await until(well, 3.0)


async def test_a_broken_calibration_keeps_the_last_good_one(site: Site) -> None:
    path = calibrated(site.fill(), required_confidence=0.5)
    async with running(site.settings(), engines=False, watch=True) as server:
        assert (await _decision(server, REFUND[0])).required_confidence == 0.5
        path.write_text("{")

        async def noticed() -> bool:
            return any("calibration.json" in problem.file for problem in await _problems(server))

        await until(noticed, 3.0)
        assert (await _decision(server, REFUND[0])).required_confidence == 0.5


# A bundle


def bundled(site: Site, name: str) -> Path:
    settings, out = site.settings(), site.root / name
    with open_workbench(settings) as bench:
        build_bundle(settings, bench, out)
    return out


async def test_a_bundle_serves_what_the_folders_served(site: Site) -> None:
    site.fill()
    prompts = [*REFUND[:2], "is rain expected on friday", "who painted the night watch"]
    async with running(site.settings(), engines=False) as server:
        by_folders = [await _decision(server, prompt) for prompt in prompts]
    bundle = await asyncio.to_thread(bundled, site, "a.bundle")
    async with running(site.settings(paths={"bundle": bundle}), engines=False) as server:
        by_bundle = [await _decision(server, prompt) for prompt in prompts]
    versions = {decision.catalog_version for decision in by_bundle}
    assert len(versions) == 1
    assert versions != {by_folders[0].catalog_version}
    for ours, theirs in zip(by_bundle, by_folders, strict=True):
        ours.catalog_version = theirs.catalog_version
        assert ours == theirs


async def test_bundles_are_swapped_and_rolled_back_under_a_running_server(site: Site) -> None:
    active = site.root / "served" / "active.bundle"
    await asyncio.to_thread(lambda: activate(bundled(site.fill(), "one.bundle"), active))
    write_intent(site.intents, "hours", "support", ["when do you open", "opening hours on sunday"])
    second = await asyncio.to_thread(bundled, site, "two.bundle")
    async with running(site.settings(paths={"bundle": active}), engines=False, watch=True) as server:
        first = (await _decision(server, REFUND[0])).catalog_version
        await asyncio.to_thread(activate, second, active)

        async def swapped() -> bool:
            return (await _decision(server, "when do you open")).intent == "hours"

        assert await until(swapped, 3.0) < 1.0
        assert (await _decision(server, REFUND[0])).catalog_version != first
        assert previous(active).is_file()
        await asyncio.to_thread(roll_back, active)

        async def back() -> bool:
            return (await _decision(server, REFUND[0])).catalog_version == first

        assert await until(back, 3.0) < 1.0


async def test_a_tampered_bundle_is_refused_and_the_one_before_it_serves_on(site: Site) -> None:
    bundle = await asyncio.to_thread(bundled, site.fill(), "a.bundle")
    content = bundle.read_bytes()
    async with running(site.settings(paths={"bundle": bundle}), engines=False, watch=True) as server:
        version = (await _decision(server, REFUND[0])).catalog_version
        forged = site.root / "forged"
        forged.write_bytes(content.replace(b"I want my money back", b"I want my money, now"))
        forged.replace(bundle)

        async def noticed() -> bool:
            return any("keeps serving" in problem.message for problem in await _problems(server))

        await until(noticed, 3.0)
        assert (await _decision(server, REFUND[0])).catalog_version == version


async def test_a_tampered_bundle_ends_the_start(site: Site) -> None:
    bundle = await asyncio.to_thread(bundled, site.fill(), "a.bundle")
    bundle.write_bytes(bundle.read_bytes()[:-100])
    with pytest.raises(ExceptionGroup) as caught:
        async with running(site.settings(paths={"bundle": bundle}), engines=False):
            pass
    assert isinstance(caught.value.exceptions[0], ArtifactError)


async def test_a_bundle_that_is_served_cannot_be_changed(site: Site) -> None:
    bundle = await asyncio.to_thread(bundled, site.fill(), "a.bundle")
    async with running(site.settings(paths={"bundle": bundle}), engines=False) as server:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            intent = catalog_pb2.Intent(name="x", target="support", exemplars=["x"])
            await server.client.catalog.PutIntent(catalog_pb2.PutIntentRequest(intent=intent))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "a bundle is served" in (caught.value.details() or "")


def test_a_bundle_with_a_stale_calibration_is_not_built(site: Site) -> None:
    calibrated(site.fill(), exemplar_hash="0" * 64)
    settings = site.settings()
    with (
        open_workbench(settings) as bench,
        pytest.raises(PreconditionError, match="made with other exemplars"),
    ):
        build_bundle(settings, bench, site.root / "x.bundle")


def test_a_bundle_carries_the_promise(site: Site) -> None:
    promise = read_calibration(calibrated(site.fill()))
    settings = site.settings()
    with open_workbench(settings) as bench:
        contents = build_bundle(settings, bench, site.root / "x.bundle")
    assert contents.matcher.promise == promise
    assert calibration_json(promise) == (calibration_json(contents.matcher.promise))


def test_the_commands_build_show_verify_activate_and_roll_back(site: Site) -> None:
    site.fill()
    active = str(site.root / "active.bundle")
    where = {"PATHS__BUNDLE": active, "PATHS__CALIBRATION": str(site.root / "none.json")}
    versions = []
    for name, exemplars in (("a", REFUND), ("b", REFUND[:-1])):
        write_intent(site.intents, "refund", "support", exemplars)
        assert _run("bundle", "build", "--out", name, site=site, **where).returncode == 0
        assert _run("bundle", "activate", name, site=site, **where).returncode == 0
        shown = _run("bundle", "show", name, "--json", site=site)
        versions.append(json.loads(shown.stdout)["version"])
        verified = _run("bundle", "verify", name, "--version", versions[-1], site=site)
        assert verified.returncode == 0
        assert versions[-1] in verified.stdout
    assert versions[0] != versions[1]
    rolled = _run("bundle", "rollback", site=site, **where)
    assert versions[0] in rolled.stdout
    wrong = _run("bundle", "verify", "a", "--version", "0" * 12, site=site)
    assert wrong.returncode == 1
    assert "not 000000000000" in wrong.stderr


# A tuned encoder


def tuned(site: Site, *files: str) -> Path:
    """Write a folder as `pointsman encoder tune` does, the default weights under the names of `files`, told to have seen some exemplars."""
    store = ArtifactStore(site.settings().paths.models, site.root)
    folder = site.root / "tuned"
    folder.mkdir()
    for name in (GRAPH_FILE, *files):
        shutil.copy(default_graph(store), folder / name)
    # One more newline: the same encoder to all intents, and another to its hash.
    (folder / TOKENIZER_FILE).write_bytes(store.fetch(TOKENIZER).read_bytes() + b"\n")
    Card(
        base_model="all-MiniLM-L6-v2",
        base_hash="0" * 64,
        created="2026-01-02T00:00:00+00:00",
        adopted=True,
        frozen_right=1,
        tuned_right=2,
        recipe={},
        epochs=[],
        cosine_to_torch=0.99,
        quantised=True,
        sha256={path.name: verdict.sha256_of(path) for path in folder.iterdir()},
        exemplars_sha256="0" * 64,
        seen=sorted(sha256_of(text) for text in (*REFUND[:8], *WEATHER[:8])),
        held_out=sorted(sha256_of(text) for text in (*REFUND[8:], *WEATHER[8:])),
    ).write(folder)
    return folder


async def test_a_bundle_brings_its_tuned_encoder_and_rolling_back_takes_it_away(site: Site) -> None:
    active = site.root / "active.bundle"
    plain = await asyncio.to_thread(bundled, site.fill(), "plain.bundle")
    settings = site.settings(encoder={"model": str(await asyncio.to_thread(tuned, site))})

    def build() -> Path:
        with open_workbench(settings) as bench:
            assert bench.cache.seen([REFUND[0], "unseen"]).tolist() == [True, False]
            build_bundle(settings, bench, site.root / "tuned.bundle")
        return site.root / "tuned.bundle"

    with_encoder = await asyncio.to_thread(build)
    assert with_encoder.stat().st_size > 20 << 20 > plain.stat().st_size
    await asyncio.to_thread(activate, plain, active)
    async with running(site.settings(paths={"bundle": active}), engines=False, watch=True) as server:
        first = await _decision(server, REFUND[0])
        router = server.core.answers._router
        assert router.snapshot.matcher.encoder is None
        await asyncio.to_thread(activate, with_encoder, active)

        async def swapped() -> bool:
            return (await _decision(server, REFUND[0])).catalog_version != first.catalog_version

        await until(swapped, 5.0)
        assert router.snapshot.matcher.encoder is not None
        assert (await _decision(server, REFUND[0])).specialist == "support"
        await asyncio.to_thread(roll_back, active)

        async def back() -> bool:
            return await _decision(server, REFUND[0]) == first

        await until(back, 5.0)
        assert router.snapshot.matcher.encoder is None


async def test_a_bundle_brings_the_twin_of_its_encoder(site: Site) -> None:
    site.fill()
    folder = await asyncio.to_thread(tuned, site, TWIN_FILE)

    def explained() -> list[list[bool]]:
        settings = site.settings(encoder={"model": str(folder)})
        with open_workbench(settings) as bench:
            build_bundle(settings, bench, site.root / "tuned.bundle")
        shutil.rmtree(folder)
        with open_served(site.settings(paths={"bundle": site.root / "tuned.bundle"})) as served:
            cache = served.bench.cache
            asked = [REFUND[0], REFUND[-1], "unseen"]
            return [cache.seen(asked).tolist(), cache.twin.seen(asked).tolist()]

    assert await asyncio.to_thread(explained) == [[True, True, False], [True, False, False]]


async def test_a_tuned_encoder_is_calibrated_on_what_it_has_not_seen(site: Site) -> None:
    folder = str(await asyncio.to_thread(tuned, site.fill()))
    for name, texts in (("refund", REFUND), ("weather", WEATHER)):
        more = [f"{text} {i}" for i in range(3) for text in texts[:6]]
        write_intent(site.intents, name, "support" if name == "refund" else "general", [*texts, *more])
    thresholds = []
    for encoder in ({"model": folder}, {}):
        async with running(site.settings(encoder=encoder), engines=False) as server:
            thresholds.append((await _decision(server, REFUND[0])).threshold)
    assert thresholds[0] != pytest.approx(thresholds[1], abs=1e-4)
