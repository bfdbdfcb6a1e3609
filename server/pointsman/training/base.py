"""A GGUF base to a model that can be trained, with its tokenizer and chat template."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from pointsman.errors import ArtifactError, CatalogError, ConfigError
from pointsman.training.examples import Example
from pointsman.values.catalog import Problem

EXTRA = "needs torch, transformers and peft; pip install 'pointsman[train]'"


@dataclass(frozen=True, slots=True)
class Tokens:
    """One example as token ids: what is given, and what is to be said, its end included."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True, slots=True)
class Base:
    """A loaded base. `device` is a torch device's name, `precision` that of its weights."""

    model: Any
    tokenizer: Any
    device: str
    precision: str


def load_base(path: Path, threads: int, *, exact: bool = False) -> Base:
    """Load a GGUF base: bf16 (4-bit with bitsandbytes) on a GPU, else what this CPU multiplies fastest.

    `exact` loads fp32 on the CPU, to compare with.

    Raises:
        ConfigError: the extra is missing.
        ArtifactError: transformers cannot read the file, or it has no chat template.

    """
    try:
        import peft  # noqa: F401 - said here, not in the middle of a training
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ConfigError(f"train {EXTRA}") from None
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() and not exact else "cpu"
    fast_bf16 = device == "cuda" or _multiplies_bf16()
    dtype = torch.bfloat16 if fast_bf16 and not exact else torch.float32
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype, attn_implementation="eager"
            )
        except (OSError, ValueError, KeyError, NotImplementedError) as error:
            raise ArtifactError(f"{path.name}: transformers cannot load it for training: {error}") from error
    if not tokenizer.chat_template:
        raise ArtifactError(f"{path.name}: has no chat template; train over an instruction-tuned base")
    # It is no quantised model any more.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.requires_grad_(requires_grad=False)
    model.to(device)
    precision = "bf16" if dtype is torch.bfloat16 else "fp32"
    if device == "cuda" and _shrink_to_four_bits(model):
        precision = "nf4"
    return Base(model, tokenizer, device, precision)


def tokenise(tokenizer: Any, examples: Sequence[Example], file: str, most_tokens: int) -> list[Tokens]:
    """Turn examples into token ids, as the engine's chat template will.

    Raises:
        CatalogError: names every example of more than `most_tokens`.

    """
    rows: list[Tokens] = []
    problems: list[Problem] = []
    for example in examples:
        messages = [{"role": "system", "content": example.system}] if example.system else []
        messages.append({"role": "user", "content": example.user})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        answer = tokenizer(example.answer, add_special_tokens=False)["input_ids"]
        rows.append(Tokens(tuple(prompt), (*answer, tokenizer.eos_token_id)))
        if len(rows[-1]) > most_tokens:
            message = f"longer than {most_tokens} tokens (--max-tokens)"
            problems.append(Problem(file, example.line, "", f"{len(rows[-1])} tokens", message))
    if problems:
        raise CatalogError(problems)
    return rows


def _multiplies_bf16() -> bool:
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def _shrink_to_four_bits(model: Any) -> bool:
    """Replace the linear layers by 4-bit ones where bitsandbytes is installed; say whether it was done."""
    if find_spec("bitsandbytes") is None:
        return False
    import torch

    bitsandbytes = import_module("bitsandbytes")  # has no types, and is rarely there

    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and name != "lm_head":
            small = bitsandbytes.nn.Linear4bit(
                layer.in_features,
                layer.out_features,
                bias=layer.bias is not None,
                compute_dtype=torch.bfloat16,
                quant_type="nf4",
            )
            small.weight = bitsandbytes.nn.Params4bit(
                layer.weight.data.cpu(), requires_grad=False, quant_type="nf4"
            )
            if layer.bias is not None:
                small.bias = layer.bias
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, small.to(layer.weight.device))
    return True


@contextmanager
def quiet() -> Generator[None, None, None]:
    """Keep the bars and warnings of transformers away: ours is the only progress shown."""
    from transformers import utils

    logging: Any = utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(StringIO()), catch_warnings():
            simplefilter("ignore", FutureWarning)  # it warns of its own attributes
            yield
    finally:
        logging.set_verbosity(level)
