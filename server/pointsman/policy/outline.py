"""A text to what tells, at little cost, which kinds of values are not in it. Knows no policy."""

import re
from dataclasses import dataclass

from pointsman.errors import ConfigError

_FROM_DIGIT = re.compile(r"[0-9][^A-Za-z]*")


class Outline:
    """A text, and what tells at little cost that no value of some form is in it.

    digits: the most with no letter of ASCII between them; word: characters of the longest run without white space
    """

    __slots__ = ("digits", "text", "word")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digits = max((sum(map(str.isdigit, found)) for found in _FROM_DIGIT.findall(text)), default=0)
        self.word = max(map(len, text.split()), default=0)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a text must have to hold a value of some form; see `Outline`. Of the marks, one so often."""

    digits: int = 0
    word: int = 0
    marks: tuple[tuple[str, int], ...] = ()

    def met(self, outline: Outline) -> bool:
        """Whether a text may hold such a value."""
        marked = not self.marks or any(outline.text.count(mark) >= least for mark, least in self.marks)
        return outline.digits >= self.digits and outline.word >= self.word and marked


NEEDS = {
    "crypto_wallet": Needs(word=26),
    "de_tax_id": Needs(11),
    "es_nif": Needs(7),
    "fi_personal_id": Needs(6),
    "in_aadhaar": Needs(12),
    "ip_address": Needs(marks=((":", 2), (".", 3))),
    "it_fiscal_code": Needs(word=16),
    "mac_address": Needs(marks=((":", 5), ("-", 5), (".", 2))),
    "payment_card": Needs(12),
    "pl_pesel": Needs(11),
    "se_personnummer": Needs(10),
    "uk_nhs": Needs(10),
    "uk_nino": Needs(6),
    "us_itin": Needs(9),
    "us_ssn": Needs(9),
}
"""Of kinds that presidio looks for with regular expressions, several each: most prompts are spared nearly all of them."""
NOTHING_NEEDED = Needs()
WITH_COUNTRY_CODE = Needs(marks=(("+", 1),))


def needs_of_phone(region: str) -> Needs:
    """Return what a telephone number in the national form of a region needs.

    Raises:
        ConfigError: there is no such region.

    """
    from phonenumbers import PhoneMetadata

    metadata = PhoneMetadata.metadata_for_region(region, None)
    if metadata is None or metadata.general_desc is None:
        raise ConfigError(f"phone_regions: {region!r} is no country with telephone numbers")
    return Needs(min(metadata.general_desc.possible_length))
