"""What is read of a text that is longer than an encoder reads: its first and its last 16 tokens.

People put what they want before or after the text that they paste. Mean pooling drowns a question of a dozen
tokens in 256, whether they are the first ones, head and tail, or windows over all; so the edges are kept short.
A question in the middle of a long text is not seen. Measured in benchmarks/results/conversations.md.
"""

from collections.abc import Sequence
from typing import TypeVar

EDGE_TOKENS = 16
RULE = f"beyond the limit: first and last {EDGE_TOKENS} tokens"
"""Part of an encoder's hash: another rule embeds long texts differently."""

T = TypeVar("T")


def head(tokens: Sequence[T]) -> Sequence[T]:
    """Return the tokens at the beginning that are read of a long text."""
    return tokens[:EDGE_TOKENS]


def tail(tokens: Sequence[T]) -> Sequence[T]:
    """Return the tokens at the end that are read of a long text."""
    return tokens[-EDGE_TOKENS:]
