"""The kinds of personal data that are known, and the recogniser of presidio-analyzer that finds each.

A kind with a checksum is reported only where the checksum is right. Knows no policy.
"""

PRESIDIO = {
    "email": "EmailRecognizer",
    "phone": "PhoneRecognizer",
    "payment_card": "CreditCardRecognizer",
    "iban": "IbanRecognizer",
    "ip_address": "IpRecognizer",
    "mac_address": "MacAddressRecognizer",
    "crypto_wallet": "CryptoRecognizer",
    "us_ssn": "UsSsnRecognizer",
    "us_itin": "UsItinRecognizer",
    "uk_nhs": "NhsRecognizer",
    "uk_nino": "UkNinoRecognizer",
    "de_tax_id": "DeTaxIdRecognizer",
    "es_nif": "EsNifRecognizer",
    "fi_personal_id": "FiPersonalIdentityCodeRecognizer",
    "in_aadhaar": "InAadhaarRecognizer",
    "it_fiscal_code": "ItFiscalCodeRecognizer",
    "pl_pesel": "PlPeselRecognizer",
    "se_personnummer": "SePersonnummerRecognizer",
}
NER = {"person": "PERSON", "location": "LOCATION", "organisation": "ORGANIZATION", "group": "NRP"}
"""Kinds that only a language model of spaCy finds, and what presidio-analyzer calls them."""
