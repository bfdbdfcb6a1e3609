"""What an encoder is."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (n, d), unit rows


class Encoder(Protocol):
    """Texts to unit rows. Blocking, and safe to call from several threads."""

    @property
    def hash(self) -> str:
        """Hexadecimal; equal hashes embed equal texts alike."""

    @property
    def dimensions(self) -> int:
        """Length d of a row."""

    @property
    def limit(self) -> int | None:
        """Most tokens of a text that are all read, the encoder's own marks left out; None when it has no limit."""

    def encode(self, texts: Sequence[str]) -> Rows:
        """Return one unit row a text, (n, d). A text's row does not depend on the others'."""

    def seen(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Return which texts the encoder was tuned on, (n,); of a published one nobody knows, so none."""

    @property
    def twin(self) -> "Encoder | None":
        """Tuned alike, but with some exemplars kept out, so thresholds come from its scores; None: from this one's."""

    def tokens(self, text: str) -> Sequence[str]:
        """Return the tokens that a text is read as, without the encoder's own marks."""
