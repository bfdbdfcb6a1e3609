"""What spares a text most of the recognisers spares none that would have found something."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from presidio_analyzer import predefined_recognizers

from pointsman.errors import ConfigError
from pointsman.policy.detect import Detector
from pointsman.policy.outline import NEEDS, WITH_COUNTRY_CODE, Outline, needs_of_phone
from pointsman.policy.plain_text import plain_text
from pointsman.values.kinds import PRESIDIO
from pointsman.values.policy import Action, Policy


def patterns() -> Iterator[Any]:
    for kind in NEEDS:
        recogniser = getattr(predefined_recognizers, PRESIDIO[kind])()
        for number, pattern in enumerate(recogniser.patterns):
            # As presidio compiles them.
            yield pytest.param(
                kind,
                re.compile(pattern.regex, re.DOTALL | re.MULTILINE | re.IGNORECASE),
                id=f"{kind}-{number}",
            )


@pytest.mark.parametrize(("kind", "pattern"), list(patterns()))
@given(data=st.data())
def test_what_matches_a_pattern_has_what_its_kind_needs(
    kind: str, pattern: re.Pattern[str], data: st.DataObject
) -> None:
    before, after = (
        data.draw(st.sampled_from(("", "it is ", "für "))),
        data.draw(st.sampled_from(("", ", ok"))),
    )
    text = plain_text(f"{before}{data.draw(st.from_regex(pattern))}{after}").text.replace("_", " ")
    if pattern.search(text):
        assert NEEDS[kind].met(Outline(text))


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_telephone_numbers_of_every_region_have_what_they_need(region: str) -> None:
    for of_type in phonenumbers.PhoneNumberType.values():
        number = phonenumbers.example_number_for_type(region, of_type)
        if number is None:
            continue
        national = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
        assert needs_of_phone(region).met(Outline(f"call {national}"))
        abroad = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
        assert WITH_COUNTRY_CODE.met(Outline(f"call {abroad}"))


def test_most_texts_need_no_look() -> None:
    outline = Outline("Compare the foreign policies of Bismarck and Metternich in an essay of 900 words.")
    assert [kind for kind, needs in NEEDS.items() if needs.met(outline)] == []


def test_a_country_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phone_regions: 'XX' is no country with telephone numbers"):
        Detector(Policy(actions={"phone": Action.REDACT}, phone_regions=("XX",)), tmp_path)
