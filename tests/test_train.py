"""Examples read and refused, adapters exported, answers measured: what needs no training."""

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapters import write_adapter
from pointsman.errors import ArtifactError, CatalogError, ConfigError
from pointsman.host.training import keep_baselines, kept_baselines
from pointsman.training.agreement import Agreement, check_agreement
from pointsman.training.base import tokenise
from pointsman.training.card import Card
from pointsman.training.engine import Answer
from pointsman.training.evaluate import Confidence, Figures, measure
from pointsman.training.examples import (
    Example,
    check_no_leak,
    check_one_system,
    held_out_of,
    read_examples,
    without_leaks,
)
from pointsman.training.export import permute_rows, write_unquantised
from pointsman.training.lora import Judged, Recipe, batches, common_prefix
from pointsman.training.quantise import find_tool, quantise
from pointsman.values.catalog import Artifact


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"system": "Add.", "user": f"{number} and 1", "answer": str(number + 1), **more}


def test_rows_are_read_with_their_lines_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(1), "", row(2)])
    data = read_examples(path)
    assert [example.line for example in data.examples] == [1, 3]
    assert data.examples[1] == Example("Add.", "2 and 1", "3", 3)
    assert check_one_system(data) == "Add."


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{not json", "a.jsonl:2: not a line of JSON"),
        ("[1, 2]", "a.jsonl:2: not an object with user and answer (got [1, 2])"),
        ({"user": "x"}, "a.jsonl:2: answer: is missing"),
        ({"answer": "x"}, "a.jsonl:2: user: is missing"),
        (row(1, user="  "), "a.jsonl:2: user: is empty (got '  ')"),
        (row(1, answer=""), "a.jsonl:2: answer: is empty (got '')"),
        (row(1, answer=3), "a.jsonl:2: answer: must be a string (got 3)"),
        (row(1, prompt="x"), "a.jsonl:2: prompt: unknown; known: system, user, answer (got x)"),
        (row(1, user="x" * 200_000), "a.jsonl:2: longer than 100,000 bytes (got 200,"),
        ("[" * 90_000, "a.jsonl:2: not a line of JSON"),
    ],
)
def test_a_bad_row_is_named_by_file_line_field_and_value(tmp_path: Path, bad: object, says: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(7), bad])
    with pytest.raises(CatalogError) as raised:
        read_examples(path)
    assert says in str(raised.value)
    assert len(str(raised.value)) < 400


def test_every_bad_row_is_named_at_once(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(1, user=""), row(2), row(3, answer=None)])
    with pytest.raises(CatalogError) as raised:
        read_examples(path)
    assert [problem.line for problem in raised.value.problems] == [1, 3]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(CatalogError, match="holds no examples"):
        read_examples(path)
    with pytest.raises(CatalogError, match="No such file"):
        read_examples(tmp_path / "none.jsonl")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"user": "\xff", "answer": "a"}\n')
    with pytest.raises(CatalogError, match=r"a\.jsonl:1: not a line of JSON"):
        read_examples(path)


class Words:
    """A tokenizer whose tokens are words; its template adds two."""

    eos_token_id = 0

    def apply_chat_template(self, messages: list[dict[str, str]], **_: object) -> str:
        return " ".join(["<|begin|>", *(message["content"] for message in messages), "<|assistant|>"])

    def __call__(self, text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [len(word) for word in text.split()]}


def test_rows_of_too_many_tokens_are_refused_by_line(tmp_path: Path) -> None:
    long = [row(1), row(2, user="two " * 7), row(3), row(4, answer="four " * 11)]
    data = read_examples(write_rows(tmp_path / "d.jsonl", long))
    # Two of the template, "Add.", the prompt, the answer and its end.
    assert [len(tokens) for tokens in tokenise(Words(), data.examples, "d.jsonl", 18)] == [8, 12, 8, 18]
    with pytest.raises(CatalogError) as raised:
        tokenise(Words(), data.examples, "d.jsonl", 11)
    assert [(p.line, p.value) for p in raised.value.problems] == [(2, "12 tokens"), (4, "18 tokens")]
    assert "d.jsonl:2: longer than 11 tokens (--max-tokens)" in str(raised.value)


