"""Rows of the ledger to what the answers of a time cost, took and were worth. Asks no model."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import REJECTED, THROTTLED, UNANSWERED, Rating, ratings, success
from pointsman.ledger.tables import comparisons, requests
from pointsman.ledger.tallies import Numbers, Tally, joined, tallies
from pointsman.ledger.weeks import Week, weeks_of
from pointsman.values.price import PriceList

FALLS_SHORT_ABOVE = 0.05
"""Share of a specialist's answers above which something should be done (mission, row B5)."""
_MONTH_S = 365.25 / 12 * 86400


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles in milliseconds; None without a value."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class TierFigures:
    """The answers that ended on one tier."""

    tier: str
    answers: int
    share: float
    total: Latency
    ttft: Latency
    output_tokens: float


@dataclass(frozen=True, slots=True)
class SpecialistFigures:
    """The answers that were routed to one specialist. `short` escalated, are flagged, invalid, or failed.

    compared, agreed: answers that the cloud was asked for as well, and those that both agree on
    """

    name: str
    answers: int
    short: int
    compared: int = 0
    agreed: int = 0

    @property
    def share(self) -> float:
        """Share that fell short."""
        return self.short / self.answers


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of `Generate` since a moment. Costs are in `currency`; None where `unpriced` says why.

    cost: of the cloud, and of the local machines for this time
    all_cloud: what the same tokens would have cost on the cloud's model; those of local answers as fresh input, as nobody
        knows what its cache would have had
    successes: answers that served, see `ratings.success`
    rated, accepted: local answers that a caller rated, and those it accepted in the end
    uncounted: answers of the cloud that were given up or broke off; what they cost nobody tells, and it is not in `cost`
    output_share: of all tokens
    retried: share of answers for which the cloud was asked again
    compared, agreed: local answers that the cloud was asked for as well, and those that both agree on
    compared_cost: what that cost; part of `cost`
    throttled: share of requests that found no place: a full queue, a cloud that wanted fewer, limits of the callers' own
    """

    since: datetime
    answers: int
    currency: str
    cost: float | None
    all_cloud: float | None
    unpriced: str
    successes: int
    rated: int
    accepted: int
    uncounted: int
    output_share: float
    retried: float
    throttled: float
    outcomes: dict[str, int]
    tiers: tuple[TierFigures, ...]
    specialists: tuple[SpecialistFigures, ...]
    compared: int
    agreed: int
    compared_cost: float
    weeks: tuple[Week, ...]

    @property
    def cost_per_success(self) -> float | None:
        """The headline: what a successful task costs."""
        return self.cost / self.successes if self.cost is not None and self.successes else None

    @property
    def cost_per_request(self) -> float | None:
        """Blended over all tiers."""
        return self.cost / self.answers if self.cost is not None and self.answers else None

    @property
    def saved(self) -> float | None:
        """Share of what the cloud alone would have cost."""
        return 1 - self.cost / self.all_cloud if self.cost is not None and self.all_cloud else None

    @property
    def latency_gain(self) -> tuple[float | None, ...]:
        """Local latencies as parts of the cloud's: p50, p95, p99, and p50 of the first token."""
        by_tier = {tier.tier: tier for tier in self.tiers}
        if not {"local", "cloud"} <= by_tier.keys():
            return ()
        local, cloud = (
            (t.total.p50, t.total.p95, t.total.p99, t.ttft.p50) for t in (by_tier["local"], by_tier["cloud"])
        )
        return tuple(
            here / there if here and there else None for here, there in zip(local, cloud, strict=True)
        )

    @property
    def local_share(self) -> float:
        """Share of the answers that no model of the cloud had the last word in."""
        return sum(tier.share for tier in self.tiers if tier.tier == "local")


def report_of(url: str, since: datetime, prices: PriceList, model: str) -> Report:
    """Report on the ledger at a URL.

    Raises:
        ConfigError: it cannot be read.

    """
    with reading(url) as connection:
        return report(connection, since, prices, model)


