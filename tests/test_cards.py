"""Held-out figures of two versions, from the cards beside their adapters."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from builders import make_specialist
from harness import Site, write_specialist
from pointsman.cli.app import app
from pointsman.host.cards import compared
from pointsman.values.catalog import Adapter, Artifact, Specialist

FIGURES = {"answers": 300, "exact": 0.983, "field_f1": 0.9934, "json_valid": None}
FILES = [{"file": f"{part}.jsonl", "sha256": f"{n}" * 64, "examples": 300} for n, part in enumerate("ab")]


def version(sha256: str, uri: str, prompt: str = "Sort.") -> Specialist:
    return make_specialist(system_prompt=prompt, adapter=Adapter(Artifact(uri, sha256)))


def write_card(path: Path, sha256: str, **changes: object) -> None:
    head = {
        "name": "support",
        "adapter": {"sha256": sha256},
        "system_prompt": "Sort.",
        "data": FILES,
        "figures": {"zero-shot": FIGURES | {"exact": 0.0}, "adapter": FIGURES},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"---\n{yaml.safe_dump(head | changes)}---\n\n# Adapter\n\n---\n")


OLD = version("a" * 64, "file:adapters/old.gguf")
NEW = version("b" * 64, "file:adapters/new.gguf")


def test_figures_are_shown_old_against_new(tmp_path: Path) -> None:
    write_card(tmp_path / "adapters" / "old.card.md", "a" * 64)
    better = FIGURES | {"exact": 0.99, "json_valid": 1.0}
    write_card(tmp_path / "adapters" / "new.card.md", "b" * 64, figures={"adapter": better})
    assert compared(OLD, NEW, tmp_path) == [
        "     live: 98.3% of 300 held-out answers exactly right, field F1 0.993; b.jsonl (sha256 111111111111)",
        (
            "candidate: 99.0% of 300 held-out answers exactly right, field F1 0.993, 100.0% valid JSON; "
            "b.jsonl (sha256 111111111111)"
        ),
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adapter": {"sha256": "c" * 64}}, "new.card.md is of another adapter, cccccccccccc"),
        ({"data": FILES[:1]}, "kept out of the training file"),
        ({"data": [*FILES[:1], FILES[1] | {"sha256": "9" * 64}]}, "judged on different files"),
        ({"system_prompt": "Sort well."}, "another system prompt"),
        ({"figures": {}}, "cannot be read as a card (KeyError)"),
        ({"figures": {"adapter": {"exact": "all"}}}, "cannot be read as a card (ValidationError)"),
    ],
)
def test_what_a_card_lacks_is_said(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    write_card(tmp_path / "adapters" / "old.card.md", "a" * 64)
    write_card(tmp_path / "adapters" / "new.card.md", "b" * 64, **changes)
    lines = compared(OLD, NEW, tmp_path)
    assert lines[0].startswith("     live: 98.3%")
    assert says in "\n".join(lines[1:])


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (version("b" * 64, "file:elsewhere/new.gguf"), "there is no new.card.md beside the adapter"),
        (version("b" * 64, "hf:org/repo/new.gguf"), "is no file of this machine"),
        (make_specialist(), "it has no adapter"),
    ],
)
def test_a_version_without_a_card_says_why(tmp_path: Path, candidate: Specialist, says: str) -> None:
    write_card(tmp_path / "adapters" / "old.card.md", "a" * 64)
    (live, other) = compared(OLD, candidate, tmp_path)
    assert "98.3%" in live
    assert other.startswith("candidate: no held-out figures: ")
    assert says in other
    assert "the same adapter" in compared(OLD, OLD, tmp_path)[0]


def test_the_card_of_a_shipped_adapter_is_read() -> None:
    folder = Path(__file__).parent.parent / "specialists"
    stated = yaml.safe_load((folder / "support.yaml").read_text())
    shipped = version(stated["adapter"]["sha256"], stated["adapter"]["uri"], stated["system_prompt"])
    (line, _) = compared(shipped, make_specialist(), folder)
    assert "of 300 held-out answers exactly right" in line


def test_promote_shows_the_figures(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_PATHS__INTENTS", str(site.intents))
    monkeypatch.setenv("POINTSMAN_PATHS__SPECIALISTS", str(site.specialists))
    manifest = {"adapter": {"uri": "file:adapters/old.gguf", "sha256": "a" * 64}, "system_prompt": "Sort."}
    write_specialist(site.specialists, "support", **manifest)
    manifest["adapter"] = {"uri": "file:adapters/new.gguf", "sha256": "b" * 64}
    candidate = write_specialist(site.root / "new", "support", **manifest)
    write_card(site.specialists / "adapters" / "old.card.md", "a" * 64)
    promote = ["specialists", "promote", "support", "--candidate", str(candidate)]
    said = CliRunner().invoke(app, promote).output.splitlines()
    assert said[0].startswith("     live: 98.3% of 300")
    assert said[1] == "candidate: no held-out figures: there is no new.card.md beside the adapter"
    assert said[2].startswith("support: the candidate is in shadow for 10% of requests")
