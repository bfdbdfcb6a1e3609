"""The card of an adapter: Markdown for people, headed by YAML for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import yaml

from pointsman.training.agreement import Agreement
from pointsman.training.evaluate import Figures
from pointsman.training.examples import ExampleFile
from pointsman.training.lora import Judged, Recipe
from pointsman.values.catalog import Artifact

_PACKAGES = ("torch", "transformers", "peft", "gguf", "xllamacpp")


@dataclass(frozen=True, slots=True)
class Card:
    """All that is known of a trained adapter. Files stand in it by name and sha256, never by place.

    held_out: the file that it was judged on; None where it was a part of the training file
    figures: by way of answering, in the order in which they are shown
    """

    name: str
    created: str
    adapter_sha256: str
    base: Artifact
    system: str
    train: ExampleFile
    held_out: ExampleFile | None
    recipe: Recipe
    precision: str
    device: str
    threads: int
    trained_on: int
    kept_out: int
    steps: int
    seconds: float
    judged: Sequence[Judged]
    unquantised: Agreement
    quantised: Agreement
    figures: dict[str, Figures]

    def to_text(self) -> str:
        """Return the card."""
        head = yaml.safe_dump(self._facts(), sort_keys=False, allow_unicode=True, width=100)
        return f"---\n{head}---\n\n{self._prose()}"

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "created": self.created,
            "adapter": {"sha256": self.adapter_sha256},
            "base": asdict(self.base),
            "system_prompt": self.system,
            "data": [_file(self.train)] + ([_file(self.held_out)] if self.held_out else []),
            "recipe": asdict(self.recipe),
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
            "trained_on": self.trained_on,
            "kept_out": self.kept_out,
            "steps": self.steps,
            "minutes": round(self.seconds / 60, 1),
            "held_out_loss": [asdict(judged) for judged in self.judged],
            "agreement": {
                "unquantised_base": asdict(self.unquantised),
                "served_base": asdict(self.quantised),
            },
            "figures": {way: asdict(figures) for way, figures in self.figures.items()},
            "versions": {name: version(name) for name in _PACKAGES},
        }

    def _prose(self) -> str:
        where = (
            f"`{self.held_out.path.name}`, which took no part in the training"
            if self.held_out
            else "examples kept out of the training, which also chose the weights: a little flattering"
        )
        made = (
            f"LoRA of rank {self.recipe.rank} over `{self.base.uri}`, trained for "
            f"{self.seconds / 60:.0f} minutes on {self.trained_on} examples of `{self.train.path.name}`."
        )
        agreed = (
            f"The engine and the trained model name the same next token at {self.unquantised.equal} of "
            f"{self.unquantised.tokens} places over the base without quantisation, and at "
            f"{self.quantised.equal} of {self.quantised.tokens} over the base as it is served."
        )
        return "\n".join(
            [
                f"# Adapter {self.name}",
                "",
                made,
                f"It serves with the system prompt that it was trained with: {json.dumps(self.system)}.",
                "",
                f"Measured through the engine, greedy, on {where}:",
                "",
                table(self.figures),
                "",
                agreed,
                "",
            ]
        )


def table(figures: dict[str, Figures]) -> str:
    """Return the figures of each way as a Markdown table."""
    lines = [
        "| | answers | exactly right | field F1 | JSON | AUROC: mean / least / three least | tokens/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, found in figures.items():
        sure = found.confidence
        aurocs = f"{sure.mean:.2f} / {sure.least:.2f} / {sure.three_least:.2f}" if sure else "–"
        valid = "–" if found.json_valid is None else f"{found.json_valid:.1%}"
        lines.append(
            f"| {way} | {found.answers} | {found.exact:.1%} | {found.field_f1:.3f} | {valid} | {aurocs} "
            f"| {found.tokens_per_s:.0f} |"
        )
    return "\n".join(lines)


def _file(data: ExampleFile) -> dict[str, Any]:
    return {
        "file": data.path.name,
        "sha256": data.sha256,
        "examples": len(data.examples),
        "duplicates_dropped": len(data.duplicates),
        "leaks_dropped": len(data.leaks),
    }
