"""A catalog with everything computed from it: built off to the side, swapped by one reference."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.calibrate import SCORING, SURE, Calibration, calibrate
from pointsman.decision.decide import Setup
from pointsman.decision.difficulty import Difficulty
from pointsman.decision.promise import sigmoid
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.reading import Reading, read_of
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.router.leaning import Leaning, fit_leaning, read_phrases
from pointsman.sections import Routing
from pointsman.values.cascade import Cascade
from pointsman.values.catalog import CLOUD, Catalog
from pointsman.values.decision import Evidence, Hardness, IntentScore, Neighbor
from pointsman.values.promise import Promise

_SCORES_SHOWN = 3
_LEAST = 1e-6
_NOTHING_NEAR = -1.0
"""The least of all scores."""
_DIGITS = 16
"""Hexadecimal ones, of names of what says something."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned beside the catalog; each None where there is none.

    digest: names all of it; difficulty_digest: names the difficulty model
    """

    promise: Promise | None = None
    difficulty: Difficulty | None = None
    digest: str = ""
    cascade: Cascade | None = None
    difficulty_digest: str = ""


NOTHING_LEARNED = Learned()


@dataclass(frozen=True, slots=True)
class Matcher:
    """Embedding of a prompt to evidence. None of it changes, so threads may share it."""

    catalog: Catalog
    index: ExemplarIndex
    calibration: Calibration
    texts: tuple[str, ...]  # (n,), the exemplars in index order
    ids: tuple[str, ...]  # (n,)
    neighbors: int
    leaning: Leaning
    learned: Learned = NOTHING_LEARNED
    encoder: Encoder | None = None  # None: the configured one
    scorer: str = ""  # names encoder and exemplars; see `scorer_of`
    reader: Encoder | None = None  # says how prompts are read; None: nobody does

    @property
    def promise(self) -> Promise | None:
        """What calibration on labelled traffic promises; None without one."""
        return self.learned.promise

    @property
    def size(self) -> int:
        """Number of exemplars."""
        return len(self.texts)

    def match(self, row: Rows) -> Evidence:
        """Return what similarity says of one unit row (d,)."""
        intents = self.catalog.intents
        found = self.index.score(row[None, :])
        scores, choice, hits = found.scores[0], found.choice[0], found.hits[0]
        similarities = self.index.rows[hits] @ row
        owners = self.index.labels[hits]
        order = np.argsort(-choice, kind="stable")[:_SCORES_SHOWN].tolist()
        best = order[0]
        owned = similarities[owners == best]
        if not len(owned):  # the class won by its centroid alone
            owned = self.index.rows[self.index.labels == best] @ row
        intent = intents[best]
        score = float(scores[best])
        gap = float(choice[best] - max(choice[order[1]], -1.0)) if len(order) > 1 else 1.0  # see `gap_of`
        alone = self.calibration.confidence(best, score, gap)
        nearest = np.argsort(-similarities[: self.neighbors], kind="stable").tolist()
        return Evidence(
            intent=intent.name,
            target=intent.target,
            similarity=float(owned.max()),
            score=score,
            threshold=self.threshold(best),
            confidence=self.confidence(alone),
            confidence_alone=alone,
            required_confidence=self.required_confidence,
            scorer=self.scorer,
            neighbors=tuple(
                Neighbor(
                    self.ids[hits[i]], intents[owners[i]].name, float(similarities[i]), self.texts[hits[i]]
                )
                for i in nearest
            ),
            scores=tuple(IntentScore(intents[i].name, float(scores[i])) for i in order),
        )

    def judge(self, row: Rows, text: str) -> Evidence:
        """Return what similarity and difficulty say of a prompt, its unit row being (d,)."""
        return self.weigh(self.match(row), row, text)

    def read(self, evidence: Evidence, text: str) -> Evidence:
        """Return evidence with what was not read of the prompt; where nothing was understood, nothing is near.

        A turn that follows up has the evidence of the turn that it follows, and keeps it.
        """
        reading = Reading() if self.reader is None else read_of(self.reader, text)
        if reading.known or evidence.follow_up:
            return replace(evidence, reading=reading.sentence) if reading.cut else evidence
        return replace(
            evidence, reading=reading.sentence, score=_NOTHING_NEAR, confidence=0.0, confidence_alone=0.0
        )

    def weigh(self, evidence: Evidence, row: Rows, text: str) -> Evidence:
        """Return evidence with how the prompt was read, and what the difficulty model says, where there is one."""
        evidence = self.read(evidence, text)
        difficulty = self.learned.difficulty
        if difficulty is None or not difficulty.on or not evidence.accepted or evidence.target == CLOUD:
            return evidence
        verdict = difficulty.judge(row, text, evidence.intent)
        return replace(evidence, hardness=self.hardness(verdict.score, evidence.intent))

    def hardness(self, score: float, intent: str | None) -> Hardness:
        """Return what a score of the difficulty model says of a prompt of that intent."""
        difficulty = self.learned.difficulty
        assert difficulty is not None  # noqa: S101 - it gave the score
        covered = difficulty.covers(intent) and math.isfinite(difficulty.threshold)
        return Hardness(
            score, difficulty.threshold if covered else None, self.learned.difficulty_digest[:_DIGITS]
        )

    @property
    def required_confidence(self) -> float:
        """Confidence from which an intent is accepted."""
        return self.promise.required_confidence if self.promise else 0.0

    def threshold(self, label: int) -> float:
        """Return the score from which an intent, by its place in the catalog, is near enough."""
        stated = self.catalog.intents[label].threshold
        return self.calibration.threshold(label) if stated is None else stated

    def confidence(self, alone: float) -> float:
        """Return a confidence that exemplars alone give, as labelled traffic corrects it."""
        if self.promise is None:
            return alone
        logit = np.log(max(alone, _LEAST) / (1 - alone))
        return min(SURE, float(sigmoid(self.promise.slope * logit + self.promise.intercept)))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one request sees from its beginning to its end. `matcher` is None without intents."""

    setup: Setup
    cloud_task_types: tuple[str, ...]
    matcher: Matcher | None

    @property
    def catalog(self) -> Catalog:
        """The catalog that this was built from."""
        return self.setup.catalog

    @property
    def cascade(self) -> Cascade | None:
        """How sure local answers must be to stand; None where nothing was fitted."""
        return self.matcher.learned.cascade if self.matcher else None

    @property
    def version(self) -> str:
        """Hash over encoder, intents, specialists and rules."""
        return self.setup.version


