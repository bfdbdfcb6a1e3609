"""Tuning the encoder: what it learns, what it may not touch, and when it is not used."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from builders import clustered_rows, normalised
from harness import REFUND, WEATHER, Site, write_intent
from pointsman.artifacts.store import ArtifactStore
from pointsman.decision.calibrate import calibrate
from pointsman.decision.cross_fit import cross_fit
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.card import read_card, sha256_of
from pointsman.embedding.centre import centred
from pointsman.embedding.encoder import Rows
from pointsman.embedding.load import load_encoder
from pointsman.embedding.tune import (
    Epoch,
    Lessons,
    Recipe,
    Step,
    batches,
    embed,
    fine_tune,
    hold_out,
    load_trainable,
    passes_for_all,
)
from pointsman.embedding.tuned_encoder import TunedEncoder
from pointsman.errors import ArtifactError, CatalogError, ConfigError
from pointsman.host.offline import load_catalog
from pointsman.host.tuning import lessons_of, tune_encoder
from pointsman.router.snapshot import build_snapshot
from pointsman.sections import Encoder as EncoderSettings
from pointsman.sections import Routing
from pointsman.settings import Settings, load
from pointsman.values.catalog import CLOUD, Catalog, Intent

SHIPPED = Path(__file__).parent.parent / "intents"
SIMILAR = ("cancel_order", "change_delivery_address", "payment_problem", "refund_request", "track_order")
DEFAULT = "all-MiniLM-L6-v2"


def _lessons(counts: list[int]) -> Lessons:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Lessons(tuple(f"text {i}" for i in range(len(labels))), labels)


def _shipped(folder: Path, names: tuple[str, ...] = SIMILAR) -> Site:
    site = Site(folder)
    for name in names:
        content = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text())
        write_intent(site.intents, name, "cloud", content["exemplars"])
    return site


def _tune(settings: Settings, out: Path, recipe: Recipe, share: float = 0.3):
    return tune_encoder(settings, load_catalog(settings), out, recipe, share, lambda _: None, lambda *_: None)


@dataclass(frozen=True)
class Tuned:
    """What the command left: a folder, and what it said."""

    settings: Settings
    folder: Path
    said: str


def _run(*arguments: str):
    from pointsman.cli.encoder import encoder

    return CliRunner().invoke(encoder, ["tune", *arguments])


def _config(site: Site) -> Path:
    path = site.root / "pointsman.yaml"
    folders = {"intents": site.intents, "specialists": site.specialists, "cache": site.root / "cache"}
    paths = {name: str(folder) for name, folder in folders.items()}
    path.write_text(yaml.safe_dump({"paths": paths, "encoder": {"threads": 1}}))
    return path


@pytest.fixture(scope="module")
def store() -> ArtifactStore:
    return ArtifactStore(load().paths.models, Path())


# --- what is tuned on, and what is kept out ------------------------------------------------------


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(2, 8), st.integers(0, 3))
def test_a_batch_pairs_exemplars_of_one_intent_and_holds_no_intent_twice(counts, size, seed) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    used = []
    for batch in batches(labels, size, np.random.default_rng(seed)):
        assert 2 <= len(batch) <= size
        np.testing.assert_array_equal(labels[batch[:, 0]], labels[batch[:, 1]])
        assert len(set(labels[batch[:, 0]])) == len(batch)
        used += batch.ravel().tolist()
    assert len(used) == len(set(used))


def test_a_pass_uses_every_pair_that_has_company() -> None:
    rows = [b.ravel() for b in batches(np.repeat(np.arange(6), 4), 3, np.random.default_rng(0))]
    assert sorted(np.concatenate(rows).tolist()) == list(range(24))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.sampled_from([0.1, 0.2, 0.5]))
def test_every_intent_of_five_keeps_some_out_and_none_of_fewer_does(counts, share) -> None:
    lessons = _lessons(counts)
    held = hold_out(lessons, share, seed=0)
    for label, count in enumerate(counts):
        kept_out = held[lessons.labels == label].sum()
        assert kept_out == (max(1, round(share * count)) if count >= 5 else 0)
    np.testing.assert_array_equal(held, hold_out(lessons, share, seed=0))


def test_a_name_is_not_kept_out() -> None:
    lessons = Lessons(("Track Order", "a", "b", "c", "d"), np.array([0, 0, 0, 0, 0]))
    assert any(hold_out(lessons, 0.5, seed)[0] for seed in range(20))
    assert not any(hold_out(lessons, 0.5, seed, ["track order"])[0] for seed in range(20))


def test_names_are_one_more_lesson_of_each_intent() -> None:
    lessons = _lessons([2, 3]).named(["track order", "say hello"])
    assert lessons.texts[5:] == ("track order", "say hello")
    assert lessons.labels.tolist() == [0, 0, 1, 1, 1, 0, 1]


def test_a_text_that_stands_twice_is_not_kept_out() -> None:
    lessons = Lessons(("Where is it", "where  is it", "a", "b", "c", "d"), np.array([0, 0, 0, 0, 0, 0]))
    for seed in range(20):
        assert not hold_out(lessons, 0.5, seed)[:2].any()


# --- calibration on what was kept out ------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn_together():
    """40 intents: the seen exemplars lie closer to their mean than prompts do, as after a tuning."""
    labels = np.repeat(np.arange(40), 12)
    rows = clustered_rows(np.random.default_rng(0), labels, 64, spread=0.9).astype(np.float64)
    seen = np.tile(np.arange(12) < 8, 40)
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(40)])
    return normalised(np.where(seen[:, None], 0.3 * rows + 0.7 * means[labels], rows)), labels, seen


def _rejected(calibration, rows, labels, seen) -> float:
    """Share of unseen exemplars under the threshold, each scored without itself."""
    held = cross_fit(rows, labels, 40, seen=seen)
    margins = held.best - calibration.offsets[held.predicted]
    return float((margins[held.known] < calibration.margin).mean())


def test_seen_exemplars_promise_too_much_and_kept_out_ones_do_not(drawn_together) -> None:
    rows, labels, seen = drawn_together
    # Half of the kept-out ones calibrate; the other half, hidden until now, is what prompts are like.
    hidden = ~seen & (np.arange(len(seen)) % 2 == 0)
    shown = ~hidden
    arguments = (rows[shown], labels[shown], 40, 0.05)
    honest = calibrate(*arguments, 0.0, seen=seen[shown])
    naive = calibrate(*arguments, 0.0)
    assert 0.02 < _rejected(honest, rows, labels, ~hidden) < 0.10
    assert _rejected(naive, rows, labels, ~hidden) > 0.15


def test_only_kept_out_exemplars_are_scored(drawn_together) -> None:
    rows, labels, seen = drawn_together
    held = cross_fit(rows, labels, 40, seen=seen)
    np.testing.assert_array_equal(held.known, ~seen)
    assert (held.scores[seen] == -1).all()


@pytest.mark.parametrize("unseen", [0, 19], ids="{} kept out".format)
def test_with_too_few_kept_out_it_calibrates_on_all(drawn_together, unseen) -> None:
    rows, labels, _ = drawn_together
    seen = np.arange(len(labels)) >= unseen
    result = calibrate(rows, labels, 40, 0.05, 0.1, seen=seen)
    np.testing.assert_array_equal(result.offsets, calibrate(rows, labels, 40, 0.05, 0.1).offsets)


def test_an_encoder_that_has_seen_nothing_is_calibrated_as_ever(drawn_together) -> None:
    rows, labels, _ = drawn_together
    result = calibrate(rows, labels, 40, 0.05, 0.1, seen=np.zeros(len(labels), np.bool_))
    expected = calibrate(rows, labels, 40, 0.05, 0.1)
    assert (result.margin, result.curve) == (expected.margin, expected.curve)


class Remembered:
    """An encoder of texts that are numbers: the rows it was given; of all others, one by their letters."""

    limit = twin = None

    def __init__(self, name: str, rows: Rows, seen: NDArray[np.bool_]) -> None:
        self.hash, self._rows, self._seen = name * 64, rows.astype(np.float32), seen
        self.dimensions = rows.shape[1]

    def encode(self, texts: Sequence[str]) -> Rows:
        other = [np.random.default_rng(list(text.encode())).normal(size=self.dimensions) for text in texts]
        return np.stack(
            [
                self._rows[int(text)] if text.isdigit() else normalised(row[None])[0]
                for text, row in zip(texts, other, strict=True)
            ]
        ).astype(np.float32)

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        return self._seen[[int(text) for text in texts]]

    def tokens(self, text: str) -> Sequence[str]:
        return text.split()


def test_what_was_tuned_on_all_serves_and_its_twin_sets_the_thresholds(drawn_together, tmp_path) -> None:
    rows, labels, seen = drawn_together
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(40)])
    served = Remembered("a", normalised(0.3 * rows + 0.7 * means[labels]), np.ones(len(labels), np.bool_))
    served.twin = twin = Remembered("b", rows, seen)
    texts = np.array([str(i) for i in range(len(labels))])
    catalog = Catalog(tuple(Intent(f"intent_{c}", CLOUD, tuple(texts[labels == c])) for c in range(40)))
    cache = EmbeddingCache(served, tmp_path)
    matcher = build_snapshot(catalog, cache, served.hash, Routing(), None).matcher
    words = [intent.words for intent in catalog.intents]
    order = [int(text) for intent in catalog.intents for text in intent.exemplars]
    np.testing.assert_array_equal(matcher.index.rows, served.encode(texts[order]))
    expected = calibrate(
        twin.encode(texts[order]), labels[order], 40, 0.05, names=twin.encode(words), seen=seen[order]
    )
    np.testing.assert_array_equal(matcher.calibration.offsets, expected.offsets)
    assert matcher.calibration.margin == expected.margin
    own = calibrate(served.encode(texts[order]), labels[order], 40, 0.05, names=served.encode(words))
    assert own.margin > expected.margin + 0.05


# --- tuning --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lessons(tmp_path_factory) -> Lessons:
    site = _shipped(tmp_path_factory.mktemp("lessons"))
    return lessons_of(load_catalog(site.settings()))[1]


@pytest.mark.reference
def test_a_pass_lowers_the_loss_on_kept_out_exemplars_and_equal_seeds_give_equal_weights(
    store, lessons, monkeypatch
) -> None:
    from pointsman.embedding.tune import _Tuning

    monkeypatch.setattr("pointsman.embedding.tune._SCALES", (20.0,))

    few = lessons.only(np.arange(len(lessons.texts)) % 2 == 0)
    held = hold_out(few, 0.3, 0)
    recipe = Recipe(epochs=1, learning_rate=1e-4)
    models = [load_trainable(DEFAULT, store, 1) for _ in range(2)]
    words = {name: tensor.clone() for name, tensor in models[0].state_dict().items() if "word_emb" in name}
    before = _Tuning(models[0], few.only(~held), few.only(held), recipe)._held_out_loss()
    steps: list[Step] = []
    histories = [fine_tune(model, few.only(~held), few.only(held), recipe, steps.append) for model in models]
    assert histories[0] == histories[1]
    assert histories[0][0].held_out_loss < 0.9 * before
    np.testing.assert_array_equal(*(embed(model, few.texts[:5]) for model in models))
    mixed = _flat(models[0])
    whole = load_trainable(DEFAULT, store, 1)
    published = _flat(whole)
    fine_tune(whole, few.only(~held), few.only(held), replace(recipe, tuned_share=1.0), lambda _: None)
    np.testing.assert_allclose(mixed, published + 0.75 * (_flat(whole) - published), atol=1e-6)
    assert words
    for name, tensor in words.items():
        assert (models[0].state_dict()[name] == tensor).all()
    first = steps[: len(steps) // 2]
    assert [step.done for step in first] == list(range(1, first[0].total + 1))
    assert first[-1].left_s == 0


def _flat(model) -> np.ndarray:
    """One tuned matrix, copied."""
    (found,) = [t for name, t in model.state_dict().items() if name.endswith("layer.3.output.dense.weight")]
    return found.numpy().copy()


@pytest.mark.reference
def test_kept_out_exemplars_are_looked_at_at_the_scale_that_suits_them(store, lessons, monkeypatch) -> None:
    from pointsman.embedding import tune

    held = hold_out(lessons, 0.3, 0)
    tuning = tune._Tuning(
        load_trainable(DEFAULT, store, 1), lessons.only(~held), lessons.only(held), Recipe()
    )
    best, losses = tuning._held_out_loss(), []
    for scale in tune._SCALES:
        with monkeypatch.context() as patch:
            patch.setattr(tune, "_SCALES", (scale,))
            losses.append(tuning._held_out_loss())
    assert best == min(losses) < max(losses)


@pytest.mark.reference
def test_without_kept_out_exemplars_all_passes_are_made_and_the_last_stands(store, lessons) -> None:
    recipe = Recipe(epochs=2, patience=1, tuned_share=1.0)
    models = [load_trainable(DEFAULT, store, 1) for _ in range(2)]
    few = lessons.only(np.arange(len(lessons.texts)) % 4 == 0)
    steps: list[Step] = []
    epochs = fine_tune(models[0], few, None, recipe, steps.append)
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert all(np.isnan(epoch.held_out_loss) for epoch in epochs)
    assert all(step.final for step in steps)
    # Judged on what it learns from, it is best at the end: the same weights.
    judged = fine_tune(models[1], few, few, recipe, steps.append)
    assert judged[1].held_out_loss < judged[0].held_out_loss
    assert not steps[-1].final
    np.testing.assert_array_equal(*(embed(model, few.texts[:5]) for model in models))


@pytest.mark.reference
def test_it_stops_when_passes_no_longer_help_and_ends_with_the_best_one(store, lessons) -> None:
    from pointsman.embedding.tune import _Tuning

    held = hold_out(lessons, 0.3, 0)
    recipe = Recipe(epochs=12, patience=2, learning_rate=3e-3, tuned_share=1.0)  # far too fast
    model = load_trainable(DEFAULT, store, 1)
    tuning = _Tuning(model, lessons.only(~held), lessons.only(held), recipe)
    losses = [epoch.held_out_loss for epoch in tuning.run(lambda _: None)]
    assert len(losses) < 12
    assert len(losses) == np.argmin(losses) + 1 + 2
    assert tuning._held_out_loss() == pytest.approx(min(losses))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Tuned:
    """Five similar intents as shipped, tuned on by the command."""
    site = _shipped(tmp_path_factory.mktemp("tuned"))
    out = site.root / "encoder"
    said = _run(
        "--config", str(_config(site)), "--out", str(out), "--epochs", "3", "--holdout", "0.3",
        "--learning-rate", "1e-4",
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    return Tuned(site.settings(encoder={"threads": 1}), out, said.output)


@pytest.mark.reference
def test_the_command_says_what_it_won_and_how_to_serve_it(tuned) -> None:
    assert "tuning, pass 3: loss" in tuned.said
    assert "s left at most, then on all" in tuned.said
    passes = passes_for_all([Epoch(**epoch) for epoch in read_card(tuned.folder).epochs])
    assert tuned.said.count("tuning on all, pass") == passes
    assert f"encoder.model: {tuned.folder}" in tuned.said


@pytest.mark.reference
def test_a_tuned_encoder_is_used_because_it_won_on_what_it_has_not_seen(tuned) -> None:
    card = read_card(tuned.folder)
    catalog = load_catalog(tuned.settings)
    texts = (*lessons_of(catalog)[1].texts, *(intent.words for intent in catalog.intents))
    assert card.adopted
    assert card.tuned_right > card.frozen_right
    assert set(card.seen) | set(card.held_out) == {sha256_of(text) for text in texts}
    assert not set(card.seen) & set(card.held_out)
    assert card.recipe["holdout"] == 0.3
    assert sorted(path.name for path in tuned.folder.iterdir()) == [
        "card.json",
        "model.onnx",
        "tokenizer.json",
        "twin.onnx",
    ]
    assert not any(text in (tuned.folder / "card.json").read_text() for text in texts)


@pytest.mark.reference
def test_the_exported_graph_is_the_tuned_model(store, lessons, tmp_path) -> None:
    from pointsman.embedding.export import export

    held = hold_out(lessons, 0.3, 0)
    model = load_trainable(DEFAULT, store, 1)
    before = embed(model, lessons.texts)
    fine_tune(
        model, lessons.only(~held), lessons.only(held), Recipe(epochs=1, learning_rate=1e-4), lambda _: None
    )
    exported = export(model, tmp_path, lessons.texts[:20])
    assert exported.quantised
    assert exported.cosine >= 0.99
    assert (tmp_path / "model.onnx").stat().st_size < 24 << 20
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert operators["QAttention"] == operators["Gelu"] == 6  # one a layer
    from pointsman.embedding.onnx_encoder import OnnxEncoder

    served = OnnxEncoder(tmp_path / "model.onnx", tmp_path / "tokenizer.json", 1)
    # Texts that the export did not compare; one far longer than the example that the graph was traced with.
    texts = [*lessons.texts[20:], "refund my order please " * 40]
    cosines = (served.encode(texts) * embed(model, texts)).sum(axis=1)
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.97
    # Nearer to the tuned model than to what it was.
    assert cosines[:-1].mean() > (before[20:] * embed(model, texts[:-1])).sum(axis=1).mean() + 0.01


@pytest.mark.reference
def test_centring_changes_nothing_but_what_int8_loses(store, lessons, tmp_path) -> None:
    from pointsman.embedding.export import _export_graph, export
    from pointsman.embedding.graph import fuse, quantise
    from pointsman.embedding.onnx_encoder import OnnxEncoder

    model = load_trainable(DEFAULT, store, 1)
    expected = embed(model, lessons.texts)
    moved = centred(model, lessons.texts[:40])
    np.testing.assert_allclose(embed(moved, lessons.texts), expected, atol=1e-5)
    np.testing.assert_array_equal(embed(model, lessons.texts), expected)  # it is a copy that was moved
    export(model, tmp_path, lessons.texts[:40])
    exact, fused, plain = (tmp_path / f"{name}.onnx" for name in ("exact", "fused", "plain"))
    _export_graph(model, exact)
    fuse(exact, fused)
    quantise(fused, plain)
    lost = []
    for path in (plain, tmp_path / "model.onnx"):
        served = OnnxEncoder(path, tmp_path / "tokenizer.json", 1).encode(lessons.texts)
        lost.append(1 - (served * expected).sum(axis=1).mean())
    assert lost[1] < 0.9 * lost[0]


def _added_twice(layer) -> None:
    """Let rows be added back twice at its end: BERT by the names, and another function."""
    import torch

    class Twice(torch.nn.Module):
        def __init__(self, dense, norm) -> None:
            super().__init__()
            self.dense, self.LayerNorm = dense, norm

        def forward(self, hidden, rows):
            return self.LayerNorm(self.dense(hidden) + 2 * rows)

    layer.output = Twice(layer.output.dense, layer.output.LayerNorm)


def _without_bias(layer) -> None:
    layer.intermediate.dense.bias = None


@pytest.mark.reference
@pytest.mark.parametrize(
    ("change", "told"), [(_added_twice, "mean cosine to the model 0."), (_without_bias, "TypeError")]
)
def test_what_only_looks_like_bert_is_exported_as_it_is(store, tmp_path, log_lines, change, told) -> None:
    from pointsman.embedding.export import export

    model = load_trainable(DEFAULT, store, 1)
    change(next(m for m in model.modules() if hasattr(m, "encoder")).encoder.layer[3])
    exported = export(model, tmp_path, REFUND)
    assert exported.cosine > 0.98
    (line,) = [line for line in log_lines if line["event"] == "encoder.not_centred"]
    assert told in line["error"]


@pytest.mark.reference
def test_a_model_of_another_shape_is_left_alone() -> None:
    import torch

    other = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert centred(other, ["never embedded"]) is other


@pytest.mark.reference
def test_a_graph_that_cannot_be_fused_is_exported_as_it_is(
    store, lessons, tmp_path, monkeypatch, log_lines
) -> None:
    from pointsman.embedding.export import export

    def break_down(source: Path, target: Path) -> None:
        raise AssertionError("two Gathers where one was expected")

    monkeypatch.setattr("pointsman.embedding.export.fuse", break_down)
    exported = export(load_trainable(DEFAULT, store, 1), tmp_path, lessons.texts[:20])
    assert exported.quantised
    assert [line["error"] for line in log_lines if line["event"] == "encoder.not_fused"] == [
        "AssertionError: two Gathers where one was expected"
    ]


@pytest.mark.reference
def test_a_tuned_encoder_is_served_by_its_folder_without_torch(tuned) -> None:
    folder = tuned.folder
    program = (
        "import sys; from pathlib import Path\n"
        "from pointsman.artifacts.store import ArtifactStore\n"
        "from pointsman.embedding.load import load_encoder\n"
        "from pointsman.sections import Encoder\n"
        f"encoder = load_encoder(Encoder(model={str(folder)!r}, threads=1), ArtifactStore(Path('none'), Path()))\n"
        "assert encoder.encode(['where is my parcel']).shape == (1, 384)\n"
        "assert 'torch' not in sys.modules and 'sentence_transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.reference
def test_a_tuned_encoder_knows_what_it_has_seen(tuned, store) -> None:
    encoder = load_encoder(EncoderSettings(model=str(tuned.folder), threads=1), store)
    assert isinstance(encoder, TunedEncoder)
    catalog = load_catalog(tuned.settings)
    names = [intent.words for intent in catalog.intents]
    asked = [*lessons_of(catalog)[1].texts, *names, "never heard of it"]
    assert encoder.seen(asked).tolist() == [True] * (len(asked) - 1) + [False]
    assert encoder.twin is not None
    assert encoder.twin.seen(asked).sum() == len(read_card(tuned.folder).seen)
    rows, twin = encoder.encode(asked), encoder.twin.encode(asked)
    assert 0.8 < (rows * twin).sum(axis=1).mean() < 0.999


@pytest.mark.reference
def test_what_is_served_was_tuned_once_and_on_all(tuned, store) -> None:
    card, catalog = read_card(tuned.folder), load_catalog(tuned.settings)
    _, lessons = lessons_of(catalog)
    words = [intent.words for intent in catalog.intents]
    held = hold_out(lessons, 0.3, 0, words)
    taught = lessons.only(~held)
    if sha256_of(words[0]) in card.seen:
        taught = taught.named(words)
    assert len(card.seen) == len(taught.texts)
    recipe = Recipe(epochs=card.passes_on_all, learning_rate=1e-4)
    model = load_trainable(DEFAULT, store, 1)
    fine_tune(model, taught.and_also(lessons.only(held)), None, recipe, lambda _: None)
    encoder = load_encoder(EncoderSettings(model=str(tuned.folder), threads=1), store)
    expected = embed(model, lessons.texts)
    off, twins = (1 - (one.encode(lessons.texts) * expected).sum(axis=1) for one in (encoder, encoder.twin))
    assert off.mean() < 0.01
    assert twins[held].mean() > 2 * off[held].mean()


@pytest.mark.reference
def test_one_that_the_tuning_on_all_ruined_is_never_used(tmp_path, monkeypatch) -> None:
    def ruinous(model, seen, held, recipe, watch):
        rate = recipe.learning_rate if held else 0.02
        return fine_tune(model, seen, held, replace(recipe, learning_rate=rate), watch)

    monkeypatch.setattr("pointsman.host.tuning.fine_tune", ruinous)
    settings = _shipped(tmp_path).settings(encoder={"threads": 1})
    card = _tune(settings, tmp_path / "out", Recipe(epochs=3, learning_rate=1e-4))
    assert card.passes_on_all
    assert not card.adopted
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["card.json"]


@pytest.mark.reference
def test_an_encoder_that_a_tuning_ruined_is_never_used(store, tmp_path) -> None:
    out = tmp_path / "out"
    said = _run(
        "--config", str(_config(_shipped(tmp_path))), "--out", str(out), "--epochs", "1", "--holdout", "0.3",
        "--learning-rate", "0.02",
    )  # fmt: skip
    assert said.exit_code == 1
    assert "not better" in said.output
    assert [path.name for path in out.iterdir()] == ["card.json"]
    card = json.loads((out / "card.json").read_text())
    assert card["tuned_right"] < card["frozen_right"]
    with pytest.raises(ArtifactError, match="did not win"):
        load_encoder(EncoderSettings(model=str(out), threads=1), store)


@pytest.mark.reference
def test_at_a_tie_the_frozen_encoder_stays(tmp_path) -> None:
    names = ("book_restaurant", "get_weather", "rate_book", "sql_count", "translate_text")
    settings = _shipped(tmp_path, names).settings(encoder={"threads": 1})
    card = _tune(settings, tmp_path / "out", Recipe(epochs=1, learning_rate=1e-5))
    assert card.tuned_right == card.frozen_right == len(card.held_out)
    assert not card.adopted


@pytest.mark.parametrize(
    ("losses", "passes"), [([0.3, 0.2, 0.1], 3), ([0.3, 0.1, 0.1019, 0.1021], 3), ([0.1, 0.2, 0.3], 1)]
)
def test_with_nothing_held_out_it_makes_as_many_passes_as_were_good(losses, passes) -> None:
    assert passes_for_all([Epoch(i, 0.0, loss) for i, loss in enumerate(losses, 1)]) == passes


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intents", "told"),
    [
        ({"refund": REFUND * 3}, "there must be two or more (got 1)"),
        ({"refund": REFUND[:1], "weather": WEATHER[:1]}, "two or more exemplars each (got 0 such intents)"),
        ({"refund": REFUND, "weather": WEATHER}, "too few to keep 20 out"),
    ],
    ids=["one intent", "one exemplar an intent", "too few to judge by"],
)
def test_too_little_to_tune_on_is_said_before_anything_is_loaded(tmp_path, intents, told) -> None:
    site = Site(tmp_path)
    for name, exemplars in intents.items():
        unique = [f"{text} {i}" for i, text in enumerate(exemplars)]
        write_intent(site.intents, name, "cloud", unique)
    with pytest.raises(CatalogError) as raised:
        _tune(site.settings(), tmp_path / "out", Recipe(), 0.2)
    assert told in str(raised.value)
    assert str(raised.value).startswith("intents/:")
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_how_to_install_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'pointsman\[encoder\]'"):
        _tune(_shipped(tmp_path).settings(), tmp_path / "out", Recipe())


def test_a_folder_with_something_in_it_is_not_written_to(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="not an empty folder"):
        _tune(_shipped(tmp_path).settings(), tmp_path / "out", Recipe())
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


@pytest.mark.reference
def test_a_tuned_encoder_is_not_tuned_again(tuned, tmp_path) -> None:
    folder = tuned.folder
    settings = _shipped(tmp_path).settings(encoder={"model": str(folder)})
    with pytest.raises(ConfigError, match="name the published one"):
        _tune(settings, tmp_path / "out", Recipe())


@pytest.mark.reference
def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    settings = _shipped(tmp_path).settings(encoder={"model": "./no-such-model"})
    with pytest.raises(ConfigError, match="no-such-model"):
        _tune(settings, tmp_path / "out", Recipe())


@pytest.mark.reference
def test_changed_or_missing_files_of_a_tuned_encoder_are_refused(tuned, store, tmp_path) -> None:
    folder = tuned.folder
    for name, change, told in (
        ("model.onnx", lambda path: path.write_bytes(path.read_bytes() + b"\0"), r"model\.onnx: sha256 is"),
        ("twin.onnx", Path.unlink, r"twin\.onnx: no such file"),
        ("tokenizer.json", Path.unlink, r"tokenizer\.json: no such file"),
        ("card.json", lambda path: path.write_text("{}"), "not the card"),
        ("card.json", lambda path: path.write_text("{"), "not the card"),
    ):
        copy = tmp_path / "copy"
        shutil.copytree(folder, copy)
        change(copy / name)
        with pytest.raises(ArtifactError, match=told):
            load_encoder(EncoderSettings(model=str(copy), threads=1), store)
        shutil.rmtree(copy)


@pytest.mark.reference
def test_a_tuned_encoder_is_not_for_the_torch_backend(tuned, store) -> None:
    folder = tuned.folder
    settings = EncoderSettings(model=str(folder), backend="sentence-transformers", threads=1)
    with pytest.raises(ConfigError, match="tuned encoder"):
        load_encoder(settings, store)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--holdout", "0"), ("--holdout", "0.9"), ("--holdout", "nan"), ("--learning-rate", "-1")],
)
def test_options_out_of_range_are_named(tmp_path, option, value) -> None:
    result = _run("--config", str(_config(Site(tmp_path))), "--out", str(tmp_path / "out"), option, value)
    assert isinstance(result.exception, ConfigError)
    assert option in str(result.exception)
    assert value in str(result.exception).lower()
