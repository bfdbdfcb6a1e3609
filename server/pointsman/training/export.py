"""Trained weights to a GGUF adapter, and GGUF files to GGUF files: merged, or without quantisation.

Names and layout are llama.cpp's (`convert_lora_to_gguf.py`). It stores the rows of q and k of the llama
architecture pairwise within each head, so the rows of their lora_B go the same way; lora_A stays.

An adapter's two matrices have one short side, the rank, and llama.cpp's kernels multiply 32 numbers at a time, and what
is left over one by one. So the rank is filled up with zeros to whole blocks, in Q8_0: at rank 16 a sixteenth more memory
than in F16 (benchmarks/results/adapters.md has the decode step with either), at lower ranks up to four times as much.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.artifacts.verdict import sha256_of
from pointsman.errors import ArtifactError
from pointsman.generation.gguf_check import BASE_SHA256, check_adapter, open_gguf

_PERMUTED = {"llama": ("q_proj", "k_proj")}
_PEFT_PREFIX = "base_model.model."
_LORA = {"lora_A": "lora_a", "lora_B": "lora_b"}
_BLOCK = 32
_NO_KEY_VALUES = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count")


def permute_rows(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Put the halves of each head's rows side by side, (outputs, …), as llama.cpp rotates them."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_adapter(path: Path, weights: dict[str, Any], alpha: float, name: str, base: Path) -> None:
    """Write PEFT's weights (fp32 tensors by PEFT's names) as an adapter over the base, whose sha256 it names.

    Raises:
        ArtifactError: the base has no such weights, or the adapter would not be served.

    """
    import gguf

    reader = open_gguf(base)
    architecture = _text(reader, "general.architecture")
    layers = _number(reader, f"{architecture}.block_count")
    heads = _number(reader, f"{architecture}.attention.head_count")
    heads_of = {
        "q_proj": heads,
        "k_proj": _number(reader, f"{architecture}.attention.head_count_kv", heads),
    }
    known = {kind: number for number, kind in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[architecture], layers)
    with _written(path, architecture) as writer:
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_string("general.name", name)
        writer.add_string(BASE_SHA256, sha256_of(base))
        rank = 1
        for peft_name, tensor in weights.items():
            module, half = _split(peft_name)
            target = names.get_name(module, try_suffixes=())
            if target is None:
                raise ArtifactError(f"{base.name}: {architecture} has no weight {module!r} in GGUF")
            values = np.asarray(tensor.float().numpy(), np.float32)
            kind = module.rpartition(".")[2]
            if half == "lora_b" and kind in _PERMUTED.get(architecture, ()):
                values = permute_rows(values, heads_of[kind])
            rank = add_lora(writer, f"{target}.weight.{half}", values)
        add_alpha(writer, alpha, rank)
    check_adapter(path, base)


def add_alpha(writer: Any, alpha: float, rank: int) -> None:
    """Add the alpha of an adapter of this rank, grown as the rank is by `add_lora`: its weight is alpha / rank."""
    writer.add_float32("adapter.lora.alpha", alpha * _whole_blocks(rank) / rank)


def add_lora(writer: Any, name: str, values: NDArray[np.float32]) -> int:
    """Add a lora_a (rank, inputs) or lora_b (outputs, rank) in whole blocks; returns the rank that was given."""
    from gguf import GGMLQuantizationType, quants

    side = 0 if name.endswith(".lora_a") else 1
    rank = int(values.shape[side])
    extra = [(0, 0), (0, 0)]
    extra[side] = (0, _whole_blocks(rank) - rank)
    filled = np.pad(values, extra)
    if filled.shape[1] % _BLOCK:  # inputs that are not whole blocks
        writer.add_tensor(name, filled.astype(np.float16))
    else:
        kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quants.quantize(filled, kind), raw_dtype=kind)
    return rank


def _whole_blocks(rank: int) -> int:
    return -(-rank // _BLOCK) * _BLOCK


def write_unquantised(base: Path, out: Path, adapter: Path | None = None, scale: float = 1.0) -> None:
    """Write a base as F16 (vectors stay F32), merged with an adapter where one is given.

    Raises:
        ArtifactError: not a base, or an adapter of another base.

    """
    import gguf

    reader = open_gguf(base)
    if adapter is not None:
        check_adapter(adapter, base)
    deltas = _deltas(adapter, scale) if adapter else {}
    with _written(out, _text(reader, "general.architecture")) as writer:
        _copy_fields(reader, writer)
        writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
        for tensor in reader.tensors:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            if tensor.name in deltas:
                a, b = deltas[tensor.name]
                values = values + b @ a
            writer.add_tensor(tensor.name, values.astype(np.float16 if values.ndim > 1 else np.float32))


def _deltas(adapter: Path, scale: float) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return scaled (lora_a, lora_b) by the name of the weight that they change."""
    import gguf

    reader = open_gguf(adapter)
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    return {
        name.removesuffix(".lora_a"): (a * (scale * alpha / a.shape[0]), values[f"{name[:-1]}b"])
        for name, a in values.items()
        if name.endswith(".lora_a")
    }


@contextmanager
def _written(path: Path, architecture: str) -> Generator[Any, None, None]:
    """Yield a `gguf.GGUFWriter` of a file that appears whole, or not at all."""
    import gguf

    scratch = path.with_name(f".{path.name}.part")
    writer = gguf.GGUFWriter(scratch, architecture)
    try:
        yield writer
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _copy_fields(reader: Any, writer: Any) -> None:
    import gguf

    for field in reader.fields.values():
        if field.name in {*_NO_KEY_VALUES, "general.architecture", "general.file_type"}:
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=element)


def _split(peft_name: str) -> tuple[str, str]:
    """Return (module of the base, lora_a or lora_b) of a PEFT parameter."""
    module, _, rest = peft_name.removeprefix(_PEFT_PREFIX).partition(".lora_")
    return module, _LORA[f"lora_{rest.partition('.')[0]}"]


def _text(reader: Any, key: str) -> str:
    return str(reader.fields[key].contents())


def _number(reader: Any, key: str, default: int | None = None) -> int:
    field = reader.fields.get(key)
    if field is None and default is not None:
        return default
    if field is None:
        raise ArtifactError(f"the base's header lacks {key}")
    return int(field.contents())
