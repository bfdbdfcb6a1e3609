"""Numbers of payment cards in a text: by form, check digit, and an issuer that exists."""

import re
from collections.abc import Iterator

_CARD = re.compile(r"(?<![\w.+-])\d{3,19}(?:[ -]\d{1,7})*(?![\w-])")
_ISSUED = re.compile(
    r"35(?:2[89]|[3-8]\d)\d{12,15}|(?:2131|1800)\d{11}"  # JCB
    r"|3(?:0[0-5]\d|6\d\d|[89]\d\d)\d{10,15}"  # Diners Club
    r"|(?:5018|5020|5038|5[6-8]\d\d|6304|6390|6759|676[1-3])\d{8,15}"  # Maestro
)
"""Ranges of issuers that pydantic-extra-types counts among the others (ISO/IEC 7812; the schemes' own lists)."""


def card_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each card's number.

    Raises:
        ModuleNotFoundError: the extra `policy` is not installed.

    """
    from pydantic_core import PydanticCustomError
    from pydantic_extra_types.payment import PaymentCardBrand, PaymentCardNumber

    for match in _CARD.finditer(text):
        digits = re.sub(r"[ -]", "", match.group())
        if not PaymentCardNumber.min_length <= len(digits) <= PaymentCardNumber.max_length:
            continue
        try:
            brand = PaymentCardNumber(digits).brand
        except PydanticCustomError:
            continue
        # One number in ten has a right check digit; an issuer too is rare.
        if brand != PaymentCardBrand.other or _ISSUED.fullmatch(digits):
            yield match.span()
