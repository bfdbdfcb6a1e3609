"""`pointsman cascade`, the file that it writes, and a server that takes the file up."""

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from builders import make_specialist
from harness import Cloud, Site, collect, running, until, write_specialist
from pointsman.catalog.cascade_file import cascade_json, read_cascade
from pointsman.cli.app import app
from pointsman.client import constraints, said
from pointsman.errors import CatalogError, PreconditionError
from pointsman.host.bundles import build_bundle
from pointsman.host.offline import load_catalog, open_workbench
from pointsman.review.cascade import (
    LabelledAnswer,
    answer_line,
    figures_on,
    fit_cascade,
    is_held_out,
    read_answers,
)
from pointsman.settings import Settings
from pointsman.v1 import router_pb2
from pointsman.values.catalog import Catalog, Specialist

SENTIMENT = {"format": "choice", "choices": ["positive", "negative"]}


def write_answers(path: Path, n: int = 600, specialist: str = "support", **more: Any) -> Path:
    rng = random.Random(0)  # noqa: S311 - no secret
    lines = []
    for i in range(n):
        right = rng.random() < 0.85
        logprobs = [-rng.expovariate(12 if right else 3) for _ in range(10)]
        fields = {
            "specialist": specialist,
            "prompt": f"p {i} for Ann",
            "answer": "a b" if right else f"a made{i}",
            "logprobs": logprobs,
            "right": right,
        }
        lines.append(json.dumps(fields | more))
    path.write_text("\n".join(lines) + "\n")
    return path


def fitted(site: Site, settings: Settings, n: int) -> str:
    """Return a cascade file from so many answers. Blocking."""
    catalog = load_catalog(settings)
    answers = read_answers(write_answers(site.root / "answers.jsonl", n), catalog)
    return cascade_json(fit_cascade(answers, catalog, 0.05, 0.95))


def write_config(site: Site) -> Path:
    path = site.root / "pointsman.yaml"
    paths = {
        "intents": str(site.intents),
        "specialists": str(site.specialists),
        "cascade": str(site.root / "cascade.json"),
    }
    path.write_text(json.dumps({"paths": paths, "log": {"level": "error"}}))
    return path


