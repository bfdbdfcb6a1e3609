"""Difficulty on MMLU outcomes of GPT-4 and Mixtral: what routing by it saves, and whether it keeps its promise.

Every figure is of prompts that nothing was fitted on; nothing is chosen by them.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

import report
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.difficulty import QualityPromise, fit, safe_threshold
from pointsman.decision.difficulty_file import load as load_file
from pointsman.decision.difficulty_file import save
from pointsman.decision.estimator import Estimator, estimate
from pointsman.decision.outcomes import Outcomes, make_outcomes
from pointsman.decision.ridge import choose_alpha, no_moments, text_features
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.load import load_encoder
from pointsman.index.outcome_index import OutcomeIndex
from pointsman.review.difficulty import Kept, measure
from pointsman.review.metrics import Share
from pointsman.settings import load

ABOUT = """\
The data is public and not part of this repository. --data names a folder with
  outcomes/mmlu_gpt4_mixtral.parquet   columns prompt, domain, strong (GPT-4 right), weak (Mixtral right),
                                       from the evaluation files of github.com/lm-sys/RouteLLM (Apache-2.0)
"""
_FILE = "outcomes/mmlu_gpt4_mixtral.parquet"
FOLDS = 5
SEEDS = (0, 1, 2)
BINS = 10
"""Thresholds that RouteLLM's evaluation tries, by default."""
CONFIDENCE = 0.9
LABELS = 10_000
_TIMED = 2000
_ASSIGNED = (4000, 1000)
_LEAST = (300, 200)

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Labelled prompts (n); `groups` (n,) is equal for equal texts, so that none is on both sides."""

    texts: tuple[str, ...]
    labels: Outcomes
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Saving:
    """RouteLLM's figures; calls in percent."""

    apgr: float
    cpt50: float
    cpt80: float


def main() -> None:
    arguments = _parse()
    settings = load()
    encoder = load_encoder(settings.encoder, ArtifactStore(settings.paths.models, Path.cwd()))
    corpus = _corpus(arguments.data / _FILE, EmbeddingCache(encoder, settings.paths.cache), arguments.limit)
    with threadpool_limits(limits=1):
        saving = report.table(["5-fold", "APGR", "CPT50, %", "CPT80, %"], _saving_rows(corpus))
        headers = ["promise", "local, %", "quality kept, %", "target met", "aim"]
        promise = report.table(headers, _promise_rows(corpus, arguments.splits))
        cost = report.table(["at 10,000 labels, one thread", "p50", "p95"], _time_rows(corpus, encoder.hash))
    n, rest = len(corpus.texts), len(corpus.texts) - sum(_ASSIGNED)
    results = (
        f"{saving}\n\n{_SAVING}\n\n{promise}\n\n"
        f"{_promise_legend(arguments.splits, rest)}\n\n{cost}\n\n{_COST}"
    )
    print(results)
    if arguments.out:
        facts = f"Versions: {report.versions('faiss-cpu', 'numpy', 'onnxruntime')}\n\nEncoder: \
{settings.encoder.model}, sha256 {encoder.hash[:16]}…\n\nData: {n:,} prompts of {_FILE}; the cloud (GPT-4) is \
right on {corpus.labels.cloud.mean():.1%}, the local model (Mixtral) on {corpus.labels.local.mean():.1%}. The \
topic of a prompt is its MMLU subject."
        smoke = f"**Smoke run: {arguments.limit} prompts.**\n\n" if arguments.limit else ""
        limit = f" --limit {arguments.limit}" if arguments.limit else ""
        command = f"python benchmarks/difficulty.py --data DIR --splits {arguments.splits}{limit}"
        report.write(arguments.out, "Difficulty", f"{facts}\n\n{smoke}{results}", command)


_SAVING = f"""\
Mean over fold seeds {", ".join(map(str, SEEDS))}, in brackets the least and the greatest; every prompt is scored \
by a model of the other four folds, and equal texts are in one fold.

- As RouteLLM's evaluation defines them: the strong model answers from a threshold on, which takes the {BINS + 1} \
edges of {BINS} equal bins of the scores; PGR = (r − weak) / (strong − weak), r the share of right answers; APGR is \
the area under PGR over the share of strong calls (trapezoids); CPT(x) the share of strong calls at which PGR \
reaches x (linear between the points). Ours is the mean of all prompts, with the out-of-fold scores together.
- no topics: the same without the topic of a prompt; perfect: an oracle that knows both answers."""

_COST = """\
- judge: everything that difficulty adds to a prompt whose embedding is there: text features, search, ridge, \
verdict. The aim is at most 1 ms.
- append: a new model with the labels in it and its threshold set anew on 1,000 calibration prompts; the old one \
serves meanwhile.
- fit and load: 10,000 training and 1,000 calibration labels."""