def report(connection: sa.Connection, since: datetime, prices: PriceList, model: str) -> Report:
    """Read the rows since a moment (aware), and sum them up; `model` would answer if the cloud answered all.

    Raises:
        SQLAlchemyError: the ledger cannot be read.

    """
    begin = since.timestamp()
    every = tallies(connection, begin, prices.currency)
    found = [one for one in every if one.outcome != REJECTED]
    said = [
        rating
        for rating in ratings(connection, begin, requests.c.outcome, requests.c.tier)
        if rating.accepted is not None
    ]
    beside = _beside(connection, begin)
    count = sum(one.count for one in found)
    first = min((one.began for one in found), default=begin)
    seconds = datetime.now(UTC).timestamp() - max(begin, first) if count else 0.0
    compared_cost = sum(one.cost for one in beside if one.currency == prices.currency)
    others = {one.currency for one in beside if one.cost} | _currencies(connection, begin, found)
    unpriced = _unpriced(found, others - {prices.currency, ""}, prices)
    price = prices.models.get(model)
    prompt, output = sum(one.prompt for one in found), sum(one.output for one in found)
    changed = [(one.row.time, change) for one in said if (change := _change(one))]
    return Report(
        since=since,
        answers=count,
        currency=prices.currency,
        cost=None
        if unpriced
        else sum(one.cost for one in found) + compared_cost + prices.local.monthly * seconds / _MONTH_S,
        all_cloud=price.amount(prompt, sum(one.cached for one in found), output) if price else None,
        unpriced=unpriced or ("" if price else prices.missing(model)),
        successes=sum(one.count for one in found if success(one.outcome))
        + sum(change for _, change in changed),
        rated=sum(one.row.tier == "local" for one in said),
        accepted=sum(bool(one.accepted) for one in said if one.row.tier == "local"),
        uncounted=sum(one.uncounted for one in found),
        output_share=output / (prompt + output) if prompt + output else 0.0,
        retried=sum(one.retried for one in found) / count if count else 0.0,
        throttled=sum(one.count for one in found if one.outcome in THROTTLED) / count if count else 0.0,
        outcomes=dict(sum((Counter({one.outcome: one.count}) for one in every), Counter())),
        tiers=tuple(_tiers(found, count)),
        specialists=tuple(_specialists(found, beside)),
        compared=sum(one.count for one in beside),
        agreed=sum(one.agreed for one in beside),
        compared_cost=compared_cost,
        weeks=weeks_of(found, changed, _fields(connection, begin)),
    )


def _change(rating: Rating) -> int:
    """Return by how many a rating changes the number of successes."""
    return success(rating.row.outcome, rating.accepted) - success(rating.row.outcome)


def _unpriced(found: Sequence[Tally], others: set[str], prices: PriceList) -> str:
    """Return why costs cannot be summed; empty where they can."""
    rows, silent = sum(one.unpriced for one in found), sum(one.untold for one in found)
    if rows and not prices.models:
        return f"{rows:,} answers of the cloud, and no prices"
    if others:
        return f"the ledger has costs in {', '.join(sorted(others))} too, and prices are in {prices.currency}"
    why = []
    if rows:
        why.append(f"{rows:,} answers of the cloud were given while their model had no price")
    if silent:
        why.append(f"{silent:,} answers of the cloud came without a count of their tokens")
    return ", and ".join(why)


@dataclass(frozen=True, slots=True)
class _Beside:
    """Comparisons of one specialist with the cloud, that were paid in one currency."""

    specialist: str
    count: int
    agreed: int
    cost: float
    currency: str


def _beside(connection: sa.Connection, since: float) -> list[_Beside]:
    agreed = sa.func.sum(sa.case((comparisons.c.agrees, 1), else_=0))
    wanted = (
        sa.select(
            comparisons.c.specialist,
            sa.func.count(),
            agreed,
            sa.func.sum(comparisons.c.cost),
            comparisons.c.currency,
        )
        .where(comparisons.c.time >= since)
        .group_by(comparisons.c.specialist, comparisons.c.currency)
    )
    return [_Beside(*row) for row in connection.execute(wanted)]


def _currencies(connection: sa.Connection, since: float, found: Sequence[Tally]) -> set[str]:
    """Return those of the rows, where one is not of the price list."""
    if not any(one.foreign for one in found):
        return set()
    return set(connection.scalars(sa.select(requests.c.currency).distinct().where(requests.c.time >= since)))


def _fields(connection: sa.Connection, since: float) -> list[Any]:
    """Return time and agreement of each comparison of structured answers."""
    row = comparisons.c
    wanted = sa.select(row.time, row.agrees).where(row.time >= since, row.method.in_(("fields", "exact")))
    return list(connection.execute(wanted))


def _tiers(found: Sequence[Tally], count: int) -> Iterable[TierFigures]:
    for name in ("local", "mid", "cloud"):
        here = [one for one in found if one.tier == name]
        answers, told = sum(one.count for one in here), sum(one.told for one in here)
        if answers:
            yield TierFigures(
                name,
                answers,
                answers / count,
                _latency(joined(one.total_ms for one in here)),
                _latency(joined(one.ttft_ms for one in here)),
                sum(one.output for one in here) / told if told else 0.0,
            )


def _latency(values: Numbers) -> Latency:
    if not len(values):
        return Latency(None, None, None)
    return Latency(*(float(value) for value in np.percentile(values, (50, 95, 99))))


def _specialists(found: Sequence[Tally], beside: Sequence[_Beside]) -> Iterable[SpecialistFigures]:
    for name in sorted({one.routed_to for one in found} - {""}):
        judged = [one for one in found if one.routed_to == name and one.outcome not in UNANSWERED]
        compared = [one for one in beside if one.specialist == name]
        if judged:
            yield SpecialistFigures(
                name,
                sum(one.count for one in judged),
                sum(one.count for one in judged if one.outcome != "ok"),
                sum(one.count for one in compared),
                sum(one.agreed for one in compared),
            )
