"""A GGUF file to what ctransformers does not tell of it, and to a refusal of what it cannot run.

The limits were found by trying; docs/ctransformers.md has them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.generation.gguf_check import open_gguf

_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
_TURN_ENDS = {b"<|im_end|>", b"<|eot_id|>", b"<|end|>", b"<|endoftext|>", b"<end_of_turn>", b"</s>"}
_TOKENS, _SCORES = "tokenizer.ggml.tokens", "tokenizer.ggml.scores"
_LONG = {_TOKENS, _SCORES, "tokenizer.ggml.merges"}  # slow to turn into lists
_CONTROL, _USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_TENSOR_TYPES = {"F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
_TENSORS = re.compile(
    r"(token_embd|output|output_norm|blk\.\d+\.(attn_(q|k|v|output|norm)|ffn_(gate|up|down|norm)))\.weight"
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the file says about turning a conversation into tokens.

    control: tokens that stand for themselves in a rendered template, by their text
    ends: tokens that end an answer
    """

    template: str
    control: dict[str, int]
    ends: frozenset[int]
    bos: int
    bos_text: str
    eos_text: str
    add_bos: bool


def read_vocabulary(path: Path) -> Vocabulary:
    """Read what the library does not tell, and refuse what it cannot run.

    Raises:
        ArtifactError, ValueError: says the file, the field and its value.

    """
    reader = open_gguf(path)
    fields = {key: field.contents() for key, field in reader.fields.items() if key not in _LONG}
    if problem := _problem(fields, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}):
        raise ValueError(f"{path.name}: {problem}")
    for key in (_TOKENS, _SCORES):
        if key not in reader.fields:
            raise ValueError(f"{path.name}: {key} is missing; ctransformers needs it")
    words = reader.fields[_TOKENS]
    texts = [words.parts[part].tobytes() for part in words.data]  # not always UTF-8
    if b"<0x0A>" not in texts:
        raise ValueError(f"{path.name}: {_TOKENS} has no '<0x0A>'; ctransformers needs byte tokens")
    bos, eos = fields.get("tokenizer.ggml.bos_token_id", 1), fields.get("tokenizer.ggml.eos_token_id", 2)
    if max(bos, eos) >= len(texts):
        raise ValueError(
            f"{path.name}: bos_token_id {bos} or eos_token_id {eos} is beyond {len(texts)} tokens"
        )
    kinds = fields.get("tokenizer.ggml.token_type", [])
    control = {i: texts[i] for i, kind in enumerate(kinds) if kind in {_CONTROL, _USER_DEFINED} and texts[i]}
    ends = {i for i, text in control.items() if text in _TURN_ENDS}
    return Vocabulary(
        template=fields.get("tokenizer.chat_template", _CHATML),
        control={text.decode(errors="replace"): i for i, text in control.items()},
        ends=frozenset({eos, fields.get("tokenizer.ggml.eot_token_id", eos), *ends}),
        bos=bos,
        bos_text=texts[bos].decode(errors="replace"),
        eos_text=texts[eos].decode(errors="replace"),
        add_bos=fields.get("tokenizer.ggml.add_bos_token", True),
    )


def _problem(fields: Mapping[str, Any], tensors: Mapping[str, str]) -> str:
    """Return why the library would refuse the file, or end the process over it."""
    for key in ("general.architecture", "tokenizer.ggml.model"):
        if fields.get(key) != "llama":
            return f"{key} is {fields.get(key)!r}; ctransformers can only run 'llama'"
    if "output.weight" not in tensors:
        return "tensor output.weight is missing; ctransformers cannot use token_embd.weight in its place"
    for name, kind in tensors.items():
        if not _TENSORS.fullmatch(name):
            return f"tensor {name} is none that ctransformers knows"
        if kind not in _TENSOR_TYPES:
            return f"tensor {name} is of type {kind}, which ctransformers cannot read"
    return ""
