"""Numbers of payment cards in a text: by form, check digit, and an issuer that exists."""

import re
from collections.abc import Iterator

_CARD = re.compile(r"(?<![\w.+-])\d{3,19}(?:[ -]\d{1,7})*(?![\w-])")


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
        if (
            brand != PaymentCardBrand.other
        ):  # one number in ten has a right check digit; an issuer too is rare
            yield match.span()
