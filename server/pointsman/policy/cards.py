"""Numbers of payment cards in a text: by form, check digit, and an issuer that exists."""

import re
from collections.abc import Iterator, Sequence

_RUN = re.compile(r"\d+(?:(?:[ \t]{1,2}|\r?\n|[./·•|_-]| - )\d+)*")
_GROUP = re.compile(r"\d+")
_USUAL = frozenset((" ", "-"))
"""What may stand between groups of any length; between others, the groups must be those of a card."""
_FORMS = ((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (4, 4, 4, 2), (4, 4, 4, 1))
"""Groups as they are embossed."""
_LEAST_OF_A_GROUP = 3
_FOURS = 4
_LEAST, _MOST = 12, 19
"""Digits of a card."""
_ISSUED = re.compile(
    r"35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"  # JCB
    r"|3(?:0[0-5]\d|6\d\d|[89]\d\d)\d{10,15}"  # Diners Club
    r"|(?:5018|5020|5038|5[6-8]\d\d|6304|6390|6759|676[1-3])\d{8,15}"  # Maestro
)
"""Ranges of issuers that pydantic-extra-types counts among the others (ISO/IEC 7812; the schemes' own lists)."""


def card_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each card's number.

    Beside a number may stand others, of an expiry or a check: of a run of digits, every part is looked at, the
    longest first.

    Raises:
        ModuleNotFoundError: the extra `policy` is not installed.

    """
    for run in _RUN.finditer(text):
        if len(run.group()) < _LEAST:
            continue
        whole = re.sub(r"[ -]", "", run.group())
        if _is_card(whole) and _stands_alone(text, *run.span()):
            yield run.span()
            continue
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            last = _card_from(text, groups, first)
            if last is not None:
                yield groups[first][0], groups[last][1]
            first = first + 1 if last is None else last + 1


def _card_from(text: str, groups: Sequence[tuple[int, int]], first: int) -> int | None:
    """Return the last group of the longest card that begins with a group.

    Its last group may be short where the others are of four digits: cards of thirteen and fourteen are written so.
    """
    digits, found, in_fours, usual, lengths = "", None, True, True, list[int]()
    for last in range(first, len(groups)):
        start, end = groups[last]
        if last > first:
            usual = usual and text[groups[last - 1][1] : start] in _USUAL
        digits += text[start:end]
        lengths.append(end - start)
        short = end - start < _LEAST_OF_A_GROUP
        if len(digits) > _MOST or (short and not in_fours):
            break
        as_embossed = usual or tuple(lengths) in _FORMS
        if as_embossed and _stands_alone(text, groups[first][0], end) and _is_card(digits):
            found = last
        if short:
            break
        in_fours = in_fours and end - start == _FOURS
    return found


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether it is neither a fraction, nor a telephone number, nor a part of letters and digits in turn.

    A word may touch it: `card4111…`, `…EUR`.
    """
    before, after = start - 1, end
    if start and (text[before] == "+" or (text[before] == "." and text[before - 1 : before].isdigit())):
        return False
    while before >= 0 and text[before].isalpha():
        before -= 1
    while after < len(text) and text[after].isalpha():
        after += 1
    return not (before >= 0 and before < start - 1 and text[before].isdigit()) and not (
        after > end and after < len(text) and text[after].isdigit()
    )


def _is_card(digits: str) -> bool:
    if not _LEAST <= len(digits) <= _MOST:
        return False
    from pydantic_core import PydanticCustomError
    from pydantic_extra_types.payment import PaymentCardBrand, PaymentCardNumber

    try:
        brand = PaymentCardNumber(digits).brand
    except PydanticCustomError:
        return False
    # One number in ten has a right check digit; an issuer too is rare.
    return brand != PaymentCardBrand.other or _ISSUED.fullmatch(digits) is not None
