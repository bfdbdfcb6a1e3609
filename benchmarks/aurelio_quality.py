"""aurelio semantic-router on the exemplars and vectors of benchmarks/quality.py, after its own `fit`.

Runs in a virtual environment of its own (benchmarks/peers.txt), started by benchmarks/quality.py. It reads
`task.json` and `rows.npz` in the folder that is its only argument, writes `answers.npz`, and prints the rest
as JSON. It is told texts, vectors and the labels that it may learn from, never the label of a query.

`IndexedRouter` and `fit` are semantic-router's own. A query takes it 1 to 42 ms, so the thousands of test
queries are scored here for many at a time by the same rule; that the rule is the same is asserted on
CHECKED queries through `router(text)`, and on the calibration curve that `fit` itself found.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray
from semantic_router import IndexedRouter, Route
from semantic_router.calibration import Calibrator
from semantic_router.encoders.base import DenseEncoder

CHECKED = 200
DEFAULT_BAR = 0.5
"""The confidence threshold of semantic-router's own quickstart."""
TOP_KS = (3, 5, 10, 20, 50)
_BLOCK = 256
NONE = -1

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a user of IndexedRouter may choose."""

    aggregation: str
    top_k: int
    method: str = "platt"


MEAN, MAX = Setting("mean", 5), Setting("max", 5)  # the first is the default
SETTINGS = (
    MEAN,
    MAX,
    *(
        Setting(aggregation, k, method)
        for method in ("platt", "isotonic")
        for aggregation in ("mean", "sum")
        for k in TOP_KS
    ),
)
"""The greatest is the same for every top_k; so are all three aggregations of one hit."""


class Known(DenseEncoder):
    """Our encoder's vectors in semantic-router's clothes."""

    name: str = "known"
    rows: dict[str, NDArray[np.float32]]

    def __call__(self, docs: list[str]) -> list[list[float]]:
        return [self.rows[text].tolist() for text in docs]

    async def acall(self, docs: list[str]) -> list[list[float]]:
        return self(docs)


@dataclass(frozen=True, slots=True)
class Exemplars:
    """Texts with vectors (n, d) and labels (n,), in the order of the labels; `classes` are all there are."""

    texts: tuple[str, ...]
    rows: NDArray[np.float32]
    labels: Labels
    classes: int

    def routes(self) -> list[Route]:
        """Return one route a class, named by its label."""
        utterances: list[list[str]] = [[] for _ in range(self.classes)]
        for text, label in zip(self.texts, self.labels.tolist(), strict=True):
            utterances[label].append(text)
        return [Route(name=str(label), utterances=texts) for label, texts in enumerate(utterances)]

    def only(self, kept: NDArray[np.bool_]) -> "Exemplars":
        texts = tuple(text for text, keep in zip(self.texts, kept.tolist(), strict=True) if keep)
        return Exemplars(texts, self.rows[kept], self.labels[kept], self.classes)

    def named(self, names: Sequence[str], rows: NDArray[np.float32]) -> "Exemplars":
        """Return these with the name of each class (C,), of rows (C, d), as its last exemplar, unless it is one."""
        known = set(zip(self.labels.tolist(), self.texts, strict=True))
        new = [label for label, name in enumerate(names) if (label, name) not in known]
        labels = np.concatenate([self.labels, new]).astype(self.labels.dtype)
        order = np.argsort(labels, kind="stable")
        texts = (*self.texts, *(names[label] for label in new))
        together = np.concatenate([self.rows, rows[new]])[order]
        return Exemplars(tuple(texts[i] for i in order), together, labels[order], self.classes)


@dataclass(frozen=True, slots=True)
class Hits:
    """The nearest exemplars of m queries: cosines (m, k), best first, and whose they are (m, k)."""

    cosines: Floats
    owners: Labels

    def top(self, setting: Setting, classes: int) -> tuple[Labels, Floats]:
        """Return the best class (m,) and its score (m,), as IndexedRouter aggregates them."""
        cosines, owners = self.cosines[:, : setting.top_k], self.owners[:, : setting.top_k]
        at = (np.arange(len(owners))[:, None], owners)
        scores = np.zeros((len(owners), classes))  # a class without a hit scores 0
        if setting.aggregation == "max":
            best = np.full_like(scores, -np.inf)
            np.maximum.at(best, at, cosines)
            scores = np.where(np.isinf(best), scores, best)
        else:
            np.add.at(scores, at, cosines)
            if setting.aggregation == "mean":
                counts = np.zeros_like(scores)
                np.add.at(counts, at, 1.0)
                scores /= np.maximum(counts, 1.0)
        return scores.argmax(axis=1), scores.max(axis=1)


@dataclass(frozen=True, slots=True)
class Lesson:
    """Labelled texts to fit on: vectors (f, d), labels (f,), NONE where no route should match."""

    texts: tuple[str, ...]
    rows: NDArray[np.float32]
    labels: Labels


@dataclass(frozen=True, slots=True)
class Pool:
    """Exemplars with or without names: those that are there while it is fitted, and all.

    taught, asked: the nearest of the first to the fit texts, of the others to the queries
    """

    present: Exemplars
    exemplars: Exemplars
    taught: Hits
    asked: Hits

    @classmethod
    def of(
        cls, present: Exemplars, exemplars: Exemplars, lesson: Lesson, queries: NDArray[np.float32]
    ) -> "Pool":
        return cls(present, exemplars, _nearest(present, lesson.rows), _nearest(exemplars, queries))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    with np.load(folder / "rows.npz") as rows:
        labels = rows["labels"]
        order = np.argsort(labels, kind="stable")
        texts = tuple(task["exemplars"][i] for i in order)
        names = tuple(task["names"])
        exemplars = Exemplars(texts, rows["exemplars"][order], labels[order], len(names))
        present = exemplars.only(rows["kept"][order])
        words = rows["names"]
        lesson = Lesson(tuple(task["fit"]), rows["fit"], rows["fit_labels"])
        queries = rows["queries"]
    encoder = Known(
        rows={
            **dict(zip(exemplars.texts, exemplars.rows, strict=True)),
            **dict(zip(lesson.texts, lesson.rows, strict=True)),
            **dict(zip(names, words, strict=True)),
            **dict(zip(task["queries"], queries, strict=True)),
        }
    )
    plain = Pool.of(present, exemplars, lesson, queries)
    named = Pool.of(present.named(names, words), exemplars.named(names, words), lesson, queries)

    def best_of(settings: Sequence[Setting]) -> tuple[Setting, Pool]:
        every = [(setting, pool) for setting in settings for pool in (plain, named)]
        return max(every, key=lambda one: _promise(one[1].taught, lesson, one[0], len(names)))

    answers, facts = {}, {}
    for name, settings in {"mean": (MEAN,), "max": (MAX,), "chosen": SETTINGS}.items():
        setting, pool = best_of(settings)
        curve, seconds = _fit(encoder, pool.present, lesson, setting, pool.taught)
        learnt = _outcome(pool.taught, lesson, setting, len(names))
        confidence = curve(learnt.scores)
        flat = Calibrator.fit(learnt.scores, learnt.right.astype(float), "isotonic")
        best, scores = pool.asked.top(setting, len(names))
        bars = {
            "best": _best_bar(confidence, learnt),
            "default": DEFAULT_BAR,
            "nominal": float(np.quantile(confidence[lesson.labels != NONE], task["rejection"])),
        }
        sure = curve(scores)
        for bar, value in bars.items():
            answers[f"{name}/{bar}"] = sure >= value
        answers[f"{name}/isotonic"] = flat(scores) >= DEFAULT_BAR
        answers[f"{name}/predicted"], answers[f"{name}/score"], answers[f"{name}/confidence"] = (
            best,
            scores,
            sure,
        )
        router = _router(encoder, pool.exemplars, setting, curve)
        router.confidence_threshold = bars["best"]
        _check(router, task["queries"], best, sure, bars["best"])
        facts[name] = {
            "aggregation": setting.aggregation,
            "top_k": setting.top_k,
            "method": setting.method,
            "named": pool is named,
            "fit_s": seconds,
        }
    np.savez(folder / "answers.npz", **answers)
    print(json.dumps(facts))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a setting says of the fit texts: scores (f,), and whether its best class is right (f,)."""

    scores: Floats
    right: NDArray[np.bool_]
    outside: NDArray[np.bool_]


