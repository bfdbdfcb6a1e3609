"""Values that are redacted and a text that was written from them: whether a piece of one stands in it.

A local model reads originals. What it writes may break off in the middle of one, or put it with other signs between,
and detection finds neither. Knows no policy.
"""

from collections.abc import Iterable, Iterator, Sequence

from pointsman.policy.plain_text import plain_text
from pointsman.values.policy import Span

_PIECE = 4
"""Letters and digits in a row that count as a piece; a shorter value counts whole."""


def repeats(text: str, found: Sequence[Span], values: Iterable[str]) -> bool:
    """Whether a text, without what was found in it, holds a piece of a value, whatever stands between its characters."""
    pieces = {piece for value in values for piece in _pieces(_folded(value))}
    return any(piece in _folded(rest) for rest in _rests(text, found) for piece in pieces)


def _pieces(value: str) -> Iterator[str]:
    if 0 < len(value) < _PIECE:
        yield value
    for start in range(len(value) - _PIECE + 1):
        yield value[start : start + _PIECE]


def _folded(text: str) -> str:
    return "".join(filter(str.isalnum, plain_text(text).text.casefold()))


def _rests(text: str, found: Sequence[Span]) -> Iterator[str]:
    end = 0
    for span in found:  # by their start
        if span.start > end:
            yield text[end : span.start]
        end = max(end, span.end)
    yield text[end:]