def test_duplicates_are_dropped_and_counted_but_other_answers_are_not(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(1), row(2), row(1), row(1, answer="else")])
    data = read_examples(path)
    assert data.duplicates == (3,)
    assert len(data.examples) == 3


def test_a_held_out_row_that_was_trained_on_is_refused_whatever_its_answer_and_case(tmp_path: Path) -> None:
    train = read_examples(write_rows(tmp_path / "train.jsonl", [row(1), row(2)]))
    held = read_examples(write_rows(tmp_path / "held.jsonl", [row(5), row(2, user="2  AND 1", answer="x")]))
    with pytest.raises(CatalogError) as raised:
        check_no_leak(train, held)
    assert str(raised.value).startswith("held.jsonl:2: user: stands in train.jsonl:2 too")
    check_no_leak(train, read_examples(write_rows(tmp_path / "other.jsonl", [row(5)])))
    kept = without_leaks(train, held)
    assert ([example.line for example in kept.examples], kept.leaks) == ([1], (2,))
    check_no_leak(kept, held)


def test_a_specialist_has_one_system_prompt(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [row(1), row(2, system="Subtract.")])
    with pytest.raises(CatalogError, match=r"a\.jsonl:2: system: differs from line 1"):
        check_one_system(read_examples(path))
    assert check_one_system(read_examples(path, "Both.")) == "Both."


def test_a_prompt_that_stands_twice_is_not_held_out() -> None:
    examples = [Example("", text, "a", i) for i, text in enumerate(["x", "y", "X ", "z"])]
    seen, held = held_out_of(examples, 3, [0, 1, 2, 3])
    assert (seen, held) == ([0, 2], [1, 3])


