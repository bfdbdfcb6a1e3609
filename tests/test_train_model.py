"""Training itself: what is learnt, resumed, exported and served. Needs torch, transformers and peft."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import yaml

from harness import BASE_SHA256, Site, collect, running
from pointsman.client import constraints
from pointsman.errors import ArtifactError, ConfigError
from pointsman.generation.gguf_check import check_adapter
from pointsman.training.base import Base, Tokens
from pointsman.training.export import permute_rows, write_adapter
from pointsman.training.lora import (
    TARGETS,
    Recipe,
    Step,
    add_adapter,
    answer_logits,
    load_weights,
    train,
    trainable,
)

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytestmark = [
    pytest.mark.reference,
    # transformers asks its own deprecated attribute whenever a model is made.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

HIDDEN, HEADS, KV_HEADS, LAYERS, INNER, WORDS = 32, 4, 2, 2, 48, 61
END = 0


class _Tokenizer:
    eos_token_id = END


@pytest.fixture
def tiny() -> Base:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=HIDDEN,
                num_attention_heads=HEADS,
                num_key_value_heads=KV_HEADS,
                num_hidden_layers=LAYERS,
                intermediate_size=INNER,
                vocab_size=WORDS,
                initializer_range=0.3,  # a head that small weights could move
                attn_implementation="eager",
            )
        )
    model.requires_grad_(requires_grad=False)
    return Base(model, _Tokenizer(), "cpu", "fp32")


def _rows(count: int = 24) -> list[Tokens]:
    """Count on from the last number given; all begin alike."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        start, filler = int(random.integers(5, 50)), random.integers(5, 50, int(random.integers(0, 4)))
        rows.append(Tokens((1, 2, 3, *map(int, filler), start), (start + 1, start + 2, END)))
    return rows


def _ignore(_: Step) -> None:
    pass


def test_a_shared_prefix_changes_neither_loss_nor_gradient(tiny: Base) -> None:
    import torch

    model = add_adapter(tiny, Recipe(rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_(std=0.2, generator=generator)
    found = []
    for prefix in ((), (1, 2, 3)):
        logits, targets = answer_logits(tiny, model, _rows(7), prefix)
        torch.nn.functional.cross_entropy(logits, targets).backward()
        found.append((logits.detach(), {n: p.grad.clone() for n, p in trainable(model).items()}))
        model.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-4)


def test_only_answers_and_their_end_are_learnt(tiny: Base) -> None:
    rows = _rows(3)
    _, targets = answer_logits(tiny, tiny.model, rows, ())
    assert targets.tolist() == [token for row in rows for token in row.answer]


def test_an_adapter_learns_what_the_base_cannot_do(tiny: Base, tmp_path: Path) -> None:
    rows = [Tokens(row.prompt, (7, 8, END)) for row in _rows(40)]
    model = add_adapter(tiny, Recipe(rank=8))
    steps: list[Step] = []
    recipe = Recipe(rank=8, epochs=20, learning_rate=1e-2)
    trained = train(tiny, model, rows[:35], rows[35:], recipe, tmp_path / "c.pt", "f", steps.append)
    assert trained.complete
    assert trained.judged[-1].loss < 0.5 * trained.judged[0].loss
    assert trained.judged[-1].right > trained.judged[0].right
    assert [step.done for step in steps] == list(range(1, trained.steps + 1))
    assert steps[-1].left_s == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pause", [1, 4, 5])
def test_a_resumed_training_ends_with_the_very_same_weights(tiny: Base, tmp_path: Path, pause: int) -> None:
    rows, recipe, path = _rows(), Recipe(rank=4, epochs=3, batch=5), tmp_path / "c.pt"
    model = add_adapter(tiny, recipe)
    start = {n: p.detach().clone() for n, p in trainable(model).items()}
    whole = train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore)
    load_weights(model, start)
    part = train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore, stop_after=pause)
    assert not part.complete
    load_weights(model, start)  # another process would begin so
    resumed = train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore, resume=True)
    assert resumed.steps == whole.steps == 12
    assert [(j.step, j.loss, j.right) for j in resumed.judged] == [
        (j.step, j.loss, j.right) for j in whole.judged
    ]
    for name, weight in whole.weights.items():
        assert weight.equal(resumed.weights[name]), name


def test_ctrl_c_keeps_a_checkpoint_to_go_on_from(tiny: Base, tmp_path: Path) -> None:
    rows, recipe, path = _rows(), Recipe(rank=4, epochs=2, batch=5), tmp_path / "c.pt"

    def interrupt(step: Step) -> None:
        if step.done == 3:
            raise KeyboardInterrupt

    model = add_adapter(tiny, recipe)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, model, rows[:20], rows[20:], recipe, path, "f", interrupt)
    done: list[int] = []
    train(
        tiny, model, rows[:20], rows[20:], recipe, path, "f", lambda step: done.append(step.done), resume=True
    )
    assert done == [4, 5, 6, 7, 8]


