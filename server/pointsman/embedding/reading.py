"""A text to what an encoder does not read of it: the middle of a long one, and all where it knows none of its tokens."""

from dataclasses import dataclass

from pointsman.embedding.encoder import Encoder
from pointsman.embedding.long_text import EDGE_TOKENS, head, tail

UNKNOWN = ("[UNK]", "<unk>")
"""How tokenizers write what is not in their vocabulary."""
_EDGE_CHARACTERS = 2048
"""Enough to find more tokens than an encoder reads in all but texts of very long words."""
_PEEK_CHARACTERS = 24
"""Enough to find one known token in most texts of a known script; the others are looked at whole."""
_REMEMBERED = 4096
_KNOWN: dict[tuple[str, str], bool] = {}
"""Whether an encoder, by its hash, knows a token of a word."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a text is read. `cut`: only the tokens at its edges; `known`: at least one of those means something."""

    cut: bool = False
    known: bool = True

    @property
    def sentence(self) -> str:
        """What is not read of the text; empty where all of it is."""
        parts = []
        if self.cut:
            parts.append(
                f"It is longer than the encoder reads, so of its tokens the first and the last {EDGE_TOKENS} were read."
            )
        if not self.known:
            parts.append("The encoder knows none of the tokens that it read, so nothing is near.")
        return " ".join(parts)


def read_of(encoder: Encoder, text: str) -> Reading:
    """Return how an encoder reads a text, at little cost: of most texts, a look at how they begin."""
    cut = _is_cut(encoder, text)
    if _knows(encoder, text[:_PEEK_CHARACTERS]):
        return Reading(cut)
    if not cut:
        return Reading(cut, any(token not in UNKNOWN for token in encoder.tokens(text)))
    edges = (
        *head(encoder.tokens(text[:_EDGE_CHARACTERS])),
        *tail(encoder.tokens(text[-_EDGE_CHARACTERS:])),
    )
    return Reading(cut, any(token not in UNKNOWN for token in edges))


def _knows(encoder: Encoder, beginning: str) -> bool:
    """Whether the first whole word of a text is one that means something; prompts begin with the same few words."""
    word, *rest = beginning.split(maxsplit=1) or ("",)
    if not rest and len(beginning) == _PEEK_CHARACTERS:  # a part of an unknown word may be known
        return False
    key = encoder.hash, word
    if (known := _KNOWN.get(key)) is None:
        if len(_KNOWN) >= _REMEMBERED:
            _KNOWN.clear()
        known = _KNOWN[key] = any(token not in UNKNOWN for token in encoder.tokens(word))
    return known


def _is_cut(encoder: Encoder, text: str) -> bool:
    limit = encoder.limit
    if limit is None or len(text) <= limit:  # no token has less than one character
        return False
    if len(encoder.tokens(text[:_EDGE_CHARACTERS])) > limit:
        return True
    return len(text) > _EDGE_CHARACTERS and len(encoder.tokens(text)) > limit
