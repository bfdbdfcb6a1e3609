"""Two versions of a specialist to what their adapters' cards say of them, as lines for a person.

A card stands beside its adapter, as `pointsman train` leaves it. What it lacks is said, not guessed. Blocking.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pointsman.artifacts.uri import FileUri, parse
from pointsman.values.catalog import Specialist

_ENDING = ".card.md"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class _File(_Part):
    file: str
    sha256: str
    examples: int


class _Figures(_Part):
    answers: int
    exact: float
    field_f1: float
    json_valid: float | None


class _Adapter(_Part):
    sha256: str


class _Facts(_Part):
    adapter: _Adapter
    system_prompt: str
    data: list[_File]
    figures: dict[str, _Figures]


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says. judged_on: name and sha256 of the file that judged; a part of the training file may have."""

    system_prompt: str
    judged_on: str
    judged_apart: bool
    figures: _Figures


def compared(live: Specialist, candidate: Specialist, folder: Path) -> list[str]:
    """Return the held-out figures of both versions' adapters, old against new, with what must be known of them.

    folder: where `file:` addresses begin
    """
    if live.adapter == candidate.adapter:
        return ["both versions have the same adapter, or none: no card tells them apart"]
    lines, cards = [], []
    for what, version in (("live", live), ("candidate", candidate)):
        found = card_of(version, folder)
        if isinstance(found, str):
            lines.append(f"{what:>9}: no held-out figures: {found}")
            continue
        cards.append(found)
        figures = found.figures
        valid = "" if figures.json_valid is None else f", {figures.json_valid:.1%} valid JSON"
        lines.append(
            f"{what:>9}: {figures.exact:.1%} of {figures.answers} held-out answers exactly right, field F1 "
            f"{figures.field_f1:.3f}{valid}; {found.judged_on}"
        )
        if version.system_prompt.strip() != found.system_prompt.strip():
            lines.append(f"{'':>9}  measured with another system prompt than its manifest has")
        if not found.judged_apart:
            lines.append(
                f"{'':>9}  kept out of the training file, and they chose the weights: a little flattering"
            )
    if len({card.judged_on for card in cards}) > 1:
        lines.append(f"{'':>9}  the two were judged on different files: the figures do not compare")
    return lines


def card_of(version: Specialist, folder: Path) -> Card | str:
    """Return what the card of a version's adapter says, or why there is none that does."""
    if version.adapter is None:
        return "it has no adapter"
    artifact = version.adapter.artifact
    where = parse(artifact.uri, folder)
    if not isinstance(where, FileUri):
        return f"{artifact.uri} is no file of this machine, so no card is beside it"
    path = where.path.with_suffix(_ENDING)
    try:
        text = path.read_text(encoding="utf-8")
        facts = _Facts.model_validate(yaml.safe_load(text.split("---\n", 2)[1]))
        figures = facts.figures["adapter"]
        file = facts.data[-1]
    except FileNotFoundError:
        return f"there is no {path.name} beside the adapter"
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, LookupError) as error:
        return f"{path.name} cannot be read as a card ({type(error).__name__})"
    if facts.adapter.sha256 != artifact.sha256:
        return f"{path.name} is of another adapter, {facts.adapter.sha256[:12]}"
    judged_on = f"{file.file} (sha256 {file.sha256[:12]})"
    return Card(facts.system_prompt, judged_on, len(facts.data) > 1, figures)
