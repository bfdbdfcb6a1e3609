"""Routing quality on CLINC150 and BANKING77: the package's own encoder, index and calibration beside a peer.

aurelio semantic-router gets the same vectors of the same exemplars and names, and more labels
(benchmarks/aurelio_quality.py).
The test splits are read here and nowhere else, once, to print the table; nothing is chosen by them.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import report
from corpora import (
    ABOUT,
    BANKING,
    CLINC,
    NONE,
    SEEDS,
    Labels,
    Pairs,
    add_data,
    check_data,
    draw,
    draw_few,
    read_banking,
    read_clinc,
    words_of,
)
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.calibrate import Calibration, calibrate, calibrate_held_out
from pointsman.decision.cross_fit import cross_fit, cross_fit_strays, gap_of
from pointsman.decision.promise import expected_calibration_error, fit_line, sigmoid
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Rows
from pointsman.embedding.load import load_encoder
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.settings import load
from quality_table import THRESHOLDS, Figures, Peer, Result, Results, render

ROOT = Path(__file__).parent.parent
PEER = ROOT / ".venv-peers" / "bin" / "python"
REJECTION = 0.05
OUT_OF_SCOPE = 0.1
"""The share of out-of-scope prompts that confidence expects: the default of `routing.out_of_scope`."""
_TRAFFIC = 6
"""Validation prompts an intent of CLINC150: 900 beside 200 out of scope, the test split's own mixture."""
_HELD = 20
"""Training texts an intent of BANKING77 that the peer is fitted on."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """One data set: n texts with rows (n, d) and labels (n,), and the row numbers of its splits.

    intents: (C,); words: their names as words, with rows (C, d)
    traffic: labelled prompts that are neither exemplars nor test; empty where the data set has none
    """

    name: str
    intents: tuple[str, ...]
    words: tuple[str, ...]
    names: Rows
    texts: tuple[str, ...]
    rows: Rows
    labels: Labels
    train: Labels
    test: Labels
    traffic: Labels

    @property
    def classes(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a router says of m prompts, each (m,), and how long it took to fit.

    certainty: bigger is surer that the prompt is in scope
    confidence: stated probability that the class is right
    """

    predicted: Labels
    certainty: Floats
    confidence: Floats
    accepted: NDArray[np.bool_]
    fit_s: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """Labelled texts (f,) that are no exemplars, and which of the exemplars (n,) are held meanwhile."""

    fit: Labels
    kept: NDArray[np.bool_]


def main() -> None:
    arguments = _parse()
    settings = load()
    store = ArtifactStore(settings.paths.models, Path.cwd())
    encoder = load_encoder(settings.encoder, store)
    cache = EmbeddingCache(encoder, settings.paths.cache)
    peer = peer_at(arguments.peer_python)
    results: Results = {}
    with threadpool_limits(limits=1):
        for corpus in (
            clinc_corpus(arguments.data, cache, arguments.limit),
            _banking(arguments.data, cache, arguments.limit),
        ):
            labels = corpus.labels[corpus.train]
            few = [corpus.train[draw_few(labels, corpus.classes, seed)] for seed in SEEDS]
            for size, draws in (("full", [corpus.train]), ("few", few)):
                results[corpus.name, size] = [measure(corpus, drawn, peer) for drawn in draws]
    body = render(results)
    print(body)
    if arguments.out:
        versions = report.versions("faiss-cpu", "onnxruntime", "scikit-learn", "numpy")
        facts = f"Versions: {versions}\n\nEncoder: {settings.encoder.model}, sha256 {encoder.hash[:16]}…"
        limit = f" --limit {arguments.limit}" if arguments.limit else ""
        note = f"**Smoke run: at most {arguments.limit} texts an intent and split.**\n\n" if limit else ""
        command = f"python benchmarks/quality.py --data DIR{limit}"
        report.write(arguments.out, "Routing quality", f"{facts}\n\n{note}{body}", command)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    parser.add_argument("--limit", type=int, metavar="N", help="smoke run: N texts an intent and split")
    add_peer(parser)
    arguments = parser.parse_args()
    check_data(parser, arguments.data, CLINC, *BANKING)
    return arguments


