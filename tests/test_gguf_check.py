"""Files that an engine would swallow in silence, or die of, are refused by name and reason."""

import hashlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from adapters import write_adapter
from harness import Site, running, write_specialist
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


def _write_base(path: Path, inputs: int, outputs: int) -> Path:
    """Write a base of one weight."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("blk.0.attn_v.weight", np.zeros((outputs, inputs), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_adapter_for_a_base_of_the_same_kind_and_another_size_is_refused(tmp_path: Path) -> None:
    small = _write_base(tmp_path / "small.gguf", 32, 16)
    write_adapter(tmp_path / "adapter.gguf", small)
    check_adapter(tmp_path / "adapter.gguf", small)
    for inputs, outputs in ((64, 16), (32, 8)):
        other = _write_base(tmp_path / f"{inputs}-{outputs}.gguf", inputs, outputs)
        with pytest.raises(ArtifactError, match=r"maps 32 to 16, .* is the adapter for another base\?"):
            check_adapter(tmp_path / "adapter.gguf", other)


def test_an_adapter_that_names_its_base_is_refused_over_any_other(tmp_path: Path) -> None:
    base = _write_base(tmp_path / "base.gguf", 32, 16)
    sha256 = hashlib.sha256(base.read_bytes()).hexdigest()
    write_adapter(tmp_path / "named.gguf", base, base_sha256=sha256)
    write_adapter(tmp_path / "silent.gguf", base)
    for name in ("named.gguf", "silent.gguf"):
        check_adapter(tmp_path / name, base, sha256)
        check_adapter(tmp_path / name, base)  # merged into the same model of another precision, say
    check_adapter(tmp_path / "silent.gguf", base, "ab" * 32)
    with pytest.raises(ArtifactError, match=r"named\.gguf: pointsman\.base_sha256 is .* over another base"):
        check_adapter(tmp_path / "named.gguf", base, "ab" * 32)


async def test_a_server_refuses_an_adapter_that_was_trained_over_another_base(
    site: Site, base_model: Path
) -> None:
    site.fill()
    sha256 = write_adapter(site.specialists / "other.gguf", base_model, base_sha256="ab" * 32)
    adapter = {"uri": "file:other.gguf", "sha256": sha256}
    write_specialist(site.specialists, "other", adapter=adapter)
    async with running(site.settings()) as server:
        (problem,) = server.core.catalogs.catalog.problems
        assert problem.value == "other"
        assert "trained over another base" in problem.message


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
