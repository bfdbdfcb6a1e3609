"""`pointsman cascade collect`: labelled answers of a real engine, of a specialist and of a twin of it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters import write_adapter
from harness import Site, write_specialist
from pointsman.cli.app import app
from pointsman.errors import ConfigError, unwrap
from pointsman.host.offline import load_catalog
from pointsman.review.cascade import read_answers
from test_cascade_cli import SENTIMENT, write_config


def refusal(arguments: list[str]) -> str:
    raised = CliRunner().invoke(app, arguments).exception
    assert raised is not None
    error = unwrap(raised)
    assert isinstance(error, ConfigError)
    return str(error)


@pytest.mark.model
@pytest.mark.parametrize("constrained", ["always", "repair", "never"])
def test_collect_asks_the_engine_as_serving_does_and_labels_what_it_says(
    site: Site, base_model: Path, constrained: str
) -> None:
    config = write_config(site.fill())
    write_specialist(
        site.specialists, "mood", output=SENTIMENT | {"constrained": constrained}, max_output_tokens=8
    )
    data = site.root / "known.jsonl"
    lines = [{"user": f"I feel {i}", "answer": "positive", "system": "-"} for i in ("good", "bad")]
    data.write_text("\n".join(map(json.dumps, lines)))
    out = site.root / "answers.jsonl"
    arguments = ["cascade", "collect", "--data", str(data), "--specialist", "mood", "--out", str(out)]
    ran = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    catalog = load_catalog(site.settings())
    answers = read_answers(out, catalog)
    assert [answer.prompt for answer in answers] == ["I feel good", "I feel bad"]
    for answer in answers:
        assert (answer.answer in {"positive", "negative"}) == (constrained != "never")
        assert answer.right == (answer.answer == "positive")
        assert answer.repaired == (constrained == "repair")
        assert not answer.twin
        assert answer.logprobs


@pytest.mark.model
def test_collect_asks_a_twin_in_place_of_the_specialist(site: Site, base_model: Path) -> None:
    config = write_config(site.fill())
    write_specialist(site.specialists, "mood", output=SENTIMENT, max_output_tokens=8)
    data = site.root / "known.jsonl"
    data.write_text(json.dumps({"user": "I feel good", "answer": "positive"}))
    out, adapter = site.root / "answers.jsonl", site.root / "twin.gguf"
    arguments = ["cascade", "collect", "--data", str(data), "--specialist", "mood", "--out", str(out)]
    arguments += ["--config", str(config), "--adapter", str(adapter)]
    assert "--adapter: cannot be read" in refusal(arguments)
    sha256 = write_adapter(adapter, base_model)
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    assert "1 answers of a twin of mood" in ran.output
    catalog = load_catalog(site.settings())
    (answer,) = read_answers(out, catalog)
    mood = catalog.specialist("mood")
    assert mood is not None
    assert answer.twin
    assert answer.logprobs
    assert answer.answers_hash == mood.answers_hash
    # What is the specialist's own adapter anyway is no twin.
    own = {"uri": f"file:{adapter}", "sha256": sha256}
    write_specialist(site.specialists, "mood", output=SENTIMENT, adapter=own)
    assert "is what mood answers with anyway" in refusal(arguments)
