"""Comparisons with the cloud to the labels that the difficulty and cascade models learn from."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from pointsman.ledger.database import reading
from pointsman.ledger.tables import comparisons, requests


def outcomes_of(url: str, since: datetime, specialist: str = "") -> list[dict[str, Any]]:
    """Return lines for `pointsman difficulty`: the cloud's answer counts as right, ours where both agree.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    return [
        {
            "text": row.prompt,
            "quality_local": float(row.agrees),
            "quality_cloud": 1.0,
            "topic": row.intent or None,
        }
        for row in _compared(url, since, specialist)
    ]


def answers_of(url: str, since: datetime, specialist: str = "") -> list[dict[str, Any]]:
    """Return lines for `pointsman cascade fit`: an answer is right where the cloud says the same.

    Raises:
        ConfigError: the ledger cannot be read.

    """
    return [
        {
            "specialist": row.specialist,
            "prompt": row.prompt,
            "answer": row.answer,
            "logprobs": json.loads(row.logprobs),
            "right": bool(row.agrees),
            "finish": "length" if row.cut else "stop",
            "answers_hash": row.answers_hash,
        }
        for row in _compared(url, since, specialist)
        if row.answer is not None
    ]


def _compared(url: str, since: datetime, specialist: str) -> Iterator[Any]:
    last = (  # callers choose ids: one that was asked again has several rows, the last answered one is compared
        sa.select(sa.func.max(requests.c.id))
        .where(requests.c.method == "generate", requests.c.outcome.in_(("ok", "flagged", "invalid")))
        .group_by(requests.c.request_id, requests.c.caller)
    )
    same = (requests.c.request_id == comparisons.c.request_id) & (requests.c.caller == comparisons.c.caller)
    wanted = (
        sa.select(
            requests.c.prompt,
            requests.c.answer,
            requests.c.intent,
            comparisons.c.specialist,
            comparisons.c.agrees,
            comparisons.c.cut,
            comparisons.c.logprobs,
            comparisons.c.answers_hash,
        )
        .select_from(comparisons.join(requests, same))
        .where(
            comparisons.c.time >= since.timestamp(),
            requests.c.id.in_(last),
            requests.c.prompt.is_not(None),
        )
        .order_by(comparisons.c.id)
    )
    if specialist:
        wanted = wanted.where(comparisons.c.specialist == specialist)
    with reading(url) as connection:
        yield from (row for row in connection.execute(wanted) if row.prompt.strip())