def add_peer(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark ask for semantic-router's Python."""
    parser.add_argument("--peer-python", type=Path, default=PEER, help="with benchmarks/peers.txt installed")


def peer_at(python: Path) -> Path | None:
    """Return semantic-router's Python; None, and a word on it, where it is not there."""
    if python.is_file():
        return python
    _say(f"semantic-router is left out: {python} is not there (make bench installs it)")
    return None


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def clinc_corpus(folder: Path, cache: EmbeddingCache, limit: int | None = None) -> Corpus:
    """Read and embed CLINC150."""
    data = read_clinc(folder)
    test = [*data["test"], *data["oos_test"]]
    traffic = [*data["val"], *data["oos_train"], *data["oos_val"]]
    return _corpus("CLINC150", (data["train"], test, traffic), cache, limit)


def _banking(folder: Path, cache: EmbeddingCache, limit: int | None) -> Corpus:
    data = read_banking(folder)
    return _corpus("BANKING77", (data["train"], data["test"], []), cache, limit)


def _corpus(name: str, splits: Iterable[Pairs], cache: EmbeddingCache, limit: int | None) -> Corpus:
    train, test, traffic = (_cut(pairs, limit) for pairs in splits)
    intents = sorted({intent for _, intent in train if intent is not None})
    number: dict[str | None, int] = {None: NONE} | {intent: i for i, intent in enumerate(intents)}
    everything = [*train, *test, *traffic]
    texts = tuple(text for text, _ in everything)
    labels = np.array([number[intent] for _, intent in everything], np.int64)
    numbers = np.split(np.arange(len(texts)), np.cumsum([len(train), len(test)]))
    known = numbers[2]
    kept = draw(labels[known], range(len(intents)), _TRAFFIC)
    numbers[2] = np.concatenate([known[kept], known[labels[known] == NONE]])
    words = words_of(intents)
    rows = _embed(name, texts, cache)
    return Corpus(name, tuple(intents), words, cache.encode(words), texts, rows, labels, *numbers)


def _cut(pairs: Pairs, limit: int | None) -> Pairs:
    """Return `limit` texts an intent; of texts out of scope, twenty times as many."""
    if limit is None:
        return pairs
    seen: dict[str | None, int] = {}
    kept = []
    for text, intent in pairs:
        seen[intent] = seen.get(intent, 0) + 1
        if seen[intent] <= (20 * limit if intent is None else limit):
            kept.append((text, intent))
    return kept


def _embed(name: str, texts: Sequence[str], cache: EmbeddingCache) -> Rows:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"embedding {name}", total=None)
        rows = cache.encode(texts, lambda done, total: progress.update(task, completed=done, total=total))
        progress.update(task, description=f"embedded {name}", completed=len(texts), total=len(texts))
    return rows


def measure(corpus: Corpus, exemplars: Labels, peer: Path | None) -> Result:
    """Measure one draw of exemplars (n,), and semantic-router on the same by its Python."""
    name = f"{corpus.name}, {len(exemplars)} exemplars"
    _say(f"{name}: pointsman")
    rows, labels, queries = corpus.rows[exemplars], corpus.labels[exemplars], corpus.rows[corpus.test]
    begun = perf_counter()
    router = fit(rows, labels, corpus.classes, corpus.names)
    verdicts = _judge(*router, queries, perf_counter() - begun)
    ours = one = plain = _figures(corpus, verdicts)
    calibration = router[1]
    if calibration.second_head or calibration.named:
        one = _figures(corpus, _judge(*_fit_scores(rows, labels, corpus.classes), queries))
    if calibration.named:
        plain = _figures(corpus, _judge(*fit(rows, labels, corpus.classes, None), queries))
    lesson = _lesson(corpus, exemplars)
    if not lesson.kept.all():
        router = fit(rows[lesson.kept], labels[lesson.kept], corpus.classes, corpus.names)
    taught = _judge(*router, corpus.rows[lesson.fit])
    line = fit_line(_logit(taught.confidence), taught.predicted == corpus.labels[lesson.fit])
    confidence = sigmoid(line[0] * _logit(verdicts.confidence) + line[1])
    labelled = _figures(corpus, replace(verdicts, confidence=confidence))
    peers = {}
    if peer:
        _say(f"{name}: semantic-router")
        peers = _ask_peer(corpus, exemplars, lesson, peer)
    return Result(ours, one, plain, labelled, calibration.second_head, calibration.named, peers)


def fit(
    rows: Rows,
    labels: Labels,
    classes: int,
    names: Rows | None,
    out_of_scope: float = OUT_OF_SCOPE,
    seen: NDArray[np.bool_] | None = None,
    twin: tuple[Rows, Rows | None] | None = None,
) -> tuple[ExemplarIndex, Calibration]:
    """Fit as the service does; without names, as if they had lost in cross-fitting.

    twin: exemplars and names as the twin of a tuned encoder embeds them; `seen` is what that one was tuned on
    """
    judged, judged_names = twin or (rows, names)
    calibration = calibrate(judged, labels, classes, REJECTION, out_of_scope, names=judged_names, seen=seen)
    taken = names if calibration.named else None
    index = ExemplarIndex(rows, labels, classes, names=taken, second_head=calibration.second_head)
    return index, calibration


