"""Texts to what in them should not stand in a file: credentials and personal data. Knows no intents.

What is found is found by libraries that are kept for it (extra `review`): Kingfisher's rules for credentials,
email-validator, libphonenumber and pydantic-extra-types for the rest; identity numbers by the recognisers of the
policy room, where its extra is installed. Patterns here only cut out what they are asked about. Nothing is sent anywhere, and what was found is never repeated, only what kind it is.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman.errors import ConfigError
from pointsman.policy.cards import card_spans
from pointsman.policy.credentials import Credentials
from pointsman.values.policy import SECRET, Action, Policy, Span

PERSONAL = "personal_data"

_EXAMPLE_DOMAINS = ("example.com", "example.net", "example.org")
"""Kept for documentation by RFC 2606; email-validator refuses the reserved top-level domains by itself."""
_EDGES = ".,;:!?'\"()[]{}<>"
_IBAN_START = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]*", re.IGNORECASE)
_IBAN_LENGTHS = range(15, 35)
_IBAN_GROUPS = 9
_COUNTRY_CODE_OF_555 = 1
_IDENTITIES = {
    "us_ssn": "a US social security number",
    "us_itin": "a US taxpayer number (ITIN)",
    "uk_nhs": "an NHS number",
    "uk_nino": "a UK national insurance number",
    "de_tax_id": "a German tax number",
    "es_nif": "a Spanish tax number (NIF)",
    "fi_personal_id": "a Finnish identity code",
    "in_aadhaar": "an Aadhaar number",
    "it_fiscal_code": "an Italian fiscal code",
    "pl_pesel": "a PESEL number",
    "se_personnummer": "a Swedish identity number",
}
"""Kinds of `values.kinds`. None of them was found in the texts of CLINC150, of BANKING77 and of the shipped intents."""
_NAMED = {
    "uk_nhs": ("nhs",),
    "de_tax_id": ("steuer", "idnr", "tax id", "tax number"),
    "in_aadhaar": ("aadhaar", "uidai"),
}
"""Checksums that hold for one in twelve rows of as many random digits: a bare row counts where the text names it."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something in the text of that number. `what` says its kind in words."""

    text: int
    code: str
    what: str


def find_secrets(texts: Sequence[str], cache: Path) -> Iterator[Found]:
    """Find credentials by form: keys and tokens of known providers, private keys, addresses with a password.

    `cache` keeps the compiled rules: seconds the first time, a fraction of one later. A password in a
    sentence has no form, and is not found.

    Raises:
        ModuleNotFoundError: the extra `review` is not installed.

    """
    credentials = Credentials(cache)
    for i, text in enumerate(texts):
        names = {found.name for found in credentials.find(text)}
        for name in sorted(names):
            yield Found(i, SECRET, f"what looks like a credential ({name})")


def find_personal(texts: Sequence[str], phone_region: str | None = None) -> Iterator[Found]:
    """Find e-mail addresses, phone numbers, payment cards and bank accounts that are valid ones.

    Phone numbers are looked for in international form; with `phone_region` (such as `US`) in that country's
    form too, where something parts their digits. Identity numbers of some countries are looked for where the extra
    `policy` is installed. Names and postal addresses are not looked for.

    Raises:
        ModuleNotFoundError: the extra `review` is not installed.

    """
    looks = (
        ("an e-mail address", _has_email),
        ("a phone number", lambda text: _has_phone(text, phone_region)),
        ("a payment card number", lambda text: any(card_spans(text))),
        ("a bank account number (IBAN)", _has_iban),
    )
    identities = _identity_finder()
    for i, text in enumerate(texts):
        for what, has in looks:
            if has(text):
                yield Found(i, PERSONAL, what)
        for kind in identities(text):
            yield Found(i, PERSONAL, _IDENTITIES[kind])


def _identity_finder() -> Callable[[str], list[str]]:
    """Return what finds the kinds of identity numbers in a text; it finds none without the extra `policy`."""
    try:
        from pointsman.policy.detect import Detector

        detector = Detector(Policy(actions=dict.fromkeys(_IDENTITIES, Action.STAY_LOCAL)), Path())
    except (ConfigError, ModuleNotFoundError):
        return lambda _: []

    def find(text: str) -> list[str]:
        return sorted({span.kind for span in detector.find(text) if _is_meant(span, text)})

    return find


def _is_meant(span: Span, text: str) -> bool:
    names = _NAMED.get(span.kind)
    if names is None or not text[span.start : span.end].isdigit():
        return True
    return any(name in text.lower() for name in names)


def _has_email(text: str) -> bool:
    from email_validator import EmailNotValidError, validate_email

    for word in text.split():
        local, at, domain = word.strip(_EDGES).partition("@")
        if not at:
            continue
        try:
            address = validate_email(f"{local.rpartition(':')[2]}@{domain}", check_deliverability=False)
        except EmailNotValidError:
            continue
        if not _below(address.ascii_domain.lower(), _EXAMPLE_DOMAINS):
            return True
    return False


def _below(domain: str, parents: Sequence[str]) -> bool:
    return any(domain == parent or domain.endswith(f".{parent}") for parent in parents)


def _has_phone(text: str, region: str | None) -> bool:
    if region is None and "+" not in text:
        return False
    from phonenumbers import Leniency, PhoneNumberMatcher

    found = PhoneNumberMatcher(text, region, leniency=Leniency.VALID)
    return any(
        not match.raw_string.isdigit()  # ten digits in a row are an order number as well
        and not _is_fiction(match.number.country_code, match.number.national_number)
        for match in found
    )


def _is_fiction(country_code: int | None, national_number: int | None) -> bool:
    """Return whether a number is one of 555-0100 to 555-0199, kept for fiction in North America."""
    return country_code == _COUNTRY_CODE_OF_555 and str(national_number)[3:8] == "55501"


def _has_iban(text: str) -> bool:
    from pydantic import TypeAdapter, ValidationError
    from pydantic_extra_types.iban import IBAN

    words = [word.strip(_EDGES) for word in text.split()]
    for i, word in enumerate(words):
        if not _IBAN_START.fullmatch(word):
            continue
        for end in range(i + 1, min(i + _IBAN_GROUPS, len(words)) + 1):
            joined = "".join(words[i:end])
            if len(joined) not in _IBAN_LENGTHS:
                continue
            try:
                TypeAdapter(IBAN).validate_python(joined)
            except ValidationError:
                continue
            return True
    return False
