"""What fine-tuning the encoder brings on CLINC150 and BANKING77, in full and with 10 exemplars an intent.

Both are measured as they are served (int8 ONNX), through the package's own index, heads and calibration. The
recipe was chosen with `--split val`; the test split is read once, to print the table.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isnan, nan
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import report
from corpora import (
    ABOUT,
    BANKING,
    CLINC,
    SEEDS,
    SHOTS,
    Labels,
    Pairs,
    add_data,
    check_data,
    draw_few,
    read_banking,
    read_clinc,
    words_of,
)
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.cross_fit import cross_fit
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.card import GRAPH_FILE, TOKENIZER_FILE, TWIN_FILE
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.export import Exported, export
from pointsman.embedding.load import load_encoder
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.tune import (
    AS_GOOD,
    Lessons,
    Recipe,
    Step,
    fine_tune,
    hold_out,
    load_trainable,
    passes_for_all,
)
from pointsman.host.tuning import taught_of
from pointsman.settings import Settings, load
from quality import REJECTION, fit

_NEEDS = """\
BANKING77 has no validation split: there, every fifth training text is one. Needs the extra `encoder` (torch and sentence-transformers).
"""
HOLDOUT = 0.2
FULL_PASSES = 3
"""Over a full training set: some twenty minutes on one core; a set of few exemplars has the recipe's passes."""
FULL, FEW = "all exemplars", f"{SHOTS} an intent"


@dataclass(frozen=True, slots=True)
class Data:
    """Texts to draw exemplars from, and those to measure on; `oos` is empty where the set has none.

    aims: by size
    words: the names of its intents, as words
    """

    name: str
    aims: dict[str, str]
    train: Lessons
    test: Lessons
    oos: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def classes(self) -> int:
        return len(self.words)


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares in [0, 1]. right: kept-out exemplars given to their own intent; NaN: no prompt is out of scope."""

    accuracy: float
    auroc: float
    joint: float
    rejected: float
    right: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """Figures of one tuned encoder, and what making it took."""

    figures: Figures
    seconds: float
    passes: tuple[int, int]
    exported: Exported
    adopted: bool


def main() -> None:
    arguments = _parse()
    settings = load()
    store = ArtifactStore(settings.paths.models, Path.cwd())
    encoder = load_encoder(settings.encoder, store)
    cache = EmbeddingCache(encoder, settings.paths.cache)
    rows, everything = [], []
    with threadpool_limits(limits=arguments.threads):
        for data, size in product(
            _SETS[arguments.set](arguments.data, arguments.split), _SIZES[arguments.size]
        ):
            frozen, tuned = [], []
            name = f"{data.name}, {size}"
            for seed in arguments.seeds if size == FEW else (0,):
                exemplars = _draw(data, seed) if size == FEW else data.train
                held = hold_out(exemplars, HOLDOUT, seed, data.words)
                nothing = np.zeros(len(held), np.bool_)
                frozen.append(_figures(data, exemplars, cache, held, nothing))
                _say(f"{name}, seed {seed}, frozen: {frozen[-1]}")
                recipe = Recipe(seed=seed, threads=arguments.threads)
                recipe = recipe if size == FEW else replace(recipe, epochs=FULL_PASSES)
                taught = taught_of(cache.encode, exemplars, data.words, held)
                tuned.append(_tune(data, exemplars, held, taught, settings, store, recipe, frozen[-1]))
                _say(f"{name}, seed {seed}, tuned: {tuned[-1]}")
            rows += [
                [f"{name}: frozen", *_cells(frozen), report.NOTHING],
                [f"**{name}: tuned**", *_cells([one.figures for one in tuned]), data.aims[size]],
            ]
            everything += tuned
    results = report.table(_HEADERS, rows)
    print(results)
    if arguments.out:
        versions = report.versions(
            "sentence-transformers", "torch", "onnxruntime", "faiss-cpu", "scikit-learn", "numpy"
        )
        facts = f"Versions: {versions}\n\nEncoder: {settings.encoder.model}, sha256 {encoder.hash[:16]}…"
        body = f"{facts}\n\n{results}\n\n{_legend(arguments.split, arguments.seeds, everything, arguments.threads)}"
        seeds = " ".join(map(str, arguments.seeds))
        command = f"python benchmarks/tune.py --data DIR --set {arguments.set} --size {arguments.size} --split {arguments.split} --seeds {seeds}"
        report.write(arguments.out, "Fine-tuning the encoder", body, command)


_HEADERS = [
    "",
    "accuracy",
    "OOS AUROC",
    "joint accuracy",
    "in-scope rejected",
    "kept-out exemplars right",
    "aim",
]


def _legend(split: str, seeds: Sequence[int], tuned: Sequence[Tuned], threads: int) -> str:
    recipe = Recipe()
    seconds = ", ".join(f"{one.seconds:.0f}" for one in tuned)
    passes = ", ".join("{} and {}".format(*one.passes) for one in tuned)
    cosines = ", ".join(f"{one.exported.cosine:.4f}" for one in tuned)
    adopted = sum(one.adopted for one in tuned)
    return f"""\
