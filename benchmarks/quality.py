"""Routing quality on CLINC150 and BANKING77, from the package's own encoder, index and calibration.

The test splits are read here and nowhere else, once, to print the table; nothing is chosen by them.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

import report
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.calibrate import calibrate
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Rows
from pointsman.embedding.load import load_encoder
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.settings import load

ABOUT = """\
The data is public and not part of this repository. --data names a folder with
  clinc150/data_full.json   github.com/clinc/oos-eval, data/data_full.json (CC BY 3.0)
  banking77/train.csv       github.com/PolyAI-LDN/task-specific-datasets, banking_data/ (CC BY 4.0)
  banking77/test.csv        the same
"""
_FILES = ("clinc150/data_full.json", "banking77/train.csv", "banking77/test.csv")
REJECTION = 0.05
SHOTS = 10
SEEDS = (0, 1, 2)
_BLOCK = 512
"""Queries compared at a time by the reference rules."""

Labels = NDArray[np.int64]

AIMS = {
    ("CLINC150", "all"): ("93.2", "97.8", "89.6"),
    ("CLINC150", "few"): ("89.2", "96.9", "86.2"),
    ("BANKING77", "all"): ("92.1",),
    ("BANKING77", "few"): ("86.0",),
}


Pairs = Sequence[tuple[str, str]]
"""Texts, each with its intent."""


@dataclass(frozen=True, slots=True)
class Texts:
    """One data set as it is published."""

    train: Pairs
    test: Pairs
    oos: Pairs


@dataclass(frozen=True, slots=True)
class Part:
    """Embedded texts (n, d) with their labels (n,)."""

    rows: Rows
    labels: Labels


@dataclass(frozen=True, slots=True)
class Corpus:
    """One data set; `oos` is None where it has no out-of-scope test prompts."""

    name: str
    classes: int
    train: Part
    test: Part
    oos: Rows | None  # (k, d)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule says of prompts: class (m,) and how sure it is (m,); bigger is surer."""

    predicted: Labels
    certainty: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in [0, 1]; NaN where a figure does not exist."""

    accuracy: float
    auroc: float
    joint: float
    rejected: float


def main() -> None:
    arguments = _parse()
    settings = load()
    store = ArtifactStore(settings.paths.models, Path.cwd())
    encoder = load_encoder(settings.encoder, store)
    cache = EmbeddingCache(encoder, settings.paths.cache)
    with threadpool_limits(limits=1):
        corpora = [
            _clinc(arguments.data / "clinc150" / "data_full.json", cache, arguments.limit),
            _banking(arguments.data / "banking77", cache, arguments.limit),
        ]
        rows = [row for corpus in corpora for row in _measure(corpus)]
    headers = ["", "accuracy", "OOS AUROC", "joint accuracy", "in-scope rejected", "aim"]
    results = report.table(headers, rows)
    print(results)
    if arguments.out:
        versions = report.versions("faiss-cpu", "onnxruntime", "numpy")
        facts = f"Versions: {versions}\n\nEncoder: {settings.encoder.model}, sha256 {encoder.hash[:16]}…"
        body = f"{facts}\n\n{_limited(arguments.limit)}{results}\n\n{_LEGEND}"
        limit = f" --limit {arguments.limit}" if arguments.limit else ""
        report.write(
            arguments.out, "Routing quality", body, f"python benchmarks/quality.py --data DIR{limit}"
        )


_LEGEND = f"""\
In percent. With {SHOTS} exemplars an intent: the mean over seeds {", ".join(map(str, SEEDS))}, and in \
brackets the least and the greatest.