def _outcome(taught: Hits, lesson: Lesson, setting: Setting, classes: int) -> Outcome:
    best, scores = taught.top(setting, classes)
    return Outcome(scores, best == lesson.labels, lesson.labels == NONE)


def _promise(taught: Hits, lesson: Lesson, setting: Setting, classes: int) -> float:
    """Return the accuracy that `evaluate` finds on the fit texts with the best threshold."""
    outcome = _outcome(taught, lesson, setting, classes)
    curve = Calibrator.fit(outcome.scores, outcome.right.astype(float), setting.method)
    return float(_gains(curve(outcome.scores), outcome)[0].max()) / len(outcome.scores)


def _gains(values: Floats, outcome: Outcome) -> tuple[Labels, Floats]:
    """Return how many fit texts are treated rightly from each bar on (b,), and the bars (b,), falling."""
    order = np.argsort(-values, kind="stable")
    falling = values[order]
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    accepted = np.concatenate([[0], np.cumsum(outcome.right[order])[ends - 1]])
    refused = outcome.outside.sum() - np.concatenate([[0], np.cumsum(outcome.outside[order])[ends - 1]])
    middles = (falling[ends - 1] + np.append(falling[ends[:-1]], falling[-1] - 1.0)) / 2
    return accepted + refused, np.concatenate([[falling[0] + 1.0], middles])