def test_fit_writes_a_file_that_serving_reads_and_report_shows_it(site: Site) -> None:
    config = write_config(site.fill())
    data = write_answers(site.root / "answers.jsonl")
    ran = CliRunner().invoke(
        app, ["cascade", "fit", "--data", str(data), "--risk", "0.1", "--config", str(config)]
    )
    assert ran.exit_code == 0, ran.output
    assert "support: 600 answers" in ran.output
    assert "at most 10.0% of answers stand and are wrong" in ran.output
    cascade = read_cascade(site.root / "cascade.json")
    (model,) = cascade.models
    assert model.holds
    assert model.bound <= 0.1
    assert (model.curve.words, model.curve.passed_over) == ({"a", "b"}, {"p", "for", "ann"})
    assert cascade_json(cascade) == (site.root / "cascade.json").read_text()
    specialist = load_catalog(site.settings()).specialist("support")
    assert specialist is not None
    assert cascade.model("support", specialist.answers_hash) == model
    shown = CliRunner().invoke(app, ["cascade", "report", "--data", str(data), "--config", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "support" in shown.output
    assert "escalate" in shown.output


def test_too_few_labels_exit_with_1_and_say_how_many_are_missing(site: Site) -> None:
    config = write_config(site.fill())
    data = write_answers(site.root / "answers.jsonl", 20)
    ran = CliRunner().invoke(app, ["cascade", "fit", "--data", str(data), "--config", str(config)])
    assert ran.exit_code == 1
    assert "no promise: about" in ran.output
    assert not read_cascade(site.root / "cascade.json").models[0].holds


def _rounded(answers: list[LabelledAnswer]) -> list[LabelledAnswer]:
    """Return answers as a line tells them."""
    return [replace(a, logprobs=tuple(round(p or 0, 5) for p in a.logprobs)) for a in answers]


def test_answers_of_twins_shape_the_curve_and_the_specialists_own_set_the_threshold(site: Site) -> None:
    catalog = load_catalog(site.fill().settings())
    own = read_answers(write_answers(site.root / "own.jsonl", 200), catalog)
    flags = {"twin": True, "repaired": True}
    twins = read_answers(write_answers(site.root / "twins.jsonl", 300, **flags), catalog)
    assert {(answer.twin, answer.repaired) for answer in twins} == {(True, True)}
    (alone,) = fit_cascade(own, catalog, 0.05, 0.95).models
    (model,) = fit_cascade([*own, *twins], catalog, 0.05, 0.95).models
    assert (model.fitting, model.calibration) == (300, 200)
    assert 70 < alone.calibration < 130
    (shaped,) = fit_cascade([*twins, *own[:1]], catalog, 0.05, 0.95).models
    assert model.curve == shaped.curve
    lines = [answer_line(answer) for answer in (*own, *twins)]
    again = site.root / "again.jsonl"
    again.write_text("".join(lines))
    assert read_answers(again, catalog) == [*_rounded(own), *_rounded(twins)]


def test_escalating_the_least_confident_answers_raises_accuracy_and_the_cloud_bounds_it(site: Site) -> None:
    catalog = load_catalog(site.fill().settings())
    answers = read_answers(write_answers(site.root / "answers.jsonl"), catalog)
    cascade = fit_cascade(answers, catalog, 0.05, 0.95)
    held_out = [answer for answer in answers if is_held_out(answer)]
    (figures,) = figures_on(held_out, catalog, cascade)
    assert 250 < figures.answers < 350
    assert figures.auroc is not None
    assert figures.auroc > 0.9
    steps = [figures.accuracy[share] for share in sorted(figures.accuracy)]
    assert steps == sorted(steps)
    assert steps[0] == pytest.approx(sum(a.right for a in held_out) / len(held_out))
    assert figures.standing_wrong <= 0.05
    (poor,) = figures_on(held_out, catalog, cascade, cloud_accuracy=0.0)
    assert poor.accuracy[0.3] < figures.accuracy[0.3]


@pytest.mark.parametrize(
    ("line", "field", "says"),
    [
        ("{", "", "not JSON"),
        ("[1]", "", "expected an object"),
        ('{"specialist": 1}', "specialist", "expected str"),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [], "right": 1}',
            "right",
            "true",
        ),
        (
            '{"specialist": "nope", "prompt": "p", "answer": "a", "logprobs": [], "right": true}',
            "specialist",
            "no such",
        ),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [0.5], "right": true}',
            "logprobs.0",
            "at most 0",
        ),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [NaN], "right": true}',
            "logprobs.0",
            "at most 0",
        ),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [], "right": true, "finish": "x"}',
            "finish",
            "stop or length",
        ),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [], "right": true, "answers_hash": "0"}',
            "answers_hash",
            "collect again",
        ),
        (
            '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [], "right": true, "twin": 1}',
            "twin",
            "true or false",
        ),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_field(
    tmp_path: Path, line: str, field: str, says: str
) -> None:
    path = tmp_path / "answers.jsonl"
    good = '{"specialist": "support", "prompt": "p", "answer": "a", "logprobs": [-1, null], "right": true}'
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(CatalogError) as raised:
        read_answers(path, Catalog(specialists=(make_specialist("support"),)))
    (problem,) = raised.value.problems
    assert (problem.file, problem.line, problem.field) == (str(path), 3, field)
    assert says in problem.message


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"risk": 2},
        {"models": {"a": {}}},
        {"more": 1},
    ],
)
def test_a_cascade_file_that_is_none_is_refused_by_field(site: Site, change: dict[str, Any]) -> None:
    catalog = load_catalog(site.fill().settings())
    answers = read_answers(write_answers(site.root / "answers.jsonl", 50), catalog)
    path = site.root / "cascade.json"
    fields = json.loads(cascade_json(fit_cascade(answers, catalog, 0.05, 0.95)))
    path.write_text(json.dumps(fields | change))
    with pytest.raises(CatalogError) as raised:
        read_cascade(path)
    assert all(problem.file == str(path) and problem.field for problem in raised.value.problems)


def test_a_bundle_carries_the_cascade_and_not_a_stale_one(site: Site) -> None:
    settings = site.fill().settings()
    (site.root / "cascade.json").write_text(fitted(site, settings, 600))
    with open_workbench(settings) as bench:
        contents = build_bundle(settings, bench, site.root / "a.bundle")
        assert contents.facts["cascade"] is True
        assert contents.matcher.learned.cascade == read_cascade(site.root / "cascade.json")
        write_specialist(site.specialists, "support", system_prompt="Another one.")
        with pytest.raises(PreconditionError, match=r"cascade\.json: models\.support: stale"):
            build_bundle(settings, bench, site.root / "b.bundle")
    assert not (site.root / "b.bundle").exists()


async def test_a_server_takes_the_file_up_and_says_where_it_is_stale(site: Site) -> None:
    settings = site.fill().settings()
    text = await asyncio.to_thread(fitted, site, settings, 600)
    async with running(settings, engines=False, watch=True) as server:
        assert server.core.catalogs.catalog.problems == ()
        (site.root / "cascade.json").write_text(text)
        snapshot = server.core.answers._router
        await until(lambda: snapshot.snapshot.cascade is not None)
        write_specialist(site.specialists, "support", system_prompt="Another one.")
        await until(lambda: server.core.catalogs.catalog.problems)
        (problem,) = server.core.catalogs.catalog.problems
        assert (problem.file, problem.field) == ("cascade.json", "models.support")
        assert "stale" in problem.message
        (site.root / "cascade.json").write_text("{")
        await until(lambda: any(p.field != "models.support" for p in server.core.catalogs.catalog.problems))
        assert snapshot.snapshot.cascade is not None  # the last good one


