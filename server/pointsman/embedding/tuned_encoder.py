"""A folder that `pointsman encoder tune` made, as an encoder that knows what it has seen. No torch."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pointsman.embedding.card import GRAPH_FILE, TOKENIZER_FILE, TWIN_FILE, read_card, sha256_of
from pointsman.embedding.encoder import Encoder, Rows
from pointsman.embedding.onnx_encoder import OnnxEncoder


class TunedEncoder:
    """`OnnxEncoder` over a tuned graph."""

    def __init__(self, folder: Path, threads: int, graph: str = GRAPH_FILE) -> None:
        """Load a graph of a folder.

        Raises:
            ArtifactError: its card says that it did not win, or its files are not the ones on the card.

        """
        card = read_card(folder)
        self._folder, self._threads = folder, threads
        self._encoder = OnnxEncoder(folder / graph, folder / TOKENIZER_FILE, threads)
        self._has_twin = graph == GRAPH_FILE and TWIN_FILE in card.sha256  # those made before have none
        self._seen = frozenset([*card.seen, *card.held_out] if self._has_twin else card.seen)

    @property
    def hash(self) -> str:
        """sha256 over graph and tokenizer."""
        return self._encoder.hash

    @property
    def dimensions(self) -> int:
        """Length of a row."""
        return self._encoder.dimensions

    @property
    def limit(self) -> int:
        """That of `OnnxEncoder`."""
        return self._encoder.limit

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return one unit row a text, (n, d)."""
        return self._encoder.encode(texts)

    def tokens(self, text: str) -> Sequence[str]:
        """Return the tokens that a text is read as."""
        return self._encoder.tokens(text)

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which texts it was tuned on, (n,)."""
        return np.array([sha256_of(text) in self._seen for text in texts], np.bool_)

    @cached_property
    def twin(self) -> Encoder | None:
        """The one without the kept-out exemplars, loaded when it is first asked for: a bundle's never is in service."""
        return TunedEncoder(self._folder, self._threads, TWIN_FILE) if self._has_twin else None