def _best_bar(confidence: Floats, outcome: Outcome) -> float:
    """Return the confidence threshold with which `evaluate` is greatest on the fit texts."""
    gains, bars = _gains(confidence, outcome)
    return float(bars[gains.argmax()])


def _router(
    encoder: Known, exemplars: Exemplars, setting: Setting, curve: Calibrator | None
) -> IndexedRouter:
    return IndexedRouter(
        encoder,
        exemplars.routes(),
        top_k=setting.top_k,
        aggregation=setting.aggregation,
        calibrator=curve,
    )


def _fit(
    encoder: Known, present: Exemplars, lesson: Lesson, setting: Setting, taught: Hits
) -> tuple[Calibrator, float]:
    """Return the curve that `fit` finds, and the seconds that it takes."""
    router = _router(encoder, present, setting, None)
    expected = [None if label == NONE else str(label) for label in lesson.labels.tolist()]
    begun = perf_counter()
    router.fit(list(lesson.texts), expected, setting.method)
    seconds = perf_counter() - begun
    curve = router.calibrator
    outcome = _outcome(taught, lesson, setting, present.classes)
    same = Calibrator.fit(outcome.scores, outcome.right.astype(float), setting.method)
    assert np.allclose(curve(outcome.scores), same(outcome.scores), atol=1e-9), "another rule than `fit`'s"
    return curve, seconds


def _check(router: IndexedRouter, texts: Sequence[str], best: Labels, sure: Floats, bar: float) -> None:
    """Assert that `router(text)` decides as `Hits.top` does."""
    picked = np.unique(np.linspace(0, len(texts) - 1, min(CHECKED, len(texts))).astype(int))
    for i in picked.tolist():
        choice = router(texts[i])
        expected = str(best[i]) if sure[i] >= bar else None
        assert choice.name == expected, f"query {i}: {choice.name}, not {expected}"
        loose = router(texts[i], threshold=0.0)
        assert loose.name == str(best[i]), f"query {i}: {loose.name}, not {best[i]}"
        assert abs(loose.confidence - sure[i]) < 1e-9, f"query {i}: {loose.confidence}, not {sure[i]}"


def _nearest(exemplars: Exemplars, queries: NDArray[np.float32]) -> Hits:
    """Return the nearest exemplars by cosine, in the precision that LocalIndex has."""
    rows = exemplars.rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    most = min(max(TOP_KS), len(rows))
    cosines, owners = [], []
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK].astype(np.float64)
        similarities = block @ rows.T / np.linalg.norm(block, axis=1, keepdims=True)
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :most]
        cosines.append(np.take_along_axis(similarities, nearest, axis=1))
        owners.append(exemplars.labels[nearest])
    return Hits(np.concatenate(cosines), np.concatenate(owners))


if __name__ == "__main__":
    main()
