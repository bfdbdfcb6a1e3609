"""`pointsman difficulty`, as a person uses it, with the real encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pointsman.cli.difficulty import difficulty as app
from pointsman.decision.difficulty_file import load
from pointsman.errors import CatalogError, ConfigError

EASY = ("say hello to {}", "thank {} for the order", "tell {} that the parcel was sent")
HARD = ("prove the {} theorem by induction", "derive the {} equation in 7 steps", "refute the {} paradox")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pointsman.yaml").write_text(f"paths: {{cache: {tmp_path}}}\n")

    def call(*arguments: object):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def write_outcomes(path: Path, prompts: int, first: int = 0) -> Path:
    """Write prompts half of which are easy; the local side fails the others, mostly."""
    generator = np.random.default_rng(first)
    lines = []
    for i in range(first, first + prompts):
        hard = i % 2
        text = (HARD if hard else EASY)[i % 3].format(f"Name{i}")
        local = generator.random() < (0.2 if hard else 0.97)
        line = {
            "text": text,
            "quality_local": bool(local),
            "quality_cloud": 1,
            "topic": ("chat", "maths")[hard],
        }
        lines.append(json.dumps(line))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_fit_append_and_report_tell_what_stays_local(run, tmp_path):
    result = run(
        "fit", "--data", write_outcomes(tmp_path / "o.jsonl", 700), "--out", "d.npz", "--target", 0.9
    )
    assert result.exit_code == 0, result.output
    assert "500 training and 200 calibration labels, 2 topics" in result.stdout
    assert "promise: at least 90% of the cloud's quality with confidence 90%" in result.stdout

    result = run("append", "--data", write_outcomes(tmp_path / "o.jsonl", 100, 650), "--model", "d.npz")
    assert result.exit_code == 0, result.output
    assert "50 prompts appended, 50 left out" in result.stdout

    fresh = write_outcomes(tmp_path / "o.jsonl", 300, 500)
    result = run("report", "--model", "d.npz", "--data", fresh, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["training"] + found["calibration"] == 750
    assert found["data_figures"]["prompts"] == 50
    assert 0.3 < found["data_figures"]["local_share"] < 0.7
    assert {row["topic"]: row["local_share"] > 0.5 for row in found["topics"]} == {
        "chat": True,
        "maths": False,
    }

    result = run("report", "--model", "d.npz")
    assert "stays local" in result.stdout
    assert "maths" in result.stdout
    result = run("report", "--model", "d.npz", "--data", write_outcomes(tmp_path / "o.jsonl", 300))
    assert isinstance(result.exception, CatalogError)
    assert "every prompt is one that d.npz was made from" in str(result.exception)


def test_too_few_labels_make_a_file_that_is_off_until_more_come(run, tmp_path):
    result = run("fit", "--data", write_outcomes(tmp_path / "o.jsonl", 100), "--target", 0.9)
    assert result.exit_code == 1
    assert (
        "Difficulty is off: it needs 300 training and 200 calibration labels, and has 60 and 40."
        in result.stderr
    )
    assert run("report").exit_code == 0
    result = run("append", "--data", write_outcomes(tmp_path / "o.jsonl", 600, 100))
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "difficulty.npz").difficulty.on


def test_labels_that_support_no_threshold_make_fit_fail(run, tmp_path):
    lines = [{"quality_cloud": 1} | {"text": f"prompt {i}", "quality_local": 0} for i in range(500)]
    (tmp_path / "o.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = run("fit", "--data", "o.jsonl", "--target", 0.99)
    assert result.exit_code == 1
    assert "no threshold: the labels do not show" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"), [("--target", 1.5), ("--confidence", 0.2), ("--calibration-share", 0)]
)
def test_options_that_make_no_sense_are_refused(run, tmp_path, option, value):
    result = run("fit", "--data", tmp_path / "none.jsonl", option, value)
    assert isinstance(result.exception, ConfigError)
    assert option in str(result.exception)
    assert f"got {value}" in str(result.exception)
