"""Files that an engine would swallow in silence, or die of, are refused by name and reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import write_adapter
from pointsman.errors import ArtifactError
from pointsman.generation.gguf_check import check_adapter, check_base


def test_the_shipped_base_and_a_sound_adapter_pass(base_model: Path, tmp_path: Path) -> None:
    base = check_base(base_model)
    assert base.architecture == "llama"
    assert base.shapes["blk.0.attn_v.weight"] == (576, 192)
    for i, dtype in enumerate((np.float32, np.float16)):
        path = tmp_path / f"{i}.gguf"
        write_adapter(path, base_model, dtype=dtype)
        check_adapter(path, base_model)


@pytest.mark.parametrize(
    ("flaw", "says"),
    [
        ({"poison": float("nan")}, "not finite"),
        ({"poison": float("inf")}, "not finite"),
        ({"alpha": None}, "adapter.lora.alpha"),
        ({"alpha": 0.0}, "adapter.lora.alpha"),
        ({"alpha": float("nan")}, "adapter.lora.alpha"),
        ({"architecture": "qwen2"}, "general.architecture is 'qwen2'"),
        ({"kind": "ia3"}, "adapter.type is 'ia3'"),
        ({"dtype": np.float64}, "F64"),  # llama.cpp dies of it, at the first answer
        ({"drop_b": True}, "no lora_b"),
        ({"rank_b": 2}, "rank"),
        ({"rename": ".elsewhere"}, "another base"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_flawed_adapter_is_refused(
    base_model: Path, tmp_path: Path, flaw: dict[str, Any], says: str
) -> None:
    path = tmp_path / "flawed.gguf"
    write_adapter(path, base_model, **flaw)
    with pytest.raises(ArtifactError, match=says) as raised:
        check_adapter(path, base_model)
    assert "flawed.gguf" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"PK\x03\x04", b"GGUF\x03\0\0\0" + b"\xff" * 100])
def test_what_is_no_gguf_is_refused_as_base_and_as_adapter(
    base_model: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / f"{len(content)}.gguf"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="gguf"):
        check_base(path)
    with pytest.raises(ArtifactError, match="gguf"):
        check_adapter(path, base_model)


def test_a_file_cut_short_anywhere_is_refused(base_model: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    write_adapter(whole, base_model)
    content = whole.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.999):
        cut = tmp_path / f"cut-{share}.gguf"
        cut.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(ArtifactError):
            check_adapter(cut, base_model)


def test_an_adapter_is_no_base(base_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    write_adapter(path, base_model)
    with pytest.raises(ArtifactError, match="base model is needed"):
        check_base(path)


def test_an_adapter_of_vectors_is_refused(base_model: Path, tmp_path: Path) -> None:
    import gguf

    path = tmp_path / "flat.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    for half in ("lora_a", "lora_b"):
        writer.add_tensor(f"blk.0.attn_v.weight.{half}", np.zeros(576, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match="matrices"):
        check_adapter(path, base_model)
