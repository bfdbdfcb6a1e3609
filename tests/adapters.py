"""Small LoRA adapters, made of random numbers: enough to change every answer."""

import hashlib
from pathlib import Path

import gguf
import numpy as np


def write_adapter(
    path: Path,
    base: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    size: float = 0.35,
    alpha: float | None = 8.0,
    architecture: str = "llama",
    kind: str = "lora",
    dtype: type = np.float32,
    poison: float | None = None,
    drop_b: bool = False,
    rank_b: int | None = None,
    rename: str = "",
    base_sha256: str = "",
) -> str:
    """Write an adapter over the value projections; returns its sha256."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", kind)
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if base_sha256:
        writer.add_string("pointsman.base_sha256", base_sha256)
    random = np.random.default_rng(seed)
    for tensor in gguf.GGUFReader(base).tensors:
        if not tensor.name.endswith("attn_v.weight"):
            continue
        inputs, outputs = (int(n) for n in tensor.shape)
        a = (random.normal(size=(rank, inputs)) * size / np.sqrt(inputs)).astype(dtype)
        b = (random.normal(size=(outputs, rank_b or rank)) * size).astype(dtype)
        if poison is not None:
            a[0, 0] = poison
        name = tensor.name + rename
        writer.add_tensor(f"{name}.lora_a", a)
        if not drop_b:
            writer.add_tensor(f"{name}.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()