- pointsman: `ExemplarIndex` and `calibrate` as shipped, at a nominal rejection of {REJECTION:.0%}; the \
threshold comes from the exemplars alone, no out-of-scope prompt is seen before the test.
- accuracy: in-scope test prompts whose best class is right, rejection left aside.
- OOS AUROC: how often an in-scope test prompt is surer than an out-of-scope one. Surer: \
score less the class's offset (pointsman), greatest cosine (1-NN), mean cosine of the winner (top 5).
- joint accuracy: over in-scope and out-of-scope test prompts together; right is an accepted prompt \
with the right intent, or a rejected out-of-scope prompt.
- in-scope rejected: in-scope test prompts below the threshold.
- 1-NN and mean of top 5: reference rules on the same vectors. The second groups the five nearest \
exemplars by intent and takes the greatest mean, the default of aurelio semantic-router 1.1.1.
- aim: accuracy / OOS AUROC / joint accuracy that the design set out to reach with this encoder."""


def _limited(limit: int | None) -> str:
    return f"**Smoke run: at most {limit} texts an intent and split.**\n\n" if limit else ""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    parser.add_argument("--limit", type=int, metavar="N", help="smoke run: N texts an intent and split")
    arguments = parser.parse_args()
    wanted = [arguments.data / name for name in _FILES]
    if missing := [str(path) for path in wanted if not path.is_file()]:
        parser.error(f"not there: {', '.join(missing)}\n{ABOUT}")
    return arguments


# --- data ---------------------------------------------------------------------------------------


def _clinc(path: Path, cache: EmbeddingCache, limit: int | None) -> Corpus:
    data = json.loads(path.read_text(encoding="utf-8"))
    keys = ("train", "test", "oos_test")
    train, test, oos = ([(text, intent) for text, intent in data[key]] for key in keys)
    return _corpus("CLINC150", Texts(train, test, oos), cache, limit)


def _banking(folder: Path, cache: EmbeddingCache, limit: int | None) -> Corpus:
    parts = {}
    for key in ("train", "test"):
        with (folder / f"{key}.csv").open(encoding="utf-8", newline="") as file:
            parts[key] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return _corpus("BANKING77", Texts(parts["train"], parts["test"], []), cache, limit)


def _corpus(name: str, texts: Texts, cache: EmbeddingCache, limit: int | None) -> Corpus:
    train, test, oos = texts.train, texts.test, texts.oos
    intents = sorted({intent for _, intent in train})
    number = {intent: i for i, intent in enumerate(intents)}
    train, test = _cut(train, limit), _cut(test, limit)
    oos = oos[: limit * len(intents) // 4] if limit else oos
    rows = _embed(name, [text for part in (train, test, oos) for text, _ in part], cache)
    ends = np.cumsum([len(train), len(test)])
    return Corpus(
        name,
        len(intents),
        Part(rows[: ends[0]], np.array([number[intent] for _, intent in train], np.int64)),
        Part(rows[ends[0] : ends[1]], np.array([number[intent] for _, intent in test], np.int64)),
        rows[ends[1] :] if oos else None,
    )


def _cut(pairs: Pairs, limit: int | None) -> Pairs:
    if limit is None:
        return pairs
    seen: dict[str, int] = {}
    kept = []
    for text, intent in pairs:
        seen[intent] = seen.get(intent, 0) + 1
        if seen[intent] <= limit:
            kept.append((text, intent))
    return kept


def _embed(name: str, texts: Sequence[str], cache: EmbeddingCache) -> Rows:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"embedding {name}", total=None)
        rows = cache.encode(texts, lambda done, total: progress.update(task, completed=done, total=total))
        progress.update(task, description=f"embedded {name}", completed=len(texts), total=len(texts))
    return rows


# --- rules --------------------------------------------------------------------------------------


def _pointsman(corpus: Corpus, train: Part) -> Figures:
    index = ExemplarIndex(train.rows, train.labels, corpus.classes)
    calibration = calibrate(train.rows, train.labels, corpus.classes, REJECTION)

    def judge(queries: Rows) -> Outcome:
        scores = index.score(queries).scores
        predicted = scores.argmax(axis=1)
        return Outcome(predicted, scores.max(axis=1) - calibration.offsets[predicted])

    test = judge(corpus.test.rows)
    right = test.predicted == corpus.test.labels
    accepted = test.certainty >= calibration.margin
    rejected = float(1 - accepted.mean())
    if corpus.oos is None:
        return Figures(float(right.mean()), float("nan"), float("nan"), rejected)
    oos = judge(corpus.oos)
    refused = oos.certainty < calibration.margin
    joint = ((right & accepted).sum() + refused.sum()) / (len(right) + len(refused))
    return Figures(float(right.mean()), _auroc(test.certainty, oos.certainty), float(joint), rejected)


def _reference(corpus: Corpus, train: Part, hits: int) -> Figures:
    """Score the rule 'greatest mean cosine among the `hits` nearest exemplars, by intent'; 1 is 1-NN."""
    test = _nearest(corpus.test.rows, train, hits)
    accuracy = float((test.predicted == corpus.test.labels).mean())
    if corpus.oos is None:
        return Figures(accuracy, float("nan"), float("nan"), float("nan"))
    auroc = _auroc(test.certainty, _nearest(corpus.oos, train, hits).certainty)
    return Figures(accuracy, auroc, float("nan"), float("nan"))


def _nearest(queries: Rows, train: Part, hits: int) -> Outcome:
    predicted, certainty = [], []
    for start in range(0, len(queries), _BLOCK):
        similarities = queries[start : start + _BLOCK] @ train.rows.T  # (b, n)
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :hits]  # (b, h)
        values = np.take_along_axis(similarities, nearest, axis=1).astype(np.float64)
        owners = train.labels[nearest]
        same = owners[:, :, None] == owners[:, None, :]  # (b, h, h)
        means = (same * values[:, None, :]).sum(axis=2) / same.sum(axis=2)  # (b, h)
        best = means.argmax(axis=1)
        rows = np.arange(len(best))
        predicted.append(owners[rows, best])
        certainty.append(means[rows, best])
    return Outcome(np.concatenate(predicted), np.concatenate(certainty))


def _auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Return P(inside > outside) + ½ P(equal): Mann and Whitney's U over all pairs."""
    outside = np.sort(outside)
    below = np.searchsorted(outside, inside, side="left")
    upto = np.searchsorted(outside, inside, side="right")
    return float((below + upto).mean() / (2 * len(outside)))


