"""A catalog with everything computed from it: built off to the side, swapped by one reference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pointsman.decision.calibrate import Calibration, calibrate
from pointsman.decision.decide import Setup
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex
from pointsman.settings import Routing
from pointsman.values.catalog import Catalog
from pointsman.values.decision import Evidence, IntentScore, Neighbor

_SCORES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Matcher:
    """Embedding of a prompt to evidence. None of it changes, so threads may share it."""

    catalog: Catalog
    index: ExemplarIndex
    calibration: Calibration
    texts: tuple[str, ...]  # (n,), the exemplars in index order
    ids: tuple[str, ...]  # (n,)
    neighbors: int

    @property
    def size(self) -> int:
        """Number of exemplars."""
        return len(self.texts)

    def match(self, row: Rows) -> Evidence:
        """Return what similarity says of one unit row (d,)."""
        intents = self.catalog.intents
        found = self.index.score(row[None, :])
        scores, hits = found.scores[0], found.hits[0]
        similarities = self.index.rows[hits] @ row
        owners = self.index.labels[hits]
        order = np.argsort(-scores, kind="stable")[:_SCORES_SHOWN].tolist()
        best = order[0]
        owned = similarities[owners == best]
        if not len(owned):  # the class won by its centroid alone
            owned = self.index.rows[self.index.labels == best] @ row
        intent = intents[best]
        score = float(scores[best])
        nearest = np.argsort(-similarities[: self.neighbors], kind="stable").tolist()
        return Evidence(
            intent=intent.name,
            target=intent.target,
            similarity=float(owned.max()),
            score=score,
            threshold=self.calibration.threshold(best) if intent.threshold is None else intent.threshold,
            confidence=self.calibration.confidence(best, score),
            neighbors=tuple(
                Neighbor(
                    self.ids[hits[i]], intents[owners[i]].name, float(similarities[i]), self.texts[hits[i]]
                )
                for i in nearest
            ),
            scores=tuple(IntentScore(intents[i].name, float(scores[i])) for i in order),
        )


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
    def version(self) -> str:
        """Hash over encoder, intents and specialists."""
        return self.setup.version


def build_snapshot(
    catalog: Catalog,
    cache: EmbeddingCache,
    encoder_hash: str,
    routing: Routing,
    cloud_model: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Embed what is new, fit, calibrate. Blocking: seconds for thousands of new exemplars."""
    setup = Setup(
        catalog=catalog,
        version=catalog.digest(encoder_hash),
        cloud_model=cloud_model,
        general_specialist=routing.general_specialist or None,
        general_without_cloud=routing.on_no_cloud == "general",
        general_when_cloud_down=routing.on_cloud_down == "general",
    )
    matcher = _matcher(catalog, cache, routing, progress) if catalog.intents else None
    return Snapshot(setup, tuple(routing.cloud_task_types), matcher)


def _matcher(
    catalog: Catalog, cache: EmbeddingCache, routing: Routing, progress: Callable[[int, int], None] | None
) -> Matcher:
    texts = tuple(text for intent in catalog.intents for text in intent.exemplars)
    ids = tuple(f"{intent.name}/{i}" for intent in catalog.intents for i in range(len(intent.exemplars)))
    negatives = tuple(text for intent in catalog.intents for text in intent.negatives)
    rows = cache.encode(texts + negatives, progress)
    labels = _labels([len(intent.exemplars) for intent in catalog.intents])
    negative_labels = _labels([len(intent.negatives) for intent in catalog.intents])
    exemplars = rows[: len(texts)]
    index = ExemplarIndex(exemplars, labels, len(catalog.intents), rows[len(texts) :], negative_labels)
    calibration = calibrate(exemplars, labels, len(catalog.intents), routing.rejection)
    return Matcher(catalog, index, calibration, texts, ids, routing.neighbors)


def _labels(counts: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)
