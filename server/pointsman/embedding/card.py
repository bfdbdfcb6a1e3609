"""The card of a tuned encoder: what it was made from, what it has seen, and whether it won."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pointsman.artifacts import verdict
from pointsman.errors import ArtifactError

CARD_FILE = "card.json"
GRAPH_FILE = "model.onnx"
TWIN_FILE = "twin.onnx"
"""The graph that was tuned without the kept-out exemplars: thresholds come from what it says of them."""
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Card:
    """JSON beside the graph. Texts stand in it as sha256 only: exemplars may be private.

    seen, held_out: sha256 of texts that the twin was tuned on, and of exemplars kept out of it; the other graph saw both
    frozen_right, tuned_right: how many of the kept-out ones the frozen encoder and the twin gave to their own intent
    epochs: of the twin; passes_on_all: of the other graph
    """

    base_model: str
    base_hash: str
    created: str
    adopted: bool
    frozen_right: int
    tuned_right: int
    recipe: dict[str, float]
    epochs: list[dict[str, float]]
    cosine_to_torch: float
    quantised: bool
    sha256: dict[str, str]
    exemplars_sha256: str
    seen: list[str]
    held_out: list[str]
    passes_on_all: int = 0

    def write(self, folder: Path) -> None:
        """Write `card.json`."""
        text = json.dumps(asdict(self), indent=2)
        (folder / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_card(folder: Path) -> Card:
    """Return the card of a folder whose files are the ones it names.

    Raises:
        ArtifactError: no card, not a card, not adopted, or files that were changed after it was written.

    """
    path = folder / CARD_FILE
    try:
        card = Card(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not the card of a tuned encoder: {error}") from None
    if not card.adopted:
        raise ArtifactError(
            f"{path}: this encoder did not win: {card.tuned_right} of {len(card.held_out)} kept-out exemplars "
            f"right, {card.frozen_right} by {card.base_model}"
        )
    for name, promised in card.sha256.items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file}: no such file; {CARD_FILE} names it")
        if (found := verdict.sha256_of(file)) != promised:
            raise ArtifactError(f"{file}: sha256 is {found}, {CARD_FILE} says {promised}")
    return card


def sha256_of(text: str) -> str:
    """Return the hexadecimal sha256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_of_all(names: Sequence[str], texts: Sequence[str]) -> str:
    """Return one sha256 over exemplars with the names of their intents, whatever their order."""
    return sha256_of(json.dumps(sorted(zip(names, texts, strict=True))))
