"""Accepted answers of the ledger to examples for `pointsman train`: newer ones judge what older ones taught."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import goes_on, ratings
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
    followed: follow-ups, which mean nothing without the turns before them
    unclear: pairs that were left out, see `pairs_of`
    """

    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    repeated: int
    unclear: int
    followed: int


def pairs_of(
    url: str,
    since: datetime,
    specialist: str = "",
    test_share: float = 0.2,
    redact: Callable[[Sequence[str]], Sequence[str]] = tuple,
) -> Pairs:
    """Return the pairs of a ledger that keeps text, redacted by the policy of its time, and by `redact`.

    A pair is as old as its answer, which a caller may have given long after the prompt came. A prompt that was asked
    again counts once, with its last answer. What goes on from turns before it is left out: the ledger does not have
    them. An answer that a caller gave was redacted when it came, later than its prompt: where both hold the same
    placeholder, nobody knows whether the same stood there, and the pair is left out.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    unclear = followed = 0
    found: list[tuple[float, Pair]] = []
    with reading(url) as connection:
        for one in _accepted(connection, since.timestamp(), specialist):
            if goes_on(one.asked):
                followed += 1
            elif one.given and _placeholders(one.prompt) & _placeholders(one.answer):
                unclear += 1
            else:
                found.append((one.time, Pair(*redact((one.prompt, one.answer)))))
    once: dict[str, Pair] = {}
    for _, pair in sorted(found, key=lambda item: item[0]):
        key = " ".join(pair.user.split()).casefold()
        once.pop(key, None)  # the last answer counts, at its own time
        once[key] = pair
    kept = list(once.values())
    split = len(kept) - round(len(kept) * test_share)
    return Pairs(tuple(kept[:split]), tuple(kept[split:]), len(found) - len(kept), unclear, followed)


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A prompt with a right answer, and when that was given: by us, or (`given`) by its caller."""

    prompt: str
    answer: str
    given: bool
    time: float
    asked: str


def _accepted(connection: sa.Connection, since: float, specialist: str) -> Iterator[_Accepted]:
    row = requests.c
    for rating in ratings(connection, since, row.prompt, row.answer, row.asked, specialist=specialist):
        prompt = rating.row.prompt or ""
        answer = rating.right or (rating.row.answer if rating.accepted else "") or ""
        if prompt.strip() and answer.strip():
            given = bool(rating.right)
            time = rating.answered if given else rating.row.time
            yield _Accepted(prompt, answer, given, time, rating.row.asked)


def _placeholders(text: str) -> set[str]:
    return {found.group() for found in PLACEHOLDER.finditer(text)}
