"""Accepted answers as examples."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builders import make_specialist
from harness import Site
from pointsman.catalog.cascade_file import read_cascade
from pointsman.decision.difficulty_file import load
from pointsman.errors import ConfigError
from pointsman.host.offline import load_catalog
from pointsman.ledger.history import past_of
from pointsman.ledger.labels import outcomes_of
from pointsman.ledger.pairs import pairs_of
from pointsman.ledger.writer import LedgerWriter
from pointsman.review.cascade import LabelledAnswer, read_answers
from pointsman.review.outcome_file import read_outcomes
from pointsman.review.traffic import read_traffic
from pointsman.sections import Ledger
from pointsman.training.examples import read_examples
from pointsman.values.catalog import Catalog
from pointsman.values.ledger import Comparison, Entry, Feedback
from test_cascade_cli import write_config
from test_difficulty_cli import write_outcomes
from test_report import compared, datetime_days_ago, local
from test_report import written as write_rows

NOW = time.time()


def written(path: Path, rows: "list[tuple[str, str, bool | None, str]]") -> str:
    """Write answers (prompt, answer, accepted, corrected), a minute apart."""
    url = f"sqlite:///{path / 'ledger.db'}"
    writer = LedgerWriter(Ledger(url=url, flush_s=0.02))  # type: ignore[arg-type]
    for i, (prompt, answer, accepted, right) in enumerate(rows):
        writer.note(
            Entry(
                NOW - 6000 + 60 * i,
                f"r{i}",
                "generate",
                "ok",
                caller="shop",
                routed_to=f"s{i % 2}",
                prompt=prompt,
                answer=answer,
            )
        )
        if accepted is not None or right:
            while writer.waiting:
                time.sleep(0.01)
            writer.rate(Feedback(f"r{i}", "shop", accepted, answer=right))
    writer.close()
    return url


def test_an_accepted_answer_stays_accepted_when_its_intent_is_corrected(tmp_path: Path) -> None:
    url = written(tmp_path, [("first", "yes", True, "")])
    writer = LedgerWriter(Ledger(url=url))  # type: ignore[arg-type]
    writer.rate(Feedback("r0", "shop", None, intent="other"))
    writer.close()
    (pair,) = pairs_of(url, datetime_days_ago(1), test_share=0).train
    assert (pair.user, pair.answer) == ("first", "yes")


def test_accepted_and_corrected_answers_are_examples_once_each_newer_ones_for_judging(tmp_path: Path) -> None:
    rows: list[tuple[str, str, bool | None, str]] = [
        *((f"prompt {i}", f"answer {i}", True, "") for i in range(8)),
        ("rejected", "bad", False, ""),
        ("nobody said", "x", None, ""),
        ("corrected", "bad", False, "good"),
        ("Prompt  3", "a newer answer", True, ""),
    ]
    found = pairs_of(written(tmp_path, rows), datetime_days_ago(1))
    assert [pair.user for pair in found.train] == [f"prompt {i}" for i in (0, 1, 2, 4, 5, 6, 7)]
    assert [(pair.user, pair.answer) for pair in found.test] == [
        ("Prompt  3", "a newer answer"),
        ("corrected", "good"),
    ]
    assert found.repeated == 1


def test_an_answer_that_was_given_after_the_newest_prompts_is_as_new_as_it_is(tmp_path: Path) -> None:
    rows: list[tuple[str, str, bool | None, str]] = [("old", "bad", False, "corrected just now")]
    rows += [(f"prompt {i}", "a", True, "") for i in range(4)]
    found = pairs_of(written(tmp_path, rows), datetime_days_ago(1))
    assert [pair.user for pair in found.test] == ["old"]


def test_what_goes_on_from_earlier_turns_is_no_pair_of_its_own(tmp_path: Path) -> None:
    asked = ({}, {"follow_up": True}, {"turns": 3})
    entries = [
        local(i, prompt=f"prompt {i}", answer="yes", asked=json.dumps(more)) for i, more in enumerate(asked)
    ]
    ratings = tuple(Feedback(f"l{i}", "shop", accepted=True) for i in range(3))
    found = pairs_of(write_rows(tmp_path, *entries, ratings=ratings), datetime_days_ago(1), test_share=0)
    assert ([pair.user for pair in found.train], found.followed) == (["prompt 0"], 2)


def test_a_comparison_is_of_the_answer_that_was_given_before_it(tmp_path: Path) -> None:
    now = time.time()
    first = local(1, prompt="the first", answer="a", time=now - 100)
    again = local(1, prompt="asked again under the same id", answer="b", time=now + 100)
    url = write_rows(tmp_path, first, again, compared(1, agrees=True))
    assert [line["text"] for line in outcomes_of(url, datetime_days_ago(1))] == ["the first"]
    assert [(past.prompt, past.good) for past in past_of(url, datetime_days_ago(1))] == []


def test_prompts_with_the_intent_that_callers_say_is_right_are_labels(tmp_path: Path) -> None:
    entries = [
        local(i, prompt=f"prompt {i}", intent="refund", method="route" if i == 1 else "generate")
        for i in range(5)
    ]
    entries.append(
        local(5, prompt="and the other one", intent="refund", asked=json.dumps({"follow_up": True}))
    )
    ratings = (
        Feedback("l0", "shop", accepted=True),
        Feedback("l1", "shop", intent="weather"),
        Feedback("l2", "shop", accepted=False),  # of another intent, and nobody says which
        Feedback("l3", "shop", accepted=False, intent="parcel"),
        Feedback("l5", "shop", accepted=True),
    )
    url = write_rows(tmp_path, *entries, ratings=ratings)
    done = subprocess.run(
        [sys.executable, "-m", "pointsman", "export", "out", "--format", "labels"], cwd=tmp_path, capture_output=True,
        text=True, timeout=90, check=True, env=os.environ | {"POINTSMAN_LEDGER__URL": url},
    )  # fmt: skip
    assert "3 lines to out/labels.jsonl" in done.stdout
    labels = read_traffic(tmp_path / "out" / "labels.jsonl", need_labels=True)
    assert [(line.text, line.intent) for line in labels] == [
        ("prompt 0", "refund"),
        ("prompt 1", "weather"),
        ("prompt 3", "parcel"),
    ]


def test_a_correction_is_left_out_whose_placeholder_may_stand_for_another_than_in_its_prompt(
    tmp_path: Path,
) -> None:
    rows: list[tuple[str, str, bool | None, str]] = [
        ("write to [EMAIL_1]", "bad", False, "[EMAIL_1] was written to"),
        ("write to [EMAIL_1] now", "[EMAIL_1] was written to", True, ""),
        ("write to [EMAIL_1] soon", "bad", False, "ask [EMAIL_2] or [PHONE_1]"),
        ("write to shop", "bad", False, "[EMAIL_1] was written to"),
    ]
    found = pairs_of(written(tmp_path, rows), datetime_days_ago(1), test_share=0)
    assert [pair.user for pair in found.train] == [rows[i][0] for i in (1, 2, 3)]
    assert found.unclear == 1


def test_one_specialist_may_be_asked_for(tmp_path: Path) -> None:
    url = written(tmp_path, [(f"prompt {i}", "a", True, "") for i in range(4)])
    assert [pair.user for pair in pairs_of(url, datetime_days_ago(1), "s1", 0.0).train] == [
        "prompt 1",
        "prompt 3",
    ]


def test_a_ledger_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ConfigError, match=r"ledger\.url: the ledger cannot be read"):
        pairs_of(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}", datetime_days_ago(1))


def test_the_command_writes_what_training_reads(tmp_path: Path) -> None:
    url = written(tmp_path, [(f"prompt {i}", f"answer {i}", True, "") for i in range(10)])

    def run(**settings: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pointsman", "export", "out", "--format", "pairs", "--since", "1d"],
            cwd=tmp_path, capture_output=True, text=True, timeout=90, check=False, env=os.environ | settings,
        )  # fmt: skip

    said = run(POINTSMAN_LEDGER__URL=url).stdout
    assert (
        "8 examples to out/train.jsonl, 2 newer ones to out/test.jsonl; 0 asked again and 0 that go on from earlier turns were left out"
        in said
    )
    assert len(read_examples(tmp_path / "out" / "train.jsonl", "Answer.").examples) == 8
    assert json.loads((tmp_path / "out" / "test.jsonl").read_text().splitlines()[0])["user"] == "prompt 8"
    stated = "words: [{name: project, words: [answer], action: redact}]"  # since they were stored
    (tmp_path / "policy.yaml").write_text(stated)
    assert run(POINTSMAN_LEDGER__URL=url).returncode == 0
    pair = json.loads((tmp_path / "out" / "test.jsonl").read_text().splitlines()[0])
    assert pair == {"user": "prompt 8", "answer": "[PROJECT_1] 8"}
    (tmp_path / "out" / "train.jsonl").unlink()
    (tmp_path / "out" / "train.jsonl").mkdir()
    blocked = run(POINTSMAN_LEDGER__URL=url)
    assert (blocked.returncode, "out/train.jsonl cannot be written: " in blocked.stderr) == (2, True)
    nothing = run(POINTSMAN_LEDGER__URL=f"sqlite:///{tmp_path / 'other.db'}")
    assert nothing.returncode == 2
    assert "ledger.text is off, so no prompts are kept" in nothing.stderr


def test_difficulty_and_cascade_models_are_fitted_on_what_shadow_scoring_found(site: Site) -> None:
    config = write_config(site.fill())
    specialist = load_catalog(site.settings()).specialist("support")
    assert specialist is not None
    draw = random.Random(2)  # noqa: S311 - a sample
    asked = [
        json.loads(line)
        for line in write_outcomes(site.root / "plan.jsonl", 700).read_text(encoding="utf-8").splitlines()
    ]
    rows: list[Entry | Comparison] = []
    for i, line in enumerate(asked):
        right = line["quality_local"]
        logprobs = [-draw.expovariate(20 if right else 2) for _ in range(8)]
        answer = "a b" if right else f"a made{i}"
        rows.append(local(i, prompt=line["text"], answer=answer, intent=line["topic"]))
        hashed = {"answers_hash": specialist.answers_hash, "logprobs": json.dumps(logprobs)}
        rows.append(compared(i, agrees=right, **hashed))
    url = write_rows(site.root, *rows)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pointsman", *arguments, "--config", str(config)], cwd=site.root, capture_output=True,
            text=True, timeout=240, check=False, env=os.environ | {"POINTSMAN_LEDGER__URL": url},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("export", "out", "--format", "outcomes")
    run("export", "out", "--format", "answers")
    said = run("difficulty", "fit", "--data", "out/outcomes.jsonl", "--out", "d.npz", "--target", "0.8")
    assert "500 training and 200 calibration labels, 2 topics" in said
    assert load(site.root / "d.npz").difficulty.on
    assert "support: 700 answers" in run("cascade", "fit", "--data", "out/answers.jsonl", "--risk", "0.2")
    (model,) = read_cascade(site.root / "cascade.json").models
    assert model.holds
    assert model.kept > 0.2


def test_comparisons_are_labels_of_the_difficulty_and_cascade_models(tmp_path: Path) -> None:
    support = make_specialist("support")
    rows: list[Entry | Comparison] = []
    for i in range(6):
        more = {"prompt": f"where is parcel {i}", "answer": f"It is at {i}."} if i else {}
        rows += [
            local(i, intent="parcel", **more),
            compared(i, agrees=i % 2 == 0, answers_hash=support.answers_hash),
        ]
    rows.append(compared(99, agrees=True))  # its request is gone
    url = write_rows(tmp_path, *rows)

    def run(kind: str, *more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pointsman", "export", "out", "--format", kind, *more], cwd=tmp_path,
            capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"POINTSMAN_LEDGER__URL": url},
        )  # fmt: skip

    assert "5 lines to out/outcomes.jsonl" in run("outcomes").stdout
    outcomes = read_outcomes(tmp_path / "out" / "outcomes.jsonl")
    assert [(o.text, o.local, o.cloud, o.topic) for o in outcomes] == [
        (f"where is parcel {i}", float(i % 2 == 0), 1.0, "parcel") for i in range(1, 6)
    ]
    assert "5 lines to out/answers.jsonl" in run("answers", "--specialist", "support").stdout
    answers = read_answers(tmp_path / "out" / "answers.jsonl", Catalog(specialists=(support,)))
    assert answers[0] == LabelledAnswer(
        "support", "where is parcel 1", "It is at 1.", (-0.1, -0.2), False, False, support.answers_hash
    )
    none = run("answers", "--specialist", "sql")
    assert none.returncode == 2
    assert "no answers that were compared" in none.stderr
