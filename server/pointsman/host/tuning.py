"""Exemplars to a tuned encoder that is used only if it wins: `pointsman encoder tune`."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from pointsman.artifacts import verdict
from pointsman.artifacts.store import ArtifactStore
from pointsman.artifacts.store import Progress as FetchProgress
from pointsman.decision.calibrate import LEAST_KEPT_OUT
from pointsman.decision.cross_fit import CrossFitted, cross_fit
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.card import (
    CARD_FILE,
    GRAPH_FILE,
    TOKENIZER_FILE,
    TWIN_FILE,
    Card,
    sha256_of,
    sha256_of_all,
)
from pointsman.embedding.encoder import Rows
from pointsman.embedding.export import export
from pointsman.embedding.load import load_encoder
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.tune import (
    LEAST_TO_HOLD_OUT,
    Lessons,
    Recipe,
    Watch,
    fine_tune,
    hold_out,
    load_trainable,
    passes_for_all,
)
from pointsman.errors import CatalogError, ConfigError
from pointsman.settings import Settings
from pointsman.values.catalog import Catalog, Problem


def tune_encoder(
    settings: Settings,
    catalog: Catalog,
    out: Path,
    recipe: Recipe,
    share: float,
    watch: Watch,
    fetching: FetchProgress,
) -> Card:
    """Tune the configured encoder on the exemplars of a catalog and write it to the folder `out`.

    A share of the exemplars is kept out: they stop the tuning, judge it, and later set the thresholds. If it
    gives more of them to their own intent than the frozen one, both as they are served, the encoder is tuned
    anew on all exemplars, in as many passes as were good: that one is served, the first, its twin, sets
    thresholds. Where it does not win, only its card is written. Names of the intents are tuned on, too, where
    they help the frozen encoder.

    Raises:
        ConfigError: `out` is not empty, the extra is missing, or the model cannot be tuned.
        CatalogError: too few intents or exemplars.
        ArtifactError: weights that cannot be fetched, or a model that cannot be exported.

    """
    names, lessons = lessons_of(catalog)
    _check_settings(settings, out)
    words = [intent.words for intent in catalog.intents]
    held = hold_out(lessons, share, recipe.seed, words)
    _check_lessons(settings.paths.intents, lessons, held)
    store = ArtifactStore(settings.paths.models, settings.paths.specialists, fetching)
    model = load_trainable(settings.encoder.model, store, recipe.threads)
    start = deepcopy(model.state_dict())
    frozen = load_encoder(settings.encoder, store)
    encode = EmbeddingCache(frozen, settings.paths.cache).encode
    frozen_right = judge(encode, lessons, words, ~held).right(lessons.labels)
    taught = taught_of(encode, lessons, words, held)
    kept_out = lessons.only(held)
    epochs = fine_tune(model, taught, kept_out, recipe, watch)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=".tune-") as scratch:
        folder = Path(scratch) / "encoder"
        folder.mkdir()
        exported = export(model, folder, kept_out.texts, TWIN_FILE)

        def right(graph: str) -> int:
            encoder = OnnxEncoder(folder / graph, folder / TOKENIZER_FILE, settings.encoder.threads)
            return judge(encoder.encode, lessons, words, ~held).right(lessons.labels)

        tuned_right = right(TWIN_FILE)
        passes = 0
        if tuned_right > frozen_right:
            passes = passes_for_all(epochs)
            model.load_state_dict(start)
            everything = taught.and_also(kept_out)
            fine_tune(model, everything, None, replace(recipe, epochs=passes), watch)
            exported = export(model, folder, kept_out.texts)
            # It has seen them all, so it has more of them right; less, if that tuning failed.
            tuned_right = min(tuned_right, right(GRAPH_FILE))
        adopted = tuned_right > frozen_right
        if not adopted:
            for path in folder.iterdir():
                path.unlink()
        card = Card(
            base_model=settings.encoder.model,
            base_hash=frozen.hash,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            adopted=adopted,
            frozen_right=frozen_right,
            tuned_right=tuned_right,
            recipe=asdict(recipe) | {"holdout": share},
            epochs=[asdict(epoch) for epoch in epochs],
            cosine_to_torch=exported.cosine,
            quantised=exported.quantised,
            sha256={path.name: verdict.sha256_of(path) for path in sorted(folder.iterdir())},
            exemplars_sha256=sha256_of_all([names[label] for label in lessons.labels], lessons.texts),
            seen=sorted({sha256_of(text) for text in taught.texts}),
            held_out=sorted(sha256_of(text) for text in kept_out.texts),
            passes_on_all=passes,
        )
        card.write(folder)
        if out.is_dir():
            out.rmdir()  # empty: that was checked
        folder.rename(out)
    return card


def lessons_of(catalog: Catalog) -> tuple[tuple[str, ...], Lessons]:
    """Return the names of the intents, and their exemplars numbered by them."""
    pairs = [(text, label) for label, intent in enumerate(catalog.intents) for text in intent.exemplars]
    labels = np.array([label for _, label in pairs], np.int64)
    return tuple(intent.name for intent in catalog.intents), Lessons(tuple(text for text, _ in pairs), labels)


def taught_of(
    encode: Callable[[Sequence[str]], Rows],
    lessons: Lessons,
    words: Sequence[str],
    held: NDArray[np.bool_],
) -> Lessons:
    """Return what to tune on: all but the `held` (n,), and the names of the intents where they help the frozen encoder."""
    taught, nothing = lessons.only(~held), np.zeros(len(held), np.bool_)
    return taught.named(words) if judge(encode, lessons, words, nothing).named else taught


def judge(
    encode: Callable[[Sequence[str]], Rows], lessons: Lessons, words: Sequence[str], seen: NDArray[np.bool_]
) -> CrossFitted:
    """Score what an encoder has not `seen` (n,), as it would be in service; `words` are the names of all intents."""
    rows, names = np.split(encode([*lessons.texts, *words]), [len(lessons.texts)])
    return cross_fit(rows, lessons.labels, len(words), names, seen)


def _check_settings(settings: Settings, out: Path) -> None:
    if (Path(settings.encoder.model) / CARD_FILE).is_file():
        raise ConfigError(
            f"encoder.model: {settings.encoder.model} is a tuned encoder already; name the published one to start from"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists and is not an empty folder")


def _check_lessons(intents: Path, lessons: Lessons, held: NDArray[np.bool_]) -> None:
    found = len(np.unique(lessons.labels))
    if found < 2:
        raise _refused(intents, "intents", found, "tuning sets intents apart; there must be two or more")
    paired = int((np.bincount(lessons.labels[~held]) >= 2).sum())
    if paired < 2:
        message = "tuning needs two or more intents with two or more exemplars each"
        raise _refused(intents, "exemplars", f"{paired} such intents", message)
    if held.sum() < LEAST_KEPT_OUT:
        message = (
            f"too few to keep {LEAST_KEPT_OUT} out of the tuning, which judge it and set its thresholds; "
            f"only intents of {LEAST_TO_HOLD_OUT} or more give any; raise --holdout or add exemplars"
        )
        raise _refused(intents, "exemplars", f"{len(held)}, of which {held.sum()} kept out", message)


def _refused(intents: Path, field: str, value: object, message: str) -> CatalogError:
    return CatalogError([Problem(f"{intents.name}/", 0, field, str(value), message)])