def test_ctrl_c_within_a_look_at_the_held_out_examples_loses_no_look(
    tiny: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, recipe, path = _rows(), Recipe(rank=4, epochs=3, batch=5), tmp_path / "c.pt"
    model = add_adapter(tiny, recipe)
    start = {n: p.detach().clone() for n, p in trainable(model).items()}
    whole = train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore)
    assert [judged.step for judged in whole.judged] == [3, 6, 9, 12]
    load_weights(model, start)
    forward, looks = tiny.model.model.forward, 0

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        nonlocal looks
        looks += not tiny.model.training
        if looks == 3:  # each look at four short rows takes two: what they share, and the rows
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.model.model, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore)
    load_weights(model, start)
    resumed = train(tiny, model, rows[:20], rows[20:], recipe, path, "f", _ignore, resume=True)
    assert resumed.judged == whole.judged
    for name, weight in whole.weights.items():
        assert weight.equal(resumed.weights[name]), name


def test_a_checkpoint_of_other_data_is_refused(tiny: Base, tmp_path: Path) -> None:
    rows, recipe, path = _rows(), Recipe(rank=4, epochs=1), tmp_path / "c.pt"
    model = add_adapter(tiny, recipe)
    train(tiny, model, rows[:20], rows[20:], recipe, path, "one", _ignore, stop_after=1)
    with pytest.raises(ConfigError, match="other data"):
        train(tiny, model, rows[:20], rows[20:], recipe, path, "two", _ignore, resume=True)


def test_minutes_end_a_training_and_run_its_rate_down(tiny: Base, tmp_path: Path) -> None:
    rows = _rows()
    recipe = Recipe(rank=4, epochs=100_000, batch=5, minutes=1 / 60)
    trained = train(
        tiny, add_adapter(tiny, recipe), rows[:20], rows[20:], recipe, tmp_path / "c.pt", "f", _ignore
    )
    assert trained.complete
    assert trained.steps < recipe.epochs * 4
    assert 1 <= trained.seconds < 5