In percent, on the {split} split; with {SHOTS} an intent the mean over seeds {", ".join(map(str, seeds))}, and in brackets the least \
and the greatest. Columns as in quality.md; second head and names are on where they win in cross-fitting.

- tuned: on {1 - HOLDOUT:.0%} of the exemplars of every intent, and on its name where names help the frozen encoder, at most {recipe.epochs} passes \
({FULL_PASSES} over a full set), \
then mixed with {1 - recipe.tuned_share:.0%} of the published weights; the \
other {HOLDOUT:.0%} chose the pass, decided on adoption, and set offsets and threshold (nominal rejection \
{REJECTION:.0%}). What is measured was tuned anew on all, in as many passes as were good (held-out loss within {AS_GOOD - 1:.0%} of the least). All exemplars stand in the index.
- kept-out exemplars right: of those {HOLDOUT:.0%}, cross-fitted among all exemplars, the frozen encoder, and the one tuned without them. A tuned encoder is adopted \
where it has more of them right: {adopted} of {len(tuned)}.
- The two tunings took {seconds} s with {threads} thread{"s" if threads != 1 else ""}, {passes} passes, export left out. \
Cosine of the int8 graph to torch: {cosines}.
- aim: accuracy / OOS AUROC / joint accuracy, or accuracy alone; in-scope rejection 3-8."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=ABOUT + _NEEDS, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file to write, too")
    parser.add_argument(
        "--size",
        choices=tuple(_SIZES),
        default="all",
        help=f"{SHOTS} exemplars an intent, or all; default both",
    )
    parser.add_argument("--split", choices=("val", "test"), default="test", help="measured on; default test")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="draws of exemplars")
    parser.add_argument("--threads", type=int, default=1, help="threads of the tuning")
    parser.add_argument("--set", choices=tuple(_SETS), default="all", help="data measured on; default all")
    arguments = parser.parse_args()
    check_data(parser, arguments.data, CLINC, *BANKING)
    return arguments


def _clinc(folder: Path, split: str) -> Data:
    data = read_clinc(folder)
    oos = tuple(text for text, _ in data[f"oos_{split}"])
    return _data(
        "CLINC150", {FULL: "95 / 97.8 / 90.5", FEW: "93 / 97.5 / 89.5"}, data["train"], data[split], oos
    )


def _banking(folder: Path, split: str) -> Data:
    data = read_banking(folder)
    train, test = data["train"], data["test"]
    if split == "val":
        train, test = [pair for i, pair in enumerate(train) if i % 5], train[::5]
    return _data("BANKING77", {FULL: "93.3", FEW: "86"}, train, test, ())


def _data(name: str, aims: dict[str, str], train: Pairs, test: Pairs, oos: tuple[str, ...]) -> Data:
    intents = sorted({intent for _, intent in train if intent is not None})
    number: dict[str | None, int] = {intent: i for i, intent in enumerate(intents)}

    def lessons(pairs: Pairs) -> Lessons:
        labels = np.array([number[intent] for _, intent in pairs], np.int64)
        return Lessons(tuple(text for text, _ in pairs), labels)

    return Data(name, aims, lessons(train), lessons(test), oos, words_of(intents))


_SIZES = {"few": (FEW,), "full": (FULL,), "all": (FULL, FEW)}
_SETS: dict[str, Callable[[Path, str], tuple[Data, ...]]] = {
    "all": lambda folder, split: (_clinc(folder, split), _banking(folder, split)),
    "clinc150": lambda folder, split: (_clinc(folder, split),),
    "banking77": lambda folder, split: (_banking(folder, split),),
}


