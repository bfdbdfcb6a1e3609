"""Any sentence-transformers model by name or path: slower, and it needs the extra `encoder` (torch)."""

import copy
import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.long_text import RULE, head, tail
from pointsman.errors import ConfigError


class SentenceEncoder:
    """A sentence-transformers model on the CPU.

    Of a text beyond the model's own limit the first and the last 16 tokens are read (`long_text`): as they stand in
    the text where its tokenizer tells which characters a token stands for, else as the tokenizer spells them.
    """

    def __init__(self, model: str, threads: int) -> None:
        """Load a model.

        Raises:
            ConfigError: the extra is not installed, or there is no such model.

        """
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError:
            message = (
                f"encoder.model {model!r} needs sentence-transformers; "
                "install a CPU build of torch, then pip install 'pointsman[encoder]'"
            )
            raise ConfigError(message) from None
        torch.set_num_threads(threads)
        try:
            self._model = SentenceTransformer(model, device="cpu")
        except (OSError, ValueError) as error:
            raise ConfigError(f"encoder.model {model!r} cannot be loaded: {error}") from error
        self._turn = threading.Lock()  # its tokenizer serves one thread at a time
        # Another one to look at prompts with, on the event loop: that must not wait for what is being encoded.
        self._tokenizer, self._look = copy.deepcopy(self._model.tokenizer), threading.Lock()
        fast = getattr(self._model.tokenizer, "is_fast", False)
        digest = hashlib.sha256((RULE if fast else f"{RULE}, spelled by the tokenizer").encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
        self._hash = digest.hexdigest()
        self._dimensions = int(self.encode(["x"]).shape[1])

    @property
    def hash(self) -> str:
        """sha256 over all weights and the rule for long texts."""
        return self._hash

    @property
    def dimensions(self) -> int:
        """Length of a row."""
        return self._dimensions

    @property
    def limit(self) -> int | None:
        """The model's own, without its marks; None when it states none."""
        limit = self._model.max_seq_length
        return None if limit is None else limit - self._model.tokenizer.num_special_tokens_to_add()

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return one unit row a text, (n, d)."""
        with self._turn:
            rows = self._model.encode(
                [self._shorten(text) for text in texts],
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
        return np.asarray(rows, dtype=np.float32)

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return false for every text, (n,): this one is used as it was published."""
        return np.zeros(len(texts), np.bool_)

    @property
    def twin(self) -> Encoder | None:
        """None: what was published saw no exemplar."""
        return None

    def tokens(self, text: str) -> Sequence[str]:
        """Return the tokens that a text is read as."""
        with self._look:
            return list(self._tokenizer.tokenize(text))

    def _shorten(self, text: str) -> str:
        """Return a text that is short enough; the characters of the tokens that are kept, with a space between."""
        tokenizer, limit = self._model.tokenizer, self.limit
        if limit is None:
            return text
        if not getattr(tokenizer, "is_fast", False):
            tokens = tokenizer.tokenize(text)
            if len(tokens) <= limit:
                return text
            return " ".join(tokenizer.convert_tokens_to_string(edge) for edge in (head(tokens), tail(tokens)))
        # (begin, end) of each token in the text
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        if len(spans) <= limit:
            return text
        return f"{text[: head(spans)[-1][1]]} {text[tail(spans)[0][0] :]}"
