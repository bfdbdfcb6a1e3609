"""Text to the text that detection reads, with the way back: look-alike digits and invisible characters gone."""

import unicodedata
from dataclasses import dataclass

_INVISIBLE = "Cf"
"""Zero-width joiners and spaces, directional marks, soft hyphens."""
_MARKS = {"Mn", "Me"}
"""Marks that combine with what stands before; a digit has no use for them."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u3164\uffa0") | {
    chr(i) for i in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
"""Of other categories, and as invisible: the grapheme joiner, Hangul fillers, variation selectors."""
_DASHES = "‐‑‒–—−﹣－"


@dataclass(frozen=True, slots=True)
class PlainText:
    """`places[i]` is where character i of `text` stood before; None where nothing was changed."""

    text: str
    places: tuple[int, ...] | None

    def before(self, start: int, end: int) -> tuple[int, int]:
        """Return where a span of the text stood, with what was invisible inside it."""
        if self.places is None or start >= end:
            return start, end
        return self.places[start], self.places[end - 1] + 1


def plain_text(text: str) -> PlainText:
    """Return a text as a reader sees it: compatibility forms (NFKC), digits of all scripts as 0 to 9.

    Unicode TR 15 says which forms are compatible.
    """
    if text.isascii():
        return PlainText(text, None)
    read: list[str] = []
    places: list[int] = []
    for i, character in enumerate(text):
        if read and character not in _UNSEEN and unicodedata.category(character) in _MARKS:
            if read[-1].isdigit():
                continue
            whole = unicodedata.normalize("NFC", read[-1] + character)
            if len(whole) == 1:  # a letter and its mark, written apart
                read[-1] = whole
                continue
        for shown in _read(character):
            read.append(shown)
            places.append(i)
    return PlainText("".join(read), tuple(places))


def _read(character: str) -> str:
    if character.isascii():
        return character
    if character in _DASHES:
        return "-"
    if character in _UNSEEN or unicodedata.category(character) == _INVISIBLE:
        return ""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return " " if character.isspace() else unicodedata.normalize("NFKC", character)