async def test_a_candidate_is_fitted_before_it_is_the_live_version(site: Site) -> None:
    config, settings = write_config(site.fill()), site.settings()
    text = await asyncio.to_thread(fitted, site, settings, 600)
    (site.root / "cascade.json").write_text(text)
    candidate = write_specialist(site.root / "new", "support", system_prompt="Another one.")
    options = ["--config", str(config)]
    promote = ["specialists", "promote", "support", *options]

    def run(*words: str) -> str:
        ran = CliRunner().invoke(app, words)
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return ran.output

    begun = await asyncio.to_thread(run, *promote, "--candidate", str(candidate))
    assert "fitted for the live version of support, not for the candidate" in begun
    assert "--specialist support@next" in begun
    both = write_answers(site.root / "answers.jsonl").read_text()
    both += write_answers(site.root / "next.jsonl", specialist="support@next").read_text()
    (site.root / "answers.jsonl").write_text(both)
    answers = ["--data", str(site.root / "answers.jsonl"), *options]
    await asyncio.to_thread(run, "cascade", "fit", *answers, "--out", str(site.root / "both.json"))
    shown = await asyncio.to_thread(
        run, "cascade", "report", *answers, "--model", str(site.root / "both.json")
    )
    assert "support@next" in shown
    async with running(settings, engines=False, watch=True) as server:

        def judged(name: str, version: Specialist | None) -> bool:
            learned = server.core.answers._router.snapshot.cascade
            assert learned is not None
            return version is not None and learned.model(name, version.answers_hash) is not None

        catalog = server.core.catalogs.catalog
        assert judged("support", catalog.specialist("support"))
        rollout = catalog.rollout("support")
        assert rollout is not None
        assert not judged("support@next", rollout.candidate)
        (site.root / "both.json").rename(site.root / "cascade.json")
        await until(lambda: judged("support@next", rollout.candidate))
        for _ in range(3):
            said = await asyncio.to_thread(run, *promote)
            assert "not for the candidate" not in said
        await until(lambda: not server.core.catalogs.catalog.rollouts)
        live = server.core.catalogs.catalog.specialist("support")
        assert live is not None
        assert live.system_prompt == "Another one."
        assert judged("support", live)
        assert server.core.catalogs.catalog.problems == ()


@pytest.mark.model
async def test_the_engine_is_held_to_a_choice_and_to_a_schema_on_repair(site: Site, base_model: Path) -> None:
    site.fill()
    write_specialist(site.specialists, "mood", output=SENTIMENT, max_output_tokens=16)
    schema = {
        "type": "object",
        "properties": {"topic": {"enum": ["parcel", "invoice"]}, "count": {"type": "integer"}},
        "required": ["topic", "count"],
        "additionalProperties": False,
    }
    output = {"format": "json", "schema": schema}
    write_specialist(site.specialists, "slots", output=output, max_output_tokens=64, stop=["\n"])
    async with running(site.settings()) as server:
        sampling = router_pb2.Sampling(temperature=0)
        for name in ("mood", "slots"):
            rules = constraints(specialist=name)
            _, events = await collect(server.client.generate("I love my new parcel!", rules, sampling))
            text = ""
            for event in events:
                text = said(text, event)
            assert not events[-1].done.low_confidence, text
            if name == "mood":
                assert text in {"positive", "negative"}
            else:
                assert json.loads(text).keys() == {"topic", "count"}


@pytest.mark.model
async def test_a_real_answer_that_is_not_sure_enough_moves_to_the_cloud(site: Site, base_model: Path) -> None:
    with Cloud() as cloud:
        settings = site.fill().settings(cloud=cloud.settings | {"max_retries": 0})
        (site.root / "cascade.json").write_text(await asyncio.to_thread(fitted, site, settings, 20))
        async with running(settings) as server:
            sampling = router_pb2.Sampling(temperature=0, max_tokens=12)
            _, events = await collect(server.client.generate("please refund my order", None, sampling))
            text = ""
            for event in events:
                text = said(text, event)
            assert text == "from the cloud"
            (moved,) = [e.escalation for e in events if e.WhichOneof("event") == "escalation"]
            assert moved.decision.reason == router_pb2.DECISION_REASON_ESCALATED
            rules = constraints(local_only=True)
            _, events = await collect(server.client.generate("please refund my order", rules, sampling))
            assert events[-1].done.low_confidence
            assert 0 <= events[-1].done.confidence <= 1
    assert len(cloud.requests) == 1
