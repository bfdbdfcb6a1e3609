"""The files of benchmarks/adapters.py: adapters of random numbers, bases with one merged in, and their specialists."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import yaml

from pointsman.training.export import add_alpha, add_lora

RANK, ALPHA = 16, 32.0
CONTEXT = 1024
LAYERS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down", "ffn_gate")


def deltas(base: Path, seed: int):
    """Yield (weight name, A (rank, inputs), B (outputs, rank)) of one adapter."""
    draw = np.random.default_rng(seed)
    for tensor in gguf.GGUFReader(base).tensors:
        if tensor.name.removesuffix(".weight").rpartition(".")[2] in LAYERS:
            inputs, outputs = (int(size) for size in tensor.shape)
            a = draw.normal(size=(RANK, inputs)) / np.sqrt(inputs)
            b = draw.normal(size=(outputs, RANK)) * 0.05 / np.sqrt(RANK)
            yield tensor.name, a.astype(np.float32), b.astype(np.float32)


def finish(writer: gguf.GGUFWriter, path: Path) -> str:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_adapter(path: Path, base: Path, seed: int, *, f16: bool = False) -> str:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    if f16:
        writer.add_float32("adapter.lora.alpha", ALPHA)
    else:
        add_alpha(writer, ALPHA, RANK)
    for name, *halves in deltas(base, seed):
        for half, values in zip(("lora_a", "lora_b"), halves, strict=True):
            if f16:
                writer.add_tensor(f"{name}.{half}", values.astype(np.float16))
            else:
                add_lora(writer, f"{name}.{half}", values)
    return finish(writer, path)


def write_merged(path: Path, base: Path, seed: int) -> str:
    """Write the base with an adapter added to its weights, each quantised as before."""
    reader = gguf.GGUFReader(base)
    writer = gguf.GGUFWriter(path, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            inner = field.types[-1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    added = {
        name: (ALPHA / RANK) * (b @ a)
        for name, a, b in deltas(base, seed)
        if "attn_v" in name  # memory depends on the shapes, and quantising takes its time
    }
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name in added:
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type) + added[tensor.name]
            data = gguf.quants.quantize(weights.astype(np.float32), tensor.tensor_type)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    return finish(writer, path)


def write_specialist(folder: Path, number: int, base: dict, adapter: dict | None) -> None:
    # A prompt of some length, so that it matters whether it is found in the cache.
    rules = " ".join(
        f"Rule {i} of house {number}: answer in the manner of number {i + number}." for i in range(6)
    )
    fields = {
        "name": f"s{number}", "base": base, "system_prompt": f"You tell short tales. {rules}",
        "context_tokens": CONTEXT, "max_output_tokens": 256,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"s{number}.yaml").write_text(
        yaml.safe_dump(fields | ({"adapter": adapter} if adapter else {}))
    )
