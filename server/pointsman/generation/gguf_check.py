"""GGUF files to a verdict, before an engine touches them.

An engine accepts some broken adapters in silence (NaN weights, no alpha) and dies of others (F64 weights
end llama.cpp with SIGSEGV at the first answer): tests/test_gguf_check.py holds the cases.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pointsman.errors import ArtifactError

BASE_SHA256 = "pointsman.base_sha256"
"""Header field of an adapter that `pointsman train` wrote: the sha256 of the base file that it was trained over."""
_MAGIC = b"GGUF"
_ADAPTER_TYPES = {"F32", "F16", "BF16", "Q8_0"}
_LARGEST_VALUE = 1e3
"""Of a weight. Trained ones are below 10; an engine answers noise, or not a number, from far larger ones."""
_LARGEST_STRENGTH = 1e3
"""Of scale times alpha over rank. Usual ones are 0.5 to 8."""


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What an adapter must fit: architecture, and (inputs, outputs) of each weight by name."""

    architecture: str
    shapes: dict[str, tuple[int, ...]]


@contextmanager
def _damage_named(path: Path) -> Generator[None, None, None]:
    """Say of any file that cannot be read as GGUF that it is damaged, whatever the reader stumbles over."""
    try:
        yield
    except (ValueError, LookupError, TypeError, ArithmeticError, MemoryError, OSError) as error:
        raise ArtifactError(f"{path.name}: damaged or cut short: {error}") from error


@lru_cache(maxsize=16)  # files are named by their sha256: a path's content never changes
def check_base(path: Path) -> BaseModel:
    """Read a base model's header.

    Raises:
        ArtifactError: not a GGUF model, or cut short.

    """
    with _damage_named(path):
        return _check_base(path)


def _check_base(path: Path) -> BaseModel:
    reader = open_gguf(path)
    shapes = {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reader.tensors}
    if not shapes:
        raise ArtifactError(f"{path.name}: no tensors; not a model")
    if _field(reader, "general.type") == "adapter":
        raise ArtifactError(f"{path.name}: general.type is 'adapter'; a base model is needed here")
    return BaseModel(str(_field(reader, "general.architecture")), shapes)


@lru_cache(maxsize=256)
def check_adapter(path: Path, base_path: Path, base_sha256: str = "") -> None:
    """Check a LoRA adapter against its base; `base_sha256` is that of the base, if it is to be the very same file.

    Raises:
        ArtifactError: wrong kind, architecture, shape, rank or type, no alpha, values that are not finite, or
            trained over another file, where its header tells.

    """
    base = check_base(base_path)
    with _damage_named(path):
        _check_adapter(path, base, base_sha256)


@lru_cache(maxsize=256)
def check_scale(path: Path, scale: float) -> None:
    """Check how strongly an adapter is applied. The adapter has passed `check_adapter`.

    Raises:
        ArtifactError: scale times alpha over rank is absurd.

    """
    reader = open_gguf(path)
    alpha = float(str(_field(reader, "adapter.lora.alpha")))
    rank = max(int(t.shape[1]) for t in reader.tensors if t.name.endswith(".lora_a"))
    strength = scale * alpha / rank
    if not abs(strength) <= _LARGEST_STRENGTH:
        raise ArtifactError(
            f"{path.name}: a scale of {scale:g} with adapter.lora.alpha {alpha:g} and rank {rank} applies the "
            f"adapter {strength:g}-fold; at most {_LARGEST_STRENGTH:g} is accepted"
        )


def _check_adapter(path: Path, base: BaseModel, base_sha256: str) -> None:
    reader = open_gguf(path)
    over = _field(reader, BASE_SHA256)
    if base_sha256 and over not in {None, base_sha256}:
        raise ArtifactError(
            f"{path.name}: {BASE_SHA256} is {over!r}, the base's is {base_sha256!r}: it was trained over another base"
        )
    for key, wanted in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", base.architecture),
    ):
        if _field(reader, key) != wanted:
            raise ArtifactError(f"{path.name}: {key} is {_field(reader, key)!r}, expected {wanted!r}")
    alpha = _field(reader, "adapter.lora.alpha")
    if not isinstance(alpha, float) or not np.isfinite(alpha) or alpha <= 0:
        raise ArtifactError(f"{path.name}: adapter.lora.alpha is {alpha!r}, expected a positive number")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if not tensors:
        raise ArtifactError(f"{path.name}: no tensors; not an adapter")
    for name, tensor in tensors.items():
        _check_type(path, name, tensor)
        weight, _, half = name.rpartition(".")
        if half not in {"lora_a", "lora_b"}:
            raise ArtifactError(f"{path.name}: tensor {name!r} is neither a lora_a nor a lora_b")
        if half == "lora_a":
            _check_pair(path, weight, tensor, tensors.get(f"{weight}.lora_b"), base)
        elif f"{weight}.lora_a" not in tensors:
            raise ArtifactError(f"{path.name}: tensor {name!r} has no lora_a beside it")


def open_gguf(path: Path) -> Any:
    """Return a `gguf.GGUFReader`.

    Raises:
        ArtifactError: not a GGUF file, damaged, or cut short.

    """
    import gguf

    with path.open("rb") as file:
        magic = file.read(4)
    if magic != _MAGIC:
        raise ArtifactError(f"{path.name}: not a GGUF file (it begins with {magic!r})")
    with _damage_named(path):
        return gguf.GGUFReader(path)


def _field(reader: Any, key: str) -> object:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _check_type(path: Path, name: str, tensor: Any) -> None:
    import gguf

    if tensor.tensor_type.name not in _ADAPTER_TYPES:
        raise ArtifactError(
            f"{path.name}: tensor {name!r} is of type {tensor.tensor_type.name}; "
            f"adapters may be {', '.join(sorted(_ADAPTER_TYPES))}"
        )
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    if not np.isfinite(values).all():
        raise ArtifactError(f"{path.name}: tensor {name!r} has values that are not finite")
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST_VALUE:
        raise ArtifactError(
            f"{path.name}: tensor {name!r} has a value of {largest:g}; more than {_LARGEST_VALUE:g} is no trained weight"
        )


def _check_pair(path: Path, weight: str, a: Any, b: Any, base: BaseModel) -> None:
    if b is None:
        raise ArtifactError(f"{path.name}: tensor '{weight}.lora_a' has no lora_b beside it")
    if weight not in base.shapes:
        raise ArtifactError(
            f"{path.name}: the base has no tensor {weight!r}; is the adapter for another base?"
        )
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ArtifactError(f"{path.name}: tensor {weight!r}: lora_a and lora_b must be matrices")
    inputs, rank = (int(size) for size in a.shape)
    rank_b, outputs = (int(size) for size in b.shape)
    if rank != rank_b:
        raise ArtifactError(
            f"{path.name}: tensor {weight!r}: lora_a has rank {rank}, lora_b has rank {rank_b}"
        )
    if (inputs, outputs) != base.shapes[weight]:
        raise ArtifactError(
            f"{path.name}: tensor {weight!r} maps {inputs} to {outputs}, the base's {base.shapes[weight]}; "
            "is the adapter for another base?"
        )
