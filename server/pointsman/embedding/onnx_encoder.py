"""The fast path: an ONNX sentence encoder on ONNX Runtime, with `tokenizers`. No torch."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.long_text import RULE, head, tail

MAX_TOKENS = 256
"""Where all-MiniLM-L6-v2 was trained to stop reading, with the two tokens that mark begin and end."""
_MARKS = 2
"""Tokens that mark begin and end. They stand for no word, and of a short text they would be half of the mean."""
SLOWER_FUSIONS = ["SkipLayerNormFusion"]
"""ONNX Runtime's sum and layer norm in one take four times as long on a CPU as one after the other: 0.3 ms a prompt."""


class OnnxEncoder:
    """Mean-pooled, normalised token embeddings of a BERT-shaped ONNX graph.

    Of a text beyond 256 tokens the first and the last 16 are read (`long_text`). A graph with two outputs is a blended one
    (`blend`): the marks of begin and end are left out of its means, and long texts are read by the second output.

    Texts run one at a time. Dynamic quantisation scales activations over the whole batch, so in a batch
    a text's row depends on its neighbours (cosine 0.993 to its own row alone, benchmarks/encoder.py):
    the same prompt would route differently under load. Alone, there is no padding either.
    """

    def __init__(self, model: Path, tokenizer: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Spinning threads take the core that the local engine decodes on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER_FUSIONS
        )
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._dimensions = int(self.encode(["x"]).shape[1])
        self._hash = hashlib.sha256(model.read_bytes() + tokenizer.read_bytes() + RULE.encode()).hexdigest()

    @property
    def hash(self) -> str:
        """sha256 over graph, tokenizer and the rule for long texts."""
        return self._hash

    @property
    def dimensions(self) -> int:
        """384 for all-MiniLM-L6-v2."""
        return self._dimensions

    @property
    def limit(self) -> int:
        """256 with the two tokens that mark begin and end."""
        return MAX_TOKENS - 2

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return one unit row a text, (n, d)."""
        return np.stack([self._encode_one(text) for text in texts])

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return false for every text, (n,): this one is used as it was published."""
        return np.zeros(len(texts), np.bool_)

    @property
    def twin(self) -> Encoder | None:
        """None: what was published saw no exemplar."""
        return None

    def tokens(self, text: str) -> Sequence[str]:
        """Return the tokens that a text is read as."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).tokens)

    def _encode_one(self, text: str) -> Rows:
        found = self._tokenizer.encode(text).ids
        output = self._outputs[0]
        if len(found) > MAX_TOKENS:
            inner = found[1:-1]
            found = [found[0], *head(inner), *tail(inner), found[-1]]
            output = self._outputs[-1]
        ids = np.asarray([found], dtype=np.int64)  # (1, t)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        tokens = self._session.run([output], feeds)[0][0]  # (t, d)
        if len(self._outputs) > 1 and len(tokens) > _MARKS:
            tokens = tokens[1:-1]
        mean = tokens.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)
