"""Text to the text that detection reads, with the way back: look-alike digits and invisible characters gone."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_AS_IT_IS = re.compile(r"[\t\n\r\x20-\x7e]*")
"""Nothing in it looks like something else, or like nothing."""
_INVISIBLE = frozenset(("Cc", "Cf"))
"""Controls; zero-width joiners and spaces, directional marks, soft hyphens."""
_MARKS = frozenset(("Mn", "Me"))
"""Marks that combine with what stands before; a digit has no use for them."""
_DIACRITICS = re.compile("[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]")
"""Marks of no script in particular: those of others are its vowels."""
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(i) for i in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
"""Of other categories, and as invisible: the grapheme joiner, fillers, vowels that are inherent, the empty pattern of
Braille, variation selectors."""
_DASHES = "‐‑‒–—−﹣－"
_UNPARTED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff"  # Hangul: endings follow a word without a space
    "\u2e80-\u2fdf\u3000-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff66-\uff9f\U00020000-\U0003ffff"
)
"""As a class of a regular expression: scripts that put no space between a word and what is not of them."""
UNPARTED = re.compile(f"[{_UNPARTED}]")
_BORDER = re.compile(rf"(?<=[{_UNPARTED}])(?=[^\s{_UNPARTED}])|(?<=[^\s{_UNPARTED}])(?=[{_UNPARTED}])")


@dataclass(frozen=True, slots=True)
class PlainText:
    """`places[i]` is where character i of `text` stood before, and the last one its end; None: nothing was changed."""

    text: str
    places: tuple[int, ...] | None

    def before(self, start: int, end: int) -> tuple[int, int]:
        """Return where a span of the text stood, with what was invisible inside it and marks of its last character."""
        if self.places is None or start >= end:
            return start, end
        return self.places[start], max(self.places[end], self.places[end - 1] + 1)


def plain_text(text: str) -> PlainText:
    """Return a text as a reader sees it: compatibility forms (NFKC), digits of all scripts as 0 to 9.

    Unicode TR 15 says which forms are compatible.
    """
    return PlainText(text, None) if _AS_IT_IS.fullmatch(text) else _seen(text, "")


def readings(text: str) -> Iterator[PlainText]:
    """Yield a text in each way that a value may stand in it; one way for nearly all.

    What is invisible may stand inside a value or between two. Where a script that parts no words meets another,
    a border is read, and it is read without too: a company's own pattern may know what stands there.
    """
    if _AS_IT_IS.fullmatch(text):
        yield PlainText(text, None)
        return
    shown = _seen(text, "")
    parted = _parted(shown)
    yield parted
    if parted is not shown:
        yield shown
    spaced = _seen(text, " ")
    if spaced.text != shown.text:
        yield _parted(spaced)


def _seen(text: str, invisible: str) -> PlainText:
    read: list[str] = []
    places: list[int] = []
    for i, character in enumerate(text):
        if " " <= character <= "~":
            read.append(character)
            places.append(i)
            continue
        if read and character not in _UNSEEN and unicodedata.category(character) in _MARKS:
            if read[-1].isdigit():
                continue
            whole = unicodedata.normalize("NFC", read[-1] + character)
            if len(whole) == 1:  # a letter and its mark, written apart
                read[-1] = whole
                continue
            if _DIACRITICS.match(character):
                continue
        for shown in _read(character, invisible):
            read.append(shown)
            places.append(i)
    return PlainText("".join(read), (*places, len(text)))


def _read(character: str, invisible: str) -> str:
    if character in _DASHES:
        return "-"
    if character in "\t\n\r":
        return character
    if character.isspace() and not "\x1c" <= character <= "\x1f":
        return " "
    if character in _UNSEEN or unicodedata.category(character) in _INVISIBLE:
        return invisible
    digit = unicodedata.digit(character, None)
    return unicodedata.normalize("NFKC", character) if digit is None else str(digit)


def _parted(plain: PlainText) -> PlainText:
    """Return it with a space at each border between scripts."""
    borders = [found.start() for found in _BORDER.finditer(plain.text)]
    if not borders or plain.places is None:
        return plain
    pieces, places, end = list[str](), list[int](), 0
    for border in borders:
        pieces.append(plain.text[end:border])
        places += (*plain.places[end:border], plain.places[border])
        end = border
    return PlainText(" ".join((*pieces, plain.text[end:])), (*places, *plain.places[end:]))