def _promise_legend(splits: int, rest: int) -> str:
    training, calibration = _ASSIGNED
    z = NormalDist().inv_cdf(CONFIDENCE)
    met = NormalDist().cdf(z / math.sqrt(1 + calibration / rest))
    return f"""\
{splits} random splits of the prompts into training, calibration and the rest, on which it is measured; confidence \
{CONFIDENCE:.0%}. Mean over splits, in brackets the least and the greatest.

- quality kept: mean quality of the answers, as a share of the cloud's, on the rest.
- target met: the share of splits in which that was at least the target; in brackets its 95 % interval if splits \
were independent. The promise is about the mean of all traffic, and the rest is a sample of it that errs the other \
way than the calibration prompts do, both being drawn from one pool: with {training:,} / {calibration:,}, a promise \
that holds in exactly {CONFIDENCE:.0%} is met in about {met:.1%} of splits."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with the data")
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    parser.add_argument("--splits", type=int, default=400, metavar="N", help="random splits (400)")
    parser.add_argument("--limit", type=int, metavar="N", help="smoke run: N prompts, at least 12,100")
    arguments = parser.parse_args()
    if not (arguments.data / _FILE).is_file():
        parser.error(f"not there: {arguments.data / _FILE}\n{ABOUT}")
    if arguments.splits < 1 or (arguments.limit or 12_100) < 12_100:
        parser.error("--splits must be at least 1, and --limit at least 12,100")
    return arguments


@contextmanager
def _bar(what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done, all_of_them: progress.update(task, completed=done, total=all_of_them)


def _corpus(path: Path, cache: EmbeddingCache, limit: int | None) -> Corpus:
    table = pyarrow.parquet.read_table(path)
    columns = {name: table[name].to_pylist()[:limit] for name in ("prompt", "domain", "weak", "strong")}
    texts = columns["prompt"]
    with _bar("embedding") as told:
        rows = cache.encode(texts, told)
    labels = make_outcomes(rows, texts, columns["domain"], columns["weak"], columns["strong"])
    _, groups = np.unique(np.array(texts, dtype=object), return_inverse=True)
    return Corpus(tuple(texts), labels, groups)


# --- saving -------------------------------------------------------------------------------------


def _saving_rows(corpus: Corpus) -> list[list[str]]:
    labels = corpus.labels
    untold = replace(labels, topics=(None,) * len(labels))
    figures: dict[str, list[Saving]] = {}
    with _bar("folds") as told:
        for number, seed in enumerate(SEEDS):
            folds = np.random.default_rng(seed).permutation(corpus.groups.max() + 1)[corpus.groups] % FOLDS
            found = {name: np.empty(len(labels)) for name in ("both", "near", "ridge", "untold")}
            for fold in range(FOLDS):
                train, test = folds != fold, folds == fold
                held = labels.take(test)
                model = _model(labels.take(train))
                found["near"][test] = model.score_by_neighbours(held.rows, held.topics)
                found["ridge"][test] = model.ridge.predict(held.rows, held.features)
                found["both"][test] = model.score(held.rows, held.features, held.topics)
                blind = _model(untold.take(train))
                found["untold"][test] = blind.score(held.rows, held.features, (None,) * len(held))
                told(number * FOLDS + fold + 1, len(SEEDS) * FOLDS)
            by_fold = [
                _saving(found["both"][folds == f], labels.take(np.flatnonzero(folds == f)))
                for f in range(FOLDS)
            ]
            for name, scores in found.items():
                figures.setdefault(name, []).append(_saving(scores, labels))
            figures.setdefault("folds", []).append(
                Saving(*np.mean([(s.apgr, s.cpt50, s.cpt80) for s in by_fold], axis=0).tolist())
            )
    names = {
        "both": "**pointsman**",
        "folds": "pointsman, mean over folds instead",
        "near": "neighbours alone",
        "ridge": "ridge alone",
        "untold": "pointsman, no topics",
    }
    rows = [[name, *_saving_cells(figures[key])] for key, name in names.items()]
    perfect = _saving(labels.gains + 1e-9 * np.random.default_rng(0).random(len(labels)), labels)
    rows.append(["perfect", *_saving_cells([perfect])])
    rows.append(["at random", "0.500", "50.0", "80.0"])
    return [*rows, ["aim", "≥ 0.67", "≤ 28.5", "≤ 59"]]


def _model(labels: Outcomes) -> Estimator:
    rows, features, gains = labels.rows, labels.features, labels.gains
    moments = no_moments(rows.shape[1]).add(rows, features, gains)
    return estimate(labels, moments, choose_alpha(moments, rows, features, gains), OutcomeIndex(rows))


def _saving(scores: Scores, labels: Outcomes) -> Saving:
    weak, strong = labels.local.mean(), labels.cloud.mean()
    edges = np.quantile(scores, np.linspace(0, 1, BINS + 1))
    calls, gains = [0.0], [0.0]
    for edge in edges[-2::-1]:
        asked = scores >= edge
        calls.append(float(asked.mean()))
        gains.append(float((np.where(asked, labels.cloud, labels.local).mean() - weak) / (strong - weak)))
    # Beyond the highest edge nobody is asked; interpolation needs gains that grow, as RouteLLM's does.
    cpt50, cpt80 = (100 * float(np.interp(x, gains, calls)) for x in (0.5, 0.8))
    return Saving(float(np.trapezoid(gains, calls)), cpt50, cpt80)


def _saving_cells(found: Sequence[Saving]) -> list[str]:
    return [
        _cell([getattr(figure, name) for figure in found], digits)
        for name, digits in (("apgr", 3), ("cpt50", 1), ("cpt80", 1))
    ]


# --- promise ------------------------------------------------------------------------------------


def _promise_rows(corpus: Corpus, splits: int) -> list[list[str]]:
    plans = {_ASSIGNED: (0.9, 0.95, 0.98), _LEAST: (0.95,)}
    found: dict[tuple[tuple[int, int], float], list[Kept]] = {}
    with _bar("splits") as told:
        for seed in range(splits):
            shuffled = np.random.default_rng(seed).permutation(corpus.groups.max() + 1)[corpus.groups]
            order = np.argsort(shuffled, kind="stable")
            for sizes, targets in plans.items():
                parts = [corpus.labels.take(part) for part in np.split(order, np.cumsum(sizes))]
                for target, kept in zip(targets, _kept(*parts, targets), strict=True):
                    found.setdefault((sizes, target), []).append(kept)
            told(seed + 1, splits)
    rows = []
    for (sizes, target), kept in found.items():
        met = Share(sum(part.quality >= target for part in kept), splits)
        low, high = met.interval
        headline = sizes == _ASSIGNED and target == 0.95
        name = f"{target:.0%}, {sizes[0]:,} / {sizes[1]:,}"
        rows.append(
            [
                f"**{name}**" if headline else name,
                _cell([100 * part.local_share for part in kept], 1),
                _cell([100 * part.quality for part in kept], 1),
                f"{met.value:.3f} ({low:.3f}-{high:.3f})",
                "local ≥ 42, met ≥ 0.89" if headline else report.NOTHING,
            ]
        )
    return rows


def _kept(
    training: Outcomes, calibration: Outcomes, rest: Outcomes, targets: Sequence[float]
) -> Iterator[Kept]:
    """Yield the figures on the rest for each target; only the threshold depends on it."""
    made = fit(training, calibration, QualityPromise(targets[0], CONFIDENCE))
    tested = made.score(calibration)
    for target in targets:
        promise = QualityPromise(target, CONFIDENCE)
        threshold = safe_threshold(tested, calibration.local, calibration.cloud, promise)
        yield measure(rest, replace(made, promise=promise, threshold=threshold).stays_local(rest))


# --- time ---------------------------------------------------------------------------------------


def _time_rows(corpus: Corpus, encoder_hash: str) -> list[list[str]]:
    order = np.random.default_rng(0).permutation(len(corpus.texts))
    training, calibration, rest = np.split(order, [LABELS, LABELS + 1000])
    taught, tested = corpus.labels.take(training), corpus.labels.take(calibration)
    fits = _timed(lambda: fit(taught, tested, QualityPromise(), encoder_hash), 3)
    made = fit(taught, tested, QualityPromise(), encoder_hash)
    rest = rest[:_TIMED]
    held, texts = corpus.labels.take(rest), [corpus.texts[i] for i in rest]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "difficulty.npz"
        save(made, path)
        size = path.stat().st_size
        loads = _timed(lambda: load_file(path, encoder_hash), 5)
    for i in range(100):  # warm
        made.judge(held.rows[i], texts[i], held.topics[i])
    judged = [
        _timed(lambda i=i: made.judge(held.rows[i], texts[i], held.topics[i]))[0] for i in range(len(texts))
    ]
    assert made.estimator is not None
    index, ridge = made.estimator.index, made.estimator.ridge
    searched = [_timed(lambda i=i: index.nearest(held.rows[i : i + 1]))[0] for i in range(len(texts))]
    featured = [_timed(lambda i=i: text_features([texts[i]]))[0] for i in range(len(texts))]
    ridged = [
        _timed(lambda i=i: ridge.predict(held.rows[i : i + 1], held.features[i : i + 1]))[0]
        for i in range(len(texts))
    ]
    some = held.take(np.arange(100))
    appended = _timed(lambda: made.append(some), 10)
    lengthened = _timed(lambda: index.append(some.rows), 10)
    return [
        ["**judge one prompt**", *_durations(judged)],
        ["of which search", *_durations(searched)],
        ["of which text features", *_durations(featured)],
        ["of which ridge", *_durations(ridged)],
        ["append 100 labels", *_durations(appended)],
        ["of which the index", *_durations(lengthened)],
        ["fit", *_durations(fits)],
        [f"load ({size / 2**20:.1f} MiB)", *_durations(loads)],
    ]


def _timed(action: Callable[[], object], times: int = 1) -> list[float]:
    """Return how long each call took, in milliseconds."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        found.append(1000 * (time.perf_counter() - start))
    return found


def _durations(values: Sequence[float]) -> list[str]:
    return [f"{report.percentile(values, p):.3g} ms" for p in (50, 95)]


def _cell(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, low, high = np.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    main()
