"""Small values for tests: intents, specialists, and unit rows that cluster by class."""

from pathlib import Path

import numpy as np
from hypothesis import settings
from numpy.typing import NDArray

from pointsman.embedding.encoder import Rows
from pointsman.values.catalog import Artifact, Intent, Specialist

# A busy machine is no failure; pytest-timeout ends what hangs.
settings.register_profile("pointsman", deadline=None)
settings.load_profile("pointsman")

SHA = "ab" * 32
BASE = Artifact("file:base.gguf", SHA)


def make_intent(
    name: str = "refund", target: str = "support", exemplars: tuple[str, ...] = ("money back", "a refund")
) -> Intent:
    return Intent(name=name, target=target, exemplars=exemplars)


def make_specialist(name: str = "support", task_types: tuple[str, ...] = (), **fields: object) -> Specialist:
    return Specialist(name=name, base=BASE, task_types=task_types, **fields)  # type: ignore[arg-type]


def write_intent(
    folder: Path, file: str, name: str = "refund", target: str = "support", more: str = ""
) -> Path:
    """Write an intent file of seven lines, then `more`."""
    lines = [
        "# a comment",
        f"name: {name}",
        "description: For people.",
        f"target: {target}",
        "exemplars:",
        f"  - first of {name}",
        f"  - second of {name}",
    ]
    return _write(folder / file, "\n".join([*lines, more]))


def write_specialist(folder: Path, file: str, name: str = "support", more: str = "") -> Path:
    """Write a specialist file of four lines, then `more`."""
    text = f"name: {name}\nbase:\n  uri: {BASE.uri}\n  sha256: {SHA}\n{more}"
    return _write(folder / file, text)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def unit_rows(generator: np.random.Generator, n: int, d: int) -> Rows:
    """Return n random directions, (n, d)."""
    return normalised(generator.normal(size=(n, d)))


def clustered_rows(
    generator: np.random.Generator, labels: NDArray[np.int64], d: int, spread: float = 0.4
) -> Rows:
    """Return a unit row a label, (n, d): its class's direction, moved by about `spread`."""
    centres = unit_rows(generator, int(labels.max()) + 1, d)
    noise = generator.normal(size=(len(labels), d)) * spread / np.sqrt(d)
    return normalised(centres[labels] + noise)


def normalised(rows: NDArray[np.float64]) -> Rows:
    """Return rows of length one, (n, d)."""
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)
