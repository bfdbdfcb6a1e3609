"""Credentials in prose: found whole, whatever stands around them."""

import random
import string
from pathlib import Path

import pytest

from pointsman.policy.credentials import OWN_RULES, SECRET_PARTS, Credentials


def invented(length: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    generator = random.Random(length)  # noqa: S311 - invented keys, the same ones each time
    return "".join(generator.choice(alphabet) for _ in range(length))


KEY_ID = "AKIA" + invented(16, string.ascii_uppercase + "234567")
SECRET_KEY = invented(40)
TOKENS = {
    "AWS key id": KEY_ID,
    "AWS key id and secret": f"{KEY_ID} {SECRET_KEY}",
    "AWS secret with a slash": f"{KEY_ID}:/{SECRET_KEY[1:]}",
    "AWS secret with a plus": f"{KEY_ID}\n{SECRET_KEY[:-1]}+",
    "Stripe": f"sk_live_{invented(24)}",
    "GitHub": f"github_pat_{invented(22)}_{invented(59)}",
    "Slack": f"xoxb-{invented(12, string.digits)}-{invented(13, string.digits)}-{invented(24)}",
}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return Credentials(tmp_path_factory.mktemp("rules"))


@pytest.mark.parametrize(
    "around", ["{}", "use {}, please", "it works ({})", "it is {}.", '"{}"', "`{}`", "is it {}?!"]
)
@pytest.mark.parametrize("token", TOKENS)
def test_a_token_is_found_whole_whatever_stands_around_it(
    credentials: Credentials, token: str, around: str
) -> None:
    text = f"für mich: {around}".format(TOKENS[token])
    rest = list(text)
    for found in credentials.find(text):
        rest[found.start : found.end] = [""] * (found.end - found.start)
    assert "".join(rest) == f"für mich: {around}".format("")


def test_the_second_half_of_a_key_is_found_by_its_name(credentials: Credentials) -> None:
    text = f"aws_secret_access_key = {SECRET_KEY}"
    assert any(text[found.start : found.end] == SECRET_KEY for found in credentials.find(text))


@pytest.mark.parametrize(
    "text",
    [
        "AKIA is the prefix of an AWS key",
        "AKIAAAAAAAAAAAAAAAAA is a placeholder",
        "the file is called quarterly-report-of-the-branch-office.pdf, isn't it?",
        "see https://docs.internal.net/a/rather/long/path/of/words.",
    ],
)
def test_what_only_looks_like_a_credential_is_none(credentials: Credentials, text: str) -> None:
    assert not list(credentials.find(text))


def test_the_rules_that_are_named_exist(credentials: Credentials, tmp_path: Path) -> None:
    """A release of Kingfisher that renames one would otherwise lose it in silence."""
    from kingfisher_sdk import Rules

    known = {rule["id"] for rule in Rules([OWN_RULES], cache_dir=str(tmp_path)).metadata()}
    assert known >= {*SECRET_PARTS, "pointsman.aws-access-key"}
