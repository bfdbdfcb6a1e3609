"""Rows of the ledger to past decisions, with what became of them."""

import json
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import UNANSWERED, compared, ratings, success
from pointsman.ledger.tables import comparisons, requests
from pointsman.values.ledger import Past

_AT_ONCE = 20_000
_COLUMNS = (
    "request_id", "caller", "method", "outcome", "tier", "specialist", "routed_to", "model", "intent", "reason",
    "similarity", "score", "confidence_alone", "difficulty", "scorer", "hardness_by", "prompt_tokens",
    "cached_tokens", "completion_tokens", "cost", "currency", "answer_confidence",
)  # fmt: skip


def past_of(url: str, since: datetime) -> list[Past]:
    """Return the decisions of a ledger since a moment (aware), in order; requests without one are left out.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    with reading(url) as connection:
        return list(_rows(connection, since.timestamp()))


def _rows(connection: sa.Connection, since: float) -> Iterator[Past]:
    judged = _judged(connection, since)
    wanted = (
        sa.select(
            requests.c.id, *(requests.c[name] for name in _COLUMNS), requests.c.asked, requests.c.prompt
        )
        .where(requests.c.time >= since, requests.c.reason != "")
        .order_by(requests.c.id)
    )
    result = connection.execution_options(yield_per=_AT_ONCE).execute(wanted)
    for number, *fields, asked, prompt in result:
        past = dict(zip(_COLUMNS, fields, strict=True))
        good = None
        if past["method"] == "generate" and past["outcome"] not in UNANSWERED:
            good = success(past["outcome"], judged.get(number))
        yield Past(**past, asked=json.loads(asked or "{}"), prompt=prompt, good=good)


def _judged(connection: sa.Connection, since: float) -> dict[int, bool]:
    """Return what is known of answers beyond how they ended: what the cloud said, and, above it, their callers."""
    found = {row.id: bool(row.agrees) for row in compared(connection, since, comparisons.c.agrees)}
    said = ratings(connection, since)
    return found | {one.row.id: one.accepted for one in said if one.accepted is not None}
