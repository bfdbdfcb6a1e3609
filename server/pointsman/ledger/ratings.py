"""What callers said of answers, and the rows they said it of."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pointsman.ledger.tables import feedback, requests


@dataclass(slots=True)
class Rating:
    """A row of `requests`, whether its caller accepted it in the end (None: never said), and the answer they gave instead."""

    row: Any
    accepted: bool | None = None
    right: str = ""


def ratings(
    connection: sa.Connection, since: float, *columns: sa.ColumnElement[Any], specialist: str = ""
) -> list[Rating]:
    """Return what was said of each answer, by when they were asked for.

    since: when that was, at least; Unix seconds
    columns: that each row has, beside its id and time

    Callers choose ids, so several rows may have one: what is said is said of the last that had begun by then.
    """
    same = (requests.c.request_id == feedback.c.request_id) & (requests.c.caller == feedback.c.caller)
    wanted = (
        sa.select(
            feedback.c.id.label("number"),
            feedback.c.time.label("said"),
            feedback.c.accepted,
            feedback.c.answer.label("right"),
            requests.c.id,
            requests.c.time,
            *columns,
        )
        .select_from(feedback.join(requests, same))
        .where(requests.c.time >= since, requests.c.method == "generate")
        .order_by(feedback.c.id, requests.c.id)
    )
    if specialist:
        wanted = wanted.where(requests.c.routed_to == specialist)
    of_number: dict[int, Any] = {}
    for row in connection.execute(wanted):
        if row.number not in of_number or row.time <= row.said:
            of_number[row.number] = row
    found: dict[int, Rating] = {}
    for row in of_number.values():
        rating = found.setdefault(row.id, Rating(row))
        rating.accepted = rating.accepted if row.accepted is None else row.accepted
        rating.right = row.right or rating.right
    return sorted(found.values(), key=lambda rating: rating.row.time)