@given(st.lists(st.integers(1, 40), min_size=1, max_size=120), st.integers(1, 9), st.integers(0, 5))
def test_a_pass_takes_every_row_once(lengths: list[int], size: int, seed: int) -> None:
    taken = list(batches(lengths, size, np.random.default_rng(seed)))
    assert sorted(i for part in taken for i in part) == list(range(len(lengths)))
    assert all(1 <= len(part) <= size for part in taken)
    assert len(taken) == -(-len(lengths) // size)


def test_what_all_prompts_begin_with_leaves_each_a_token_of_its_own() -> None:
    from pointsman.training.base import Tokens

    assert common_prefix([Tokens((1, 2, 3), (9,)), Tokens((1, 2, 4), (9,))]) == (1, 2)
    assert common_prefix([Tokens((1, 2), (9,)), Tokens((1, 2, 4), (9,))]) == (1,)
    assert common_prefix([Tokens((1, 2), (9,))]) == ()


def test_rows_are_permuted_so_that_neighbours_rotate_together() -> None:
    """The rotation of halves (as transformers does it) equals that of pairs (llama.cpp) of permuted rows."""
    heads, size = 3, 8
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(heads * size, 5)).astype(np.float32)
    x = generator.normal(size=5)
    angle = generator.normal(size=size // 2)
    halves = (weight @ x).reshape(heads, size)
    left, right = halves[:, : size // 2], halves[:, size // 2 :]
    turned = np.stack(
        [left * np.cos(angle) - right * np.sin(angle), right * np.cos(angle) + left * np.sin(angle)], axis=-1
    )
    pairs = (permute_rows(weight, heads) @ x).reshape(heads, size // 2, 2)
    as_pairs = np.stack(
        [
            pairs[..., 0] * np.cos(angle) - pairs[..., 1] * np.sin(angle),
            pairs[..., 1] * np.cos(angle) + pairs[..., 0] * np.sin(angle),
        ],
        axis=-1,
    )
    np.testing.assert_allclose(as_pairs, turned, rtol=1e-6)


def test_an_unquantised_base_holds_the_same_numbers_and_fields(base_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "whole.gguf"
    write_unquantised(base_model, out)
    before, after = gguf.GGUFReader(base_model), gguf.GGUFReader(out)
    assert [t.name for t in after.tensors] == [t.name for t in before.tensors]
    for old, new in list(zip(before.tensors, after.tensors, strict=True))[:12]:
        values = gguf.quants.dequantize(old.data, old.tensor_type)
        np.testing.assert_allclose(new.data, values, rtol=1e-3, atol=1e-6)
    passed_over = {"general.file_type", "GGUF.kv_count", "GGUF.version", "GGUF.tensor_count"}
    for name in set(before.fields) - passed_over:
        assert after.fields[name].contents() == before.fields[name].contents(), name


def test_merging_adds_the_scaled_product_to_its_weight_alone(base_model: Path, tmp_path: Path) -> None:
    adapter, out = tmp_path / "a.gguf", tmp_path / "merged.gguf"
    write_adapter(adapter, base_model, rank=4, alpha=8.0)
    write_unquantised(base_model, out, adapter, scale=0.5)
    found = {t.name: t for t in gguf.GGUFReader(adapter).tensors}
    a, b = found["blk.3.attn_v.weight.lora_a"].data, found["blk.3.attn_v.weight.lora_b"].data
    for old, new in zip(gguf.GGUFReader(base_model).tensors, gguf.GGUFReader(out).tensors, strict=True):
        if old.name in {"blk.3.attn_v.weight", "blk.3.attn_k.weight"}:
            values = gguf.quants.dequantize(old.data, old.tensor_type)
            delta = 0.5 * 8.0 / 4 * b @ a if "attn_v" in old.name else 0
            np.testing.assert_allclose(new.data, values + delta, rtol=2e-3, atol=1e-4)


def test_merging_refuses_an_adapter_of_another_base(base_model: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.gguf", base_model, architecture="qwen2")
    with pytest.raises(ArtifactError, match=r"general\.architecture"):
        write_unquantised(base_model, tmp_path / "out.gguf", tmp_path / "a.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def _answers(*said: tuple[str, list[float]]) -> list[Answer]:
    return [Answer(text, tuple(logprobs), len(logprobs)) for text, logprobs in said]


def test_json_answers_are_measured_by_key_and_value() -> None:
    answers = _answers(
        ('{"b": "2", "a": "1"}', [-0.1]), ('{"a": "1", "c": "3"}', [-2.0]), ("oops", [-9.0, -0.1])
    )
    figures = measure(answers, ['{"a": "1", "b": "2"}', '{"a": "1", "b": "2"}', '{"a": "1"}'], 2.0)
    assert figures.exact == 0.0
    assert figures.field_f1 == pytest.approx(2 * 3 / (4 + 5))
    assert figures.json_valid == pytest.approx(2 / 3)
    assert figures.confidence is None  # nothing to tell apart
    assert figures.tokens_per_s == pytest.approx(2.0)


def test_lines_and_words_are_measured_as_such() -> None:
    lines = measure(_answers(("A: 1\nB: 3", [-1.0]), ("A: 1\n", [-0.1])), ["A: 1\nB: 2", "A: 1"], 1.0)
    assert lines.field_f1 == pytest.approx(2 * 2 / 6)
    assert lines.json_valid is None
    assert lines.confidence == Confidence(1.0, 1.0, 1.0)
    words = measure(_answers(("SELECT a a", [-1.0])), ["SELECT a b"], 1.0)
    assert words.field_f1 == pytest.approx(2 / 3)


def test_a_log_probability_that_is_no_number_counts_as_no_confidence() -> None:
    answers = _answers(("a", [-0.5, -0.5]), ("x", [float("-inf"), -0.1]), ("c", []))
    figures = measure(answers, ["a", "b", "d"], 1.0)
    assert figures.confidence == Confidence(1.0, 1.0, 1.0)


def test_too_little_agreement_is_refused_with_its_numbers() -> None:
    check_agreement(Agreement(100, 99), Agreement(100, 95))
    with pytest.raises(ArtifactError, match=r"without quantisation.* 98 of 100 places \(98.0%\)"):
        check_agreement(Agreement(100, 98), Agreement(100, 100))
    with pytest.raises(ArtifactError, match=r"as it is served.* 94 of 100"):
        check_agreement(Agreement(100, 100), Agreement(100, 94))


def test_where_one_place_decides_more_examples_are_asked_for() -> None:
    with pytest.raises(ArtifactError, match=r"9 of 10 places \(90.0%\).*give --eval more examples"):
        check_agreement(Agreement(10, 10), Agreement(10, 9))
    with pytest.raises(ArtifactError, match=r"at least 95% must agree$"):
        check_agreement(Agreement(100, 100), Agreement(10, 8))


def test_the_card_says_what_was_done_and_names_no_place(tmp_path: Path) -> None:
    data = read_examples(write_rows(tmp_path / "train.jsonl", [row(1), row(2), row(1)]))
    figures = Figures(2, 0.5, 0.75, None, None, 40.0)
    card = Card(
        name="adder",
        created="2026-01-01T00:00:00+00:00",
        adapter_sha256="ab" * 32,
        base=Artifact("hf:org/base/file.gguf", "cd" * 32),
        system="Add.",
        train=data,
        held_out=None,
        recipe=Recipe(),
        precision="bf16",
        device="cpu",
        threads=1,
        trained_on=1,
        kept_out=1,
        steps=3,
        seconds=90.0,
        judged=(Judged(3, 0.5, 0.6, 0.5),),
        unquantised=Agreement(10, 10),
        quantised=Agreement(10, 9),
        figures={"zero-shot": figures, "few-shot": figures, "adapter": figures},
    ).to_text()
    assert str(tmp_path) not in card
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["base"] == {"uri": "hf:org/base/file.gguf", "sha256": "cd" * 32}
    assert facts["data"] == [
        {
            "file": "train.jsonl",
            "sha256": data.sha256,
            "examples": 2,
            "duplicates_dropped": 1,
            "leaks_dropped": 0,
        }
    ]
    assert facts["agreement"]["served_base"] == {"tokens": 10, "equal": 9}
    assert set(facts["figures"]) == {"zero-shot", "few-shot", "adapter"}
    assert facts["recipe"]["seed"] == 0
    assert "| few-shot | 2 | 50.0% | 0.750 | – | – | 40 |" in card


def _tool(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_quantise_runs_the_tool_and_keeps_nothing_of_a_failure(base_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    quantise(_tool(tmp_path / "good", '[ "$3" = Q4_K_M ] && cp "$1" "$2"'), base_model, out, "Q4_K_M")
    assert out.stat().st_size == base_model.stat().st_size
    out.unlink()
    failing = _tool(tmp_path / "bad", 'echo half > "$2"; echo "no such type"; exit 3')
    with pytest.raises(ArtifactError, match="status 3: no such type"):
        quantise(failing, base_model, out, "Q9")
    lying = _tool(tmp_path / "lying", 'echo half > "$2"')
    with pytest.raises(ArtifactError, match="not a GGUF file"):
        quantise(lying, base_model, out, "Q4_K_M")
    with pytest.raises(ConfigError, match="--type"):
        quantise(failing, base_model, out, "q4; rm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "good", "lying"]


def test_the_tool_is_found_beside_the_server_or_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="llama-quantize is neither"):
        find_tool(None, None)
    beside = _tool(tmp_path / "llama-quantize", "exit 0")
    assert find_tool(None, tmp_path / "llama-server") == beside
    with pytest.raises(ConfigError, match="no such program"):
        find_tool(tmp_path / "none", None)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep)
    assert find_tool(None, None) == beside


def _run(*arguments: object):
    from pointsman.cli.app import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--learning-rate", "2"), "--learning-rate"),
        (("--alpha", "0"), "--alpha"),
        (("--max-minutes", "0"), "--max-minutes"),
        (("--base", "file:x.gguf"), "--base-sha256"),
    ],
)
def test_impossible_settings_are_refused_before_any_work(
    tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = _run("train", "adder", "--data", tmp_path / "none.jsonl", *arguments)
    assert isinstance(result.exception, ConfigError)
    assert says in str(result.exception)


def test_merge_overwrites_nothing(base_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"precious")
    result = _run("base", "merge", base_model, base_model, "--out", out)
    assert isinstance(result.exception, ConfigError)
    assert out.read_bytes() == b"precious"


def test_what_the_base_reached_is_known_to_a_resumed_training_of_the_same_order_only(tmp_path: Path) -> None:
    path = tmp_path / "baselines.json"
    figures = {"zero-shot": Figures(2, 0.5, 0.75, None, Confidence(0.5, 0.25, 1.0), 40.0)}
    keep_baselines(path, "order", figures)
    assert kept_baselines(path, "order") == figures
    assert kept_baselines(path, "another") is None
    path.write_text('{"of": "order", "figures": {"zero-shot": {"answers": 2}}}')
    assert kept_baselines(path, "order") is None
    assert kept_baselines(tmp_path / "none.json", "order") is None