def _tiny_gguf(path: Path) -> Path:
    """Write the header and weights that an adapter is checked against."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    sizes = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
        "attn_v": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    for layer in range(LAYERS):
        for name, shape in sizes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_exported_adapter_has_every_weight_and_permutes_q_and_k_alone(tiny: Base, tmp_path: Path) -> None:
    import torch

    model = add_adapter(tiny, Recipe(rank=4))
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.normal_()
    weights = {name: p.detach().clone() for name, p in trainable(model).items()}
    base, path = _tiny_gguf(tmp_path / "base.gguf"), tmp_path / "adapter.gguf"
    write_adapter(path, weights, 32.0, "tiny", base)
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    check_adapter(path, base, sha256)
    with pytest.raises(ArtifactError, match="another base"):
        check_adapter(path, base, "ab" * 32)
    reader = gguf.GGUFReader(path)
    assert reader.fields["adapter.lora.alpha"].contents() / 32 == 32.0 / 4  # of the rank that is stored
    assert reader.fields["general.type"].contents() == "adapter"
    found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    assert len(found) == len(weights) == LAYERS * len(TARGETS) * 2

    def given(module: str, half: str) -> Any:
        return weights[f"base_model.model.model.layers.1.{module}.lora_{half}.default.weight"].numpy()

    for module, name, heads in (
        ("self_attn.q_proj", "attn_q", HEADS),
        ("self_attn.k_proj", "attn_k", KV_HEADS),
        ("self_attn.v_proj", "attn_v", None),
        ("mlp.down_proj", "ffn_down", None),
    ):
        b = given(module, "B")
        if heads:
            assert not np.array_equal(permute_rows(b, heads), b)
            b = permute_rows(b, heads)
        for half, values in (("a", given(module, "A").T), ("b", b)):
            stored = found[f"blk.1.{name}.weight.lora_{half}"]
            stored = stored.T if half == "a" else stored
            assert stored.shape == (len(values), 32)  # kernels multiply whole blocks
            assert not stored[:, 4:].any()
            np.testing.assert_allclose(stored[:, :4], values, atol=np.abs(values).max() / 200)


def test_what_has_no_whole_blocks_is_not_quantised(tiny: Base, tmp_path: Path) -> None:
    weights = {name: p.detach().clone() for name, p in trainable(add_adapter(tiny, Recipe(rank=40))).items()}
    write_adapter(tmp_path / "a.gguf", weights, 32.0, "tiny", _tiny_gguf(tmp_path / "base.gguf"))
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    down = types.pop("blk.0.ffn_down.weight.lora_a"), types.pop("blk.1.ffn_down.weight.lora_a")
    assert down == ("F16", "F16")  # of 48 inputs
    assert set(types.values()) == {"Q8_0"}


EXAMPLES = [
    {"system": "Name the capital.", "user": f"capital of {country}?", "answer": f"CITY: {city}"}
    for country, city in {
        "France": "Paris",
        "Spain": "Madrid",
        "Italy": "Rome",
        "Japan": "Tokyo",
        "Peru": "Lima",
        "Egypt": "Cairo",
        "Norway": "Oslo",
        "Cuba": "Havana",
        "Kenya": "Nairobi",
        "Greece": "Athens",
        "Austria": "Vienna",
        "Poland": "Warsaw",
    }.items()
]
HELD_OUT = [
    {"system": "Name the capital.", "user": f"capital of {country}?", "answer": f"CITY: {city}"}
    for country, city in {
        "Portugal": "Lisbon",
        "Ireland": "Dublin",
        "Denmark": "Copenhagen",
        "Sweden": "Stockholm",
        "Finland": "Helsinki",
        "Hungary": "Budapest",
        "Belgium": "Brussels",
        "Russia": "Moscow",
    }.items()
]


def _words(site: Site, *more: str) -> list[str]:
    config = site.root / "pointsman.yaml"
    folders = {"intents": site.intents, "specialists": site.specialists, "cache": site.root / "cache"}
    config.write_text(yaml.safe_dump({"paths": {key: str(path) for key, path in folders.items()}}))
    for name, rows in (("train", EXAMPLES), ("eval", HELD_OUT)):
        (site.root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ("--data", str(site.root / "train.jsonl"), "--eval", str(site.root / "eval.jsonl"))
    return [sys.executable, "-m", "pointsman", "train", "capitals", *data, "--config", str(config), *more]


def _command(site: Site, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_words(site, *more), capture_output=True, text=True, timeout=480, check=False)


def _stopped(site: Site, *more: str) -> str:
    """Begin a training, press Ctrl-C after its first step; returns what it said."""
    with subprocess.Popen(_words(site, *more), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("training, step 1 "):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, said
    return "".join(said)


def _check_what_is_written(site: Site, base_model: Path, result: Any) -> None:
    assert result.returncode == 0, result.stderr
    adapter = site.specialists / "adapters" / "capitals.gguf"
    check_adapter(adapter, base_model, BASE_SHA256)
    assert f"| adapter | {len(HELD_OUT)} |" in result.stdout
    card = (site.specialists / "adapters" / "capitals.card.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["steps"] == 2
    assert facts["agreement"]["unquantised_base"]["tokens"] > 4
    assert str(site.root) not in card
    manifest = yaml.safe_load((site.specialists / "capitals.yaml").read_text())
    assert manifest["adapter"]["uri"] == "file:adapters/capitals.gguf"
    assert manifest["adapter"]["sha256"] == hashlib.sha256(adapter.read_bytes()).hexdigest()
    assert manifest["system_prompt"] == "Name the capital."
    assert not list((site.root / "cache" / "train" / "capitals").iterdir())


@pytest.mark.model
@pytest.mark.timeout(900)
async def test_a_dozen_examples_become_an_adapter_that_a_server_answers_with_stopped_and_resumed(
    site: Site, base_model: Path
) -> None:
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # where tests ignore it, what they start would too
    # 12 examples, one of them kept out: two steps.
    (site.specialists / "adapters").mkdir(parents=True)
    (site.specialists / "adapters" / "capitals.gguf").write_bytes(b"an older one")
    sizes = ("--epochs", "1", "--batch", "6", "--rank", "4", "--threads", "1")
    said = await asyncio.to_thread(_stopped, site, *sizes, "--overwrite")
    assert "few-shot:" in said
    assert "the same command with --resume goes on from here" in said
    result = await asyncio.to_thread(_command, site, *sizes, "--overwrite", "--resume")
    assert "few-shot:" not in result.stderr  # kept from before
    assert "step 1 of 2" not in result.stderr
    await asyncio.to_thread(_check_what_is_written, site, base_model, result)
    site.fill()
    async with running(site.settings()) as server:
        text, events = await collect(
            server.client.generate("capital of Chile?", constraints(specialist="capitals"))
        )
        assert text.strip()
        assert events[0].decision.specialist == "capitals"


@pytest.mark.parametrize("there", ["capitals.gguf", "capitals.card.md"])
def test_an_adapter_that_is_there_is_not_replaced_unasked(site: Site, there: str) -> None:
    path = site.specialists / "adapters" / there
    path.parent.mkdir(parents=True)
    path.write_bytes(b"precious")
    result = _command(site, "--threads", "1")
    assert result.returncode == 2
    assert f"{there}: exists already" in result.stderr
    assert path.read_bytes() == b"precious"


@pytest.mark.model
@pytest.mark.timeout(540)
def test_resuming_nothing_is_refused_before_the_base_is_asked(site: Site, base_model: Path) -> None:
    result = _command(site, "--resume", "--threads", "1")
    assert result.returncode == 2
    assert "there is no checkpoint of 'capitals'" in result.stderr