# --- table --------------------------------------------------------------------------------------


def _measure(corpus: Corpus) -> list[list[str]]:
    few = [_few(corpus.train, corpus.classes, seed) for seed in SEEDS]
    rows = []
    for key, label, trains in (("all", "full", [corpus.train]), ("few", f"{SHOTS} an intent", few)):
        name = f"{corpus.name} {label}"
        ours = [_pointsman(corpus, train) for train in trains]
        rows.append([f"**{name}: pointsman**", *_cells(ours), " / ".join(AIMS[corpus.name, key])])
        for rule, hits in (("1-NN", 1), ("mean of top 5", 5)):
            figures = [_reference(corpus, train, hits) for train in trains]
            rows.append([f"{name}: {rule}", *_cells(figures), report.NOTHING])
    return rows


def _few(train: Part, classes: int, seed: int) -> Part:
    """Return the first 10 of a seeded shuffle of each intent."""
    generator = np.random.default_rng(seed)
    shuffles = (generator.permutation(np.flatnonzero(train.labels == label)) for label in range(classes))
    picked = np.concatenate([shuffle[:SHOTS] for shuffle in shuffles])
    return Part(train.rows[picked], train.labels[picked])


def _cells(figures: Sequence[Figures]) -> list[str]:
    return [_cell([getattr(figure, field.name) for figure in figures]) for field in fields(Figures)]


def _cell(values: Sequence[float]) -> str:
    percent = 100 * np.asarray(values)
    if np.isnan(percent).any():
        return report.NOTHING
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{percent.mean():.1f} ({percent.min():.1f}-{percent.max():.1f})"


if __name__ == "__main__":
    main()
