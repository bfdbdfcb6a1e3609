"""CLINC150 and BANKING77: where they come from, how they are read, and which exemplars are drawn of them."""

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman.values.catalog import Intent

ABOUT = """\
The data is public and not part of this repository. --data names a folder with
  clinc150/data_full.json   github.com/clinc/oos-eval, data/data_full.json (CC BY 3.0)
  clinc150/domains.json     the same
  banking77/train.csv       github.com/PolyAI-LDN/task-specific-datasets, banking_data/ (CC BY 4.0)
  banking77/test.csv        the same
"""
CLINC, DOMAINS = "clinc150/data_full.json", "clinc150/domains.json"
BANKING = ("banking77/train.csv", "banking77/test.csv")
SHOTS = 10
"""Exemplars an intent where they are few."""
SEEDS = (0, 1, 2)
"""Draws of those."""
NONE = -1
"""The label of a prompt that is out of scope."""

Labels = NDArray[np.int64]
Pairs = Sequence[tuple[str, str | None]]
"""Texts, each with its intent; None is out of scope."""


def add_data(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark ask for the folder with the data."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")


def check_data(parser: argparse.ArgumentParser, folder: Path, *names: str) -> None:
    """End the benchmark with a word on where the data is from, if a file of it is not there."""
    if missing := [str(folder / name) for name in names if not (folder / name).is_file()]:
        parser.error(f"not there: {', '.join(missing)}\n{ABOUT}")


def read_clinc(folder: Path) -> dict[str, Pairs]:
    """Return the splits of CLINC150 by name; those named `oos_…` are out of scope."""
    data = json.loads((folder / CLINC).read_text(encoding="utf-8"))
    return {
        key: [(text, None if key.startswith("oos_") else intent) for text, intent in pairs]
        for key, pairs in data.items()
    }


def read_domains(folder: Path) -> dict[str, list[str]]:
    """Return the intents of CLINC150's ten domains, by domain."""
    domains: dict[str, list[str]] = json.loads((folder / DOMAINS).read_text(encoding="utf-8"))
    return domains


def read_banking(folder: Path) -> dict[str, Pairs]:
    """Return the splits of BANKING77, `train` and `test`."""
    splits: dict[str, Pairs] = {}
    for name in BANKING:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            splits[Path(name).stem] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return splits


def words_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of intents as the service reads them."""
    return tuple(Intent(name, "", ()).words for name in names)


def draw(labels: Labels, classes: Iterable[int], most: int, seed: int = 0, *, share: int = 1) -> Labels:
    """Return positions of `most` of each class at most, and of no more than one in `share`."""
    generator = np.random.default_rng(seed)
    shuffles = (generator.permutation(np.flatnonzero(labels == label)) for label in classes)
    return np.concatenate([shuffle[: min(most, len(shuffle) // share)] for shuffle in shuffles])


def draw_few(labels: Labels, classes: int, seed: int) -> Labels:
    """Return positions of the first 10 of a seeded shuffle of each class."""
    return draw(labels, range(classes), SHOTS, seed)