def _fit_scores(rows: Rows, labels: Labels, classes: int) -> tuple[ExemplarIndex, Calibration]:
    """Fit as if second head and names had lost in cross-fitting."""
    held = cross_fit(rows, labels, classes)
    held = replace(held, predicted=held.scores.argmax(axis=1), gap=gap_of(held.scores), second_head=False)
    strays = cross_fit_strays(rows, labels, classes, held)
    return ExemplarIndex(rows, labels, classes), calibrate_held_out(
        held, labels, REJECTION, strays, OUT_OF_SCOPE
    )


def _logit(confidence: Floats) -> Floats:
    return np.asarray(np.log(confidence / (1 - confidence)))


def _judge(
    index: ExemplarIndex, calibration: Calibration, queries: Rows, seconds: float = float("nan")
) -> Verdicts:
    found = index.score(queries)
    predicted = found.choice.argmax(axis=1)
    scores = found.scores[np.arange(len(predicted)), predicted].astype(np.float64)
    certainty = scores - calibration.offsets[predicted]
    judged = zip(predicted.tolist(), scores.tolist(), gap_of(found.choice).tolist(), strict=True)
    confidence = np.array([calibration.confidence(*one) for one in judged])
    return Verdicts(predicted, certainty, confidence, certainty >= calibration.margin, seconds)


def _ask_peer(corpus: Corpus, exemplars: Labels, lesson: Lesson, python: Path) -> dict[str, Peer]:
    """Run semantic-router on exemplars (n,); it is told no test label."""

    def texts(numbers: Labels) -> list[str]:
        return [corpus.texts[i] for i in numbers.tolist()]

    task = {
        "names": corpus.words,
        "rejection": REJECTION,
        "exemplars": texts(exemplars),
        "fit": texts(lesson.fit),
        "queries": texts(corpus.test),
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        np.savez(
            folder / "rows.npz",
            names=corpus.names,
            exemplars=corpus.rows[exemplars],
            labels=corpus.labels[exemplars],
            kept=lesson.kept,
            fit=corpus.rows[lesson.fit],
            fit_labels=corpus.labels[lesson.fit],
            queries=corpus.rows[corpus.test],
        )
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        said = subprocess.run(
            [str(python), str(ROOT / "benchmarks" / "aurelio_quality.py"), scratch],
            env=os.environ | one_thread | {"SEMANTIC_ROUTER_LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        with np.load(folder / "answers.npz") as answers:
            return {name: _peer(corpus, name, facts, answers) for name, facts in json.loads(said).items()}


def _lesson(corpus: Corpus, exemplars: Labels) -> Lesson:
    """Return validation prompts, else training texts that are not exemplars, else a fifth of the exemplars."""
    kept = np.ones(len(exemplars), np.bool_)
    if len(corpus.traffic):
        return Lesson(corpus.traffic, kept)
    rest = np.setdiff1d(corpus.train, exemplars)
    if len(rest):
        return Lesson(rest[draw(corpus.labels[rest], range(corpus.classes), _HELD)], kept)
    held = draw(corpus.labels[exemplars], range(corpus.classes), _HELD, share=5)
    kept[held] = False
    return Lesson(exemplars[held], kept)


def _peer(corpus: Corpus, name: str, facts: dict[str, Any], answers: Any) -> Peer:
    figures = {
        threshold: _figures(
            corpus,
            Verdicts(
                answers[f"{name}/predicted"],
                answers[f"{name}/score"],
                answers[f"{name}/confidence"],
                answers[f"{name}/{threshold}"],
                facts["fit_s"],
            ),
        )
        for threshold in THRESHOLDS
    }
    method = "" if facts["method"] == "platt" else f", {facts['method']}"
    names = ", with names" if facts["named"] else ""
    return Peer(f"{facts['aggregation']} of top {facts['top_k']}{method}{names}", figures)


def _figures(corpus: Corpus, verdicts: Verdicts) -> Figures:
    labels = corpus.labels[corpus.test]
    right, inside = verdicts.predicted == labels, labels != NONE
    accepted, confidence = verdicts.accepted, verdicts.confidence
    squares = (confidence - right) ** 2
    mixed = not inside.all()
    return Figures(
        accuracy=float(right[inside].mean()),
        auroc=float(roc_auc_score(inside, verdicts.certainty)) if mixed else float("nan"),
        joint=float(np.where(inside, right & accepted, ~accepted).mean()) if mixed else float("nan"),
        rejected=float(1 - accepted[inside].mean()),
        accepted_outside=float(accepted[~inside].mean()) if mixed else float("nan"),
        fit_s=verdicts.fit_s,
        ece_inside=expected_calibration_error(confidence[inside], right[inside]),
        brier_inside=float(squares[inside].mean()),
        ece=expected_calibration_error(confidence, right) if mixed else float("nan"),
        brier=float(squares.mean()) if mixed else float("nan"),
    )


if __name__ == "__main__":
    main()
