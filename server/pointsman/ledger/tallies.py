"""Rows of `Generate` to sums by week, tier, outcome and specialist. The database does the summing.

Latencies come as one text a group, or one array: a row of its own for each would take longer than all the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from pointsman.ledger.tables import requests

Numbers = NDArray[np.float64]
_PARTS_A_MS = 1000
"""SQLite writes latencies as whole microseconds, which is faster than as decimals."""
_MOST = 0.3
"""Part of a table's time from which it is read as a whole, and not by its index on the time."""
_EPOCH_MONDAY = date(1969, 12, 29)


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers of one week (by its Monday), tier, outcome and specialist they were routed to.

    total_ms, ttft_ms: of those that have one (n,), (m,)
    began: Unix seconds of the first
    prompt, cached, output: tokens; cached: of the cloud's answers only, in their prompt
    told: answers whose tokens are known; output is theirs
    cost: of the cloud, as far as it is known; uncounted: answers of it in no cost, see `Entry.uncounted`
    unpriced, untold: the cloud's answers without a cost: whose model had no price, and that came without their tokens
    foreign: those with a cost in another currency
    """

    monday: date
    total_ms: Numbers
    ttft_ms: Numbers
    tier: str
    outcome: str
    routed_to: str
    count: int
    began: float
    prompt: int
    cached: int
    output: int
    told: int
    retried: int
    cost: float
    uncounted: int
    unpriced: int
    untold: int
    foreign: int


def tallies(connection: sa.Connection, since: float, currency: str) -> list[Tally]:
    """Return the sums over the rows since a moment, in Unix seconds.

    Raises:
        SQLAlchemyError: the ledger cannot be read.

    """
    row = requests.c
    sqlite = connection.dialect.name == "sqlite"
    clouds = row.specialist == ""
    without = clouds & (row.tier != "local") & row.completion_tokens.is_not(None) & row.cost.is_(None)
    silent = (row.prompt_tokens == 0) & (row.completion_tokens == 0)
    left = clouds & (row.tier != "local") & (row.outcome == "cancelled") & row.cost.is_(None)
    groups = (_week(sqlite=sqlite), row.tier, row.outcome, row.routed_to)
    wanted = (
        sa.select(
            *groups,
            sa.func.count(),
            sa.func.min(row.time),
            _sum(row.prompt_tokens),
            _sum(sa.case((clouds, row.cached_tokens), else_=0)),
            _sum(row.completion_tokens),
            sa.func.count(row.completion_tokens),
            _count(row.retries > 0),
            _sum(row.cost),
            _sum(
                sa.func.coalesce(row.uncounted, sa.case((left, 1), else_=0))
            ),  # empty in rows of before it was kept
            _count(without & ~silent),
            _count(without & silent),
            _count(row.currency.not_in(("", currency))),
            _values(row.total_ms, sqlite=sqlite),
            _values(row.ttft_ms, sqlite=sqlite),
        )
        .where(_since(connection, since, sqlite=sqlite), row.method == "generate")
        .group_by(*groups)
    )
    return [
        Tally(_EPOCH_MONDAY + timedelta(weeks=int(week)), _numbers(total), _numbers(ttft), *fields)
        for week, *fields, total, ttft in connection.execute(wanted)
    ]


def joined(parts: Iterable[Numbers]) -> Numbers:
    """Return arrays (n,), (m,), … as one."""
    return np.concatenate([np.zeros(0), *parts])


def _week(*, sqlite: bool) -> sa.ColumnElement[int]:
    """Return the weeks of a row's time since the Monday before the first day of Unix time."""
    days = requests.c.time / 86400
    whole = sa.cast(days, sa.Integer) if sqlite else sa.cast(sa.func.floor(days), sa.Integer)
    return (whole + 3) // 7  # that day was a Thursday


def _since(connection: sa.Connection, since: float, *, sqlite: bool) -> sa.ColumnElement[bool]:
    time = requests.c.time
    if sqlite:
        first, last = (connection.scalar(sa.select(edge(time))) for edge in (sa.func.min, sa.func.max))
        if first is not None and last - since > _MOST * (last - first):
            return time + 0 >= since
    return time >= since


def _sum(column: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    return sa.func.coalesce(sa.func.sum(column), 0)


def _count(mark: sa.ColumnElement[bool]) -> sa.ColumnElement[float]:
    return sa.func.coalesce(sa.func.sum(sa.case((mark, 1), else_=0)), 0)


def _values(column: sa.ColumnElement[float], *, sqlite: bool) -> sa.ColumnElement[Any]:
    if sqlite:
        return sa.func.group_concat(sa.cast(column * _PARTS_A_MS, sa.Integer))
    return sa.func.array_agg(column).filter(column.is_not(None))


def _numbers(said: str | Sequence[float] | None) -> Numbers:
    if isinstance(said, str):
        return np.fromstring(said, np.float64, sep=",") / _PARTS_A_MS
    return np.array(said or (), np.float64)
