"""Accepted answers of the ledger to examples for `pointsman train`: newer ones judge what older ones taught."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import ratings
from pointsman.ledger.tables import requests
from pointsman.values.policy import PLACEHOLDER


@dataclass(frozen=True, slots=True)
class Pair:
    """What was asked, and an answer that its caller accepted, or gave."""

    user: str
    answer: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Examples, older ones to train on; no prompt stands in both.

    repeated: prompts that were asked again
    unclear: pairs that were left out, see `pairs_of`
    """

    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    repeated: int
    unclear: int


def pairs_of(
    url: str,
    since: datetime,
    specialist: str = "",
    test_share: float = 0.2,
    redact: Callable[[Sequence[str]], Sequence[str]] = tuple,
) -> Pairs:
    """Return the pairs of a ledger that keeps text, redacted by the policy of its time, and by `redact`.

    A prompt that was asked again counts once, with its last answer, at the time it was first asked. An answer that a
    caller gave was redacted when it came, later than its prompt: where both hold the same placeholder, nobody knows
    whether the same stood there, and the pair is left out.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    unclear = 0
    found = []
    with reading(url) as connection:
        for prompt, answer, given in _accepted(connection, since.timestamp(), specialist):
            if given and _placeholders(prompt) & _placeholders(answer):
                unclear += 1
            else:
                found.append(Pair(*redact((prompt, answer))))
    once: dict[str, Pair] = {}
    for pair in found:
        once[" ".join(pair.user.split()).casefold()] = pair  # a key keeps the place where it came first
    kept = list(once.values())
    split = len(kept) - round(len(kept) * test_share)
    return Pairs(tuple(kept[:split]), tuple(kept[split:]), len(found) - len(kept), unclear)


def _accepted(connection: sa.Connection, since: float, specialist: str) -> Iterator[tuple[str, str, bool]]:
    """Yield prompts, right answers, and whether the caller gave the answer."""
    for rating in ratings(connection, since, requests.c.prompt, requests.c.answer, specialist=specialist):
        prompt = rating.row.prompt or ""
        answer = rating.right or (rating.row.answer if rating.accepted else "") or ""
        if prompt.strip() and answer.strip():
            yield prompt, answer, bool(rating.right)


def _placeholders(text: str) -> set[str]:
    return {found.group() for found in PLACEHOLDER.finditer(text)}
