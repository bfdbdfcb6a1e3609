"""Numbers of payment cards in a text: by form, check digit, and an issuer that exists."""

import re
from collections.abc import Iterator, Sequence

_RUN = re.compile(r"(?<![\w.+-])\d{1,19}(?:[ -]\d{1,19})*(?![\w-])")
_GROUP = re.compile(r"\d[\d-]*")
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

    Beside a number may stand others, of an expiry or a check: of a run of digits, every part between spaces is
    looked at, the longest first.

    Raises:
        ModuleNotFoundError: the extra `policy` is not installed.

    """
    for run in _RUN.finditer(text):
        if len(run.group()) < _LEAST:
            continue
        if _is_card(re.sub(r"[ -]", "", run.group())):
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
    digits, found, in_fours = "", None, True
    for last in range(first, len(groups)):
        group = text[slice(*groups[last])]
        digits += group.replace("-", "")
        short = len(group) < _LEAST_OF_A_GROUP
        if len(digits) > _MOST or (short and not in_fours):
            break
        if _is_card(digits):
            found = last
        if short:
            break
        in_fours = in_fours and len(group) == _FOURS
    return found


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