def _draw(data: Data, seed: int) -> Lessons:
    """Return the exemplars that quality.py draws with this seed."""
    picked = draw_few(data.train.labels, data.classes, seed)
    return Lessons(tuple(data.train.texts[i] for i in picked), data.train.labels[picked])


def _tune(
    data: Data,
    exemplars: Lessons,
    held: NDArray[np.bool_],
    taught: Lessons,
    settings: Settings,
    store: ArtifactStore,
    recipe: Recipe,
    before: Figures,
) -> Tuned:
    model = load_trainable(settings.encoder.model, store, recipe.threads)
    kept_out = exemplars.only(held)
    started = perf_counter()
    epochs = fine_tune(model, taught, kept_out, recipe, _watch)
    seconds = perf_counter() - started
    for epoch in epochs:
        _say(f"seed {recipe.seed}, {epoch}")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = folder / TOKENIZER_FILE
        export(model, folder, kept_out.texts, TWIN_FILE)
        twin = OnnxEncoder(folder / TWIN_FILE, tokenizer, recipe.threads)
        model = load_trainable(settings.encoder.model, store, recipe.threads)
        started = perf_counter()
        recipe = replace(recipe, epochs=passes_for_all(epochs))
        fine_tune(model, taught.and_also(kept_out), None, recipe, _watch)
        seconds += perf_counter() - started
        exported = export(model, folder, kept_out.texts)
        encoder = OnnxEncoder(folder / GRAPH_FILE, tokenizer, recipe.threads)
        figures = _figures(data, exemplars, encoder, held, ~held, twin)
    passes = len(epochs), recipe.epochs
    return Tuned(figures, seconds, passes, exported, figures.right > before.right)


def _watch(step: Step) -> None:
    if step.done * step.epochs % step.total == 0:
        _say(f"pass {step.epoch} of {step.epochs}: loss {step.loss:.3f}, {step.left_s:.0f} s left at most")


def _say(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def _figures(
    data: Data,
    exemplars: Lessons,
    encoder: Encoder | EmbeddingCache,
    held: NDArray[np.bool_],
    seen: NDArray[np.bool_],
    twin: Encoder | None = None,
) -> Figures:
    """Measure an encoder, with thresholds from its twin, which was tuned on the `seen` exemplars (none: frozen)."""
    groups = exemplars.texts, data.words, data.test.texts, data.oos
    rows = encoder.encode([text for group in groups for text in group])
    own, names, inside, outside = np.split(rows, np.cumsum([len(group) for group in groups[:3]]))
    labels = exemplars.labels
    judged, judged_names = own, names
    if twin is not None:
        judged, judged_names = np.split(twin.encode([*exemplars.texts, *data.words]), [len(labels)])
    index, calibration = fit(own, labels, data.classes, names, 0.0, seen, (judged, judged_names))

    def certainty(queries: Rows) -> tuple[Labels, NDArray[np.float64]]:
        found = index.score(queries)
        predicted = found.choice.argmax(axis=1)
        scores = found.scores[np.arange(len(predicted)), predicted]
        return predicted, scores - calibration.offsets[predicted]

    predicted, sure = certainty(inside)
    _, sure_outside = certainty(outside)
    right, accepted = predicted == data.test.labels, sure >= calibration.margin
    refused = sure_outside < calibration.margin
    in_scope = np.arange(len(sure) + len(sure_outside)) < len(sure)
    return Figures(
        accuracy=float(right.mean()),
        auroc=float(roc_auc_score(in_scope, np.concatenate([sure, sure_outside]))) if data.oos else nan,
        joint=float(((right & accepted).sum() + refused.sum()) / (len(right) + len(refused)))
        if data.oos
        else nan,
        rejected=float(1 - accepted.mean()),
        right=cross_fit(judged, labels, data.classes, judged_names, ~held).right(labels) / int(held.sum()),
    )


def _cells(figures: Sequence[Figures]) -> list[str]:
    names = ("accuracy", "auroc", "joint", "rejected", "right")
    return [_cell([100 * getattr(figure, name) for figure in figures]) for name in names]


def _cell(percent: Sequence[float]) -> str:
    if any(map(isnan, percent)):
        return report.NOTHING
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{np.mean(percent):.1f} ({min(percent):.1f}-{max(percent):.1f})"


if __name__ == "__main__":
    main()