def build_snapshot(
    catalog: Catalog,
    cache: EmbeddingCache,
    encoder_hash: str,
    routing: Routing,
    cloud_model: str | None,
    progress: Callable[[int, int], None] | None = None,
    learned: Learned = NOTHING_LEARNED,
) -> Snapshot:
    """Embed what is new, fit, calibrate. Blocking: seconds for thousands of new exemplars."""
    version = catalog.digest(encoder_hash)
    if learned.digest:
        version = hashlib.sha256(f"{version} {learned.digest}".encode()).hexdigest()[: len(version)]
    matcher = None
    if catalog.intents:
        scorer = scorer_of(catalog, encoder_hash, f"{routing.out_of_scope:g}")
        matcher = _matcher(catalog, cache, routing, progress, learned, scorer)
    return assemble(catalog, version, matcher, routing, cloud_model)


def assemble(
    catalog: Catalog, version: str, matcher: Matcher | None, routing: Routing, cloud_model: str | None
) -> Snapshot:
    """Put a snapshot together from what is computed already."""
    setup = Setup(
        catalog=catalog,
        version=version,
        cloud_model=cloud_model,
        general_specialist=routing.general_specialist or None,
        general_without_cloud=routing.on_no_cloud == "general",
        general_when_cloud_down=routing.on_cloud_down == "general",
        mid=routing.mid_tier,
    )
    return Snapshot(setup, tuple(routing.cloud_task_types), matcher)


def _matcher(
    catalog: Catalog,
    cache: EmbeddingCache,
    routing: Routing,
    progress: Callable[[int, int], None] | None,
    learned: Learned,
    scorer: str,
) -> Matcher:
    exemplars = exemplars_of(catalog)
    labels, classes = exemplars.labels, len(catalog.intents)
    groups = exemplars.texts, exemplars.negatives, exemplars.names
    own, negatives, names = _embedded(cache, groups, progress)
    judged, judged_names = own, names
    if cache.twin is not cache:
        judged, judged_names = _embedded(cache.twin, (exemplars.texts, exemplars.names), progress)
    phrases = read_phrases()
    leaning = fit_leaning(cache.encode(phrases.leaning), cache.encode(phrases.standing), own)
    calibration = calibrate(
        judged,
        labels,
        classes,
        routing.rejection,
        routing.out_of_scope,
        names=judged_names,
        seen=cache.twin.seen(exemplars.texts),
    )
    index = ExemplarIndex(
        own,
        labels,
        classes,
        negatives,
        exemplars.negative_labels,
        names=names if calibration.named else None,
        second_head=calibration.second_head,
    )
    return Matcher(
        catalog,
        index,
        calibration,
        exemplars.texts,
        exemplars.ids,
        routing.neighbors,
        leaning,
        learned,
        scorer=scorer,
        reader=cache.encoder,
    )


def _embedded(
    cache: EmbeddingCache, groups: Sequence[Sequence[str]], progress: Callable[[int, int], None] | None
) -> list[Rows]:
    """Return the rows of each group of texts."""
    rows = cache.encode([text for group in groups for text in group], progress)
    return np.split(rows, np.cumsum([len(group) for group in groups[:-1]]))


def scorer_of(catalog: Catalog, encoder_hash: str, curve: str) -> str:
    """Return a name of everything that scores and confidences depend on: with equal names, equal prompts get equal ones.

    curve: names what the curve of confidences was fitted with
    """
    content = [SCORING, encoder_hash, curve, *([i.name, i.exemplars, i.negatives] for i in catalog.intents)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGITS]


@dataclass(frozen=True, slots=True)
class Exemplars:
    """The exemplars of a catalog in the order of an index, its negatives, and the names of its intents as words."""

    texts: tuple[str, ...]  # (n,)
    ids: tuple[str, ...]  # (n,)
    labels: NDArray[np.int64]  # (n,)
    negatives: tuple[str, ...]  # (k,)
    negative_labels: NDArray[np.int64]  # (k,)
    names: tuple[str, ...]  # (C,)


def exemplars_of(catalog: Catalog) -> Exemplars:
    """Return the exemplars of a catalog, intent by intent."""
    intents = catalog.intents
    return Exemplars(
        tuple(text for intent in intents for text in intent.exemplars),
        tuple(f"{intent.name}/{i}" for intent in intents for i in range(len(intent.exemplars))),
        _labels([len(intent.exemplars) for intent in intents]),
        tuple(text for intent in intents for text in intent.negatives),
        _labels([len(intent.negatives) for intent in intents]),
        tuple(intent.words for intent in intents),
    )


def _labels(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)
