"""Keys and tokens in a text, by the rules of Kingfisher and one of ours. Knows no policy.

Kingfisher reads code and configuration, and this is prose: a token may end with the sentence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OWN_RULES = Path(__file__).with_name("credentials.yaml")
SECRET_PARTS = frozenset(
    (
        "betterleaks.alibaba-sts-security-token",
        "betterleaks.aws-secret-access-key",
        "betterleaks.exoscale-api-secret",
        "betterleaks.ovh-consumer-key",
        "betterleaks.polymarket-api-secret",
        "betterleaks.polymarket-passphrase",
        "veles.secrets/packagistsecret-api-key",
    )
)
"""Rules that Kingfisher reports only as a part of others, such as a key's id, and which find what is a secret itself."""
_CLOSING = re.compile(r"[\])}>.,;:!?](?<=[\w/+=-]{16}.)(?=[\])}>.,;:!?'\"]*(?:\s|$))")
"""What ends a sentence, or brackets in it, behind something long."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What looks like a credential, from `start` to `end` in the text."""

    name: str
    start: int
    end: int


class Credentials:
    """Finds credentials. Threads may share it.

    Raises:
        ModuleNotFoundError: none of the extras `policy` and `review` is installed.

    """

    def __init__(self, cache: Path) -> None:
        """Load the rules; `cache` keeps them compiled: seconds the first time, a fraction of one later."""
        from kingfisher_sdk import Rules, Scanner

        cache.mkdir(parents=True, exist_ok=True)
        self._scanner = Scanner(Rules([OWN_RULES], cache_dir=str(cache)), redact=True)

    def find(self, text: str) -> Iterator[Credential]:
        """Yield what a text holds; places may overlap. A password in a sentence has no form, and is not found."""
        data = _CLOSING.sub(" ", text).encode("utf-8", "surrogatepass")
        for found in self._scanner.scan(data):
            if found.visible or found.rule_id in SECRET_PARTS:
                start, end = (found.location[key] for key in ("start_offset", "end_offset"))
                before = len(data[:start].decode("utf-8", "ignore"))
                length = len(data[start:end].decode("utf-8", "ignore"))
                yield Credential(found.rule_name, before, before + length)
