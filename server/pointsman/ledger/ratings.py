"""What callers, and the cloud, said of answers, and the rows they said it of."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from pointsman.ledger.tables import comparisons, feedback, requests

UNANSWERED = ("cancelled", "late", "quota", "refused", "rejected", "throttled")
"""Outcomes of requests that got no answer, for which no specialist is to blame."""
REJECTED = "rejected"
"""The outcome of calls that were no requests to answer: a stranger's, or a broken one."""
AT_THE_DOOR = ("quota", REJECTED)
"""Outcomes of calls that were never routed: nothing is said of these."""
THROTTLED = ("quota", "throttled")
"""Outcomes of those that found no place, by their callers' own limits or by the machine's."""
_WELL = ("ok", "escalated")


def success(outcome: str, accepted: bool | None = None) -> bool:
    """Whether an answer served: as its caller said last, else as it ended."""
    return outcome in _WELL if accepted is None or outcome in UNANSWERED else accepted


def follows(asked: str) -> bool:
    """Whether a request was routed by turns before it, by its column `asked`; the ledger has only its last one."""
    return bool(json.loads(asked or "{}").get("follow_up"))


def goes_on(asked: str) -> bool:
    """Whether there were turns before it at all."""
    return follows(asked) or json.loads(asked or "{}").get("turns", 1) > 1


@dataclass(slots=True)
class Rating:
    """A row of `requests`, whether its caller accepted it in the end (None: never said), and the right answer they gave.

    intent: the right one that they gave
    said, answered: when they last said something, and when they gave the answer, in Unix seconds
    """

    row: Any
    accepted: bool | None = None
    right: str = ""
    intent: str = ""
    said: float = 0.0
    answered: float = 0.0


def ratings(
    connection: sa.Connection,
    since: float,
    *columns: sa.ColumnElement[Any],
    specialist: str = "",
    methods: Sequence[str] = ("generate",),
) -> list[Rating]:
    """Return what was said of each answer, by when they were asked for.

    since: when that was, at least; Unix seconds
    columns: that each row has, beside its id and time
    """
    said = (feedback.c.accepted, feedback.c.answer.label("right"), feedback.c.intent.label("right_intent"))
    found: dict[int, Rating] = {}
    of_these = (requests.c.routed_to == specialist,) if specialist else ()
    for row in _of_rows(
        connection, feedback, since, (*said, *columns), requests.c.method.in_(methods), *of_these
    ):
        rating = found.setdefault(row.id, Rating(row))
        rating.accepted = rating.accepted if row.accepted is None else row.accepted
        rating.right, rating.answered = (
            (row.right, row.said) if row.right else (rating.right, rating.answered)
        )
        rating.intent = row.right_intent or rating.intent
        rating.said = row.said
    return sorted(found.values(), key=lambda rating: rating.row.time)


def compared(
    connection: sa.Connection, since: float, *columns: sa.ColumnElement[Any], specialist: str = ""
) -> list[Any]:
    """Return the comparisons with the cloud, in order, each with `columns`, and id and time of its request.

    since: when the request came, at least; Unix seconds
    """
    answered = requests.c.outcome.in_(("ok", "flagged", "invalid"))
    of_these = (comparisons.c.specialist == specialist,) if specialist else ()
    return _of_rows(
        connection,
        comparisons,
        since,
        columns,
        requests.c.method == "generate",
        requests.c.specialist == comparisons.c.specialist,
        answered,
        *of_these,
    )


def _of_rows(
    connection: sa.Connection,
    table: sa.Table,
    since: float,
    columns: Sequence[sa.ColumnElement[Any]],
    *where: sa.ColumnElement[bool],
) -> list[Any]:
    """Return what a table says, each with the row of `requests` that it is said of.

    Callers choose ids, so several rows may have one: what is said is said of the last that had begun by then.
    """
    same = (requests.c.request_id == table.c.request_id) & (requests.c.caller == table.c.caller)
    routed = requests.c.outcome.not_in(AT_THE_DOOR)
    wanted = (
        sa.select(
            table.c.id.label("number"), table.c.time.label("said"), requests.c.id, requests.c.time, *columns
        )
        .select_from(table.join(requests, same))
        .where(requests.c.time >= since, routed, *where)
        .order_by(table.c.id, requests.c.id)
    )
    of_number: dict[int, Any] = {}
    for row in connection.execute(wanted):
        if row.number not in of_number or row.time <= row.said:
            of_number[row.number] = row
    return list(of_number.values())
