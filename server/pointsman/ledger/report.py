"""Rows of the ledger to what the answers of a time cost, took and were worth. Asks no model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from pointsman.ledger.database import reading
from pointsman.ledger.ratings import ratings
from pointsman.ledger.tables import comparisons, requests
from pointsman.ledger.weeks import Week, weeks_of
from pointsman.values.price import PriceList

FALLS_SHORT_ABOVE = 0.05
"""Share of a specialist's answers above which something should be done (mission, row B5)."""
_MONTH_S = 365.25 / 12 * 86400
_COLUMNS = (
    "time", "outcome", "tier", "routed_to", "prompt_tokens", "cached_tokens", "completion_tokens",
    "ttft_ms", "total_ms", "retries", "cost",
)  # fmt: skip
_AT_ONCE = 50_000
_GOOD = ("ok", "escalated")

Numbers = NDArray[np.float64]


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
    all_cloud: what the same tokens would have cost on the cloud's model
    successes: answers that ended well and that no caller rejected
    rated, accepted: local answers that a caller rated, and those it accepted in the end
    cancelled: answers of the cloud that were given up; what they cost nobody tells, and it is not in `cost`
    output_share: of all tokens
    retried: share of answers for which the cloud was asked again
    compared, agreed: local answers that the cloud was asked for as well, and those that both agree on
    compared_cost: what that cost; part of `cost`
    throttled: share of requests that found no place: a full queue, or a cloud that wanted fewer
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
    cancelled: int
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
    columns = _read(connection, since.timestamp(), prices.currency)
    said = [
        rating
        for rating in ratings(connection, since.timestamp(), requests.c.outcome, requests.c.tier)
        if rating.accepted is not None
    ]
    beside = _beside(connection, since.timestamp())
    count = len(columns["time"])
    outcome, tier = columns["outcome"], columns["tier"]
    prompt, cached, output = (
        float(np.nansum(columns[name])) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    )
    good = _any_of(outcome, _GOOD)
    rejected = [one.row.time for one in said if one.row.outcome in _GOOD and not one.accepted]
    seconds = datetime.now(UTC).timestamp() - max(since.timestamp(), columns["time"].min()) if count else 0.0
    compared_cost = sum(beside_one.cost for beside_one in beside)
    charged = float(np.nansum(columns["cost"])) + compared_cost
    foreign = bool(np.nansum(columns["foreign"])) or any(one.currency != prices.currency for one in beside)
    others = _currencies(connection, since.timestamp()) - {prices.currency} if foreign else set()
    unpriced = _unpriced(int(np.nansum(columns["unpriced"])), others, prices)
    price = prices.models.get(model)
    return Report(
        since=since,
        answers=count,
        currency=prices.currency,
        cost=None if unpriced else charged + prices.local.monthly * seconds / _MONTH_S,
        all_cloud=price.amount(prompt, cached, output) if price else None,
        unpriced=unpriced or ("" if price else prices.missing(model)),
        successes=int(good.sum()) - len(rejected),
        rated=sum(one.row.tier == "local" for one in said),
        accepted=sum(bool(one.accepted) for one in said if one.row.tier == "local"),
        cancelled=int(((tier != "local") & (outcome == "cancelled") & np.isnan(columns["cost"])).sum()),
        output_share=output / (prompt + output) if prompt + output else 0.0,
        retried=float((np.nan_to_num(columns["retries"]) > 0).mean()) if count else 0.0,
        throttled=float((outcome == "throttled").mean()) if count else 0.0,
        outcomes=dict(Counter(outcome)),
        tiers=tuple(_tier(name, columns) for name in ("local", "mid", "cloud") if (tier == name).any()),
        specialists=_specialists(columns, beside),
        compared=sum(one.count for one in beside),
        agreed=sum(one.agreed for one in beside),
        compared_cost=compared_cost,
        weeks=weeks_of(columns, good, rejected, _fields(connection, since.timestamp())),
    )


def _unpriced(rows: int, others: set[str], prices: PriceList) -> str:
    """Return why costs cannot be summed; empty where they can."""
    if rows and not prices.models:
        return f"{rows:,} answers of the cloud, and no prices"
    if others:
        return f"the ledger has costs in {', '.join(sorted(others))} too, and prices are in {prices.currency}"
    return f"{rows:,} answers of the cloud were given while their model had no price" if rows else ""


@dataclass(frozen=True, slots=True)
class _Beside:
    """Comparisons of one specialist with the cloud."""

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
            sa.func.max(comparisons.c.currency),
        )
        .where(comparisons.c.time >= since)
        .group_by(comparisons.c.specialist)
    )
    return [_Beside(*row) for row in connection.execute(wanted)]


def _currencies(connection: sa.Connection, since: float) -> set[str]:
    return {
        currency
        for table in (requests, comparisons)
        for currency in connection.scalars(
            sa.select(table.c.currency).distinct().where(table.c.time >= since, table.c.currency != "")
        )
    }


def _read(connection: sa.Connection, since: float, currency: str) -> dict[str, Any]:
    """Return each column as an array (n,): texts as objects, numbers as floats, nothing as NaN."""
    row = requests.c
    unpriced = (
        (row.specialist == "")
        & (row.tier != "local")
        & row.completion_tokens.is_not(None)
        & row.cost.is_(None)
    )
    foreign = row.currency.not_in(("", currency))
    marks = (sa.case((mark, 1), else_=0) for mark in (unpriced, foreign))
    wanted = sa.select(*(row[name] for name in _COLUMNS), *marks).where(
        row.time >= since, row.method == "generate"
    )
    names = (*_COLUMNS, "unpriced", "foreign")
    parts: dict[str, list[Any]] = defaultdict(list)
    result = connection.execution_options(yield_per=_AT_ONCE).execute(wanted)
    for rows in result.partitions():
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            text = name in row and isinstance(row[name].type, sa.String)
            parts[name].append(np.array(values, object if text else np.float64))
    empty = np.zeros(0)
    return {name: np.concatenate(parts[name]) if parts[name] else empty for name in names}


def _fields(connection: sa.Connection, since: float) -> list[Any]:
    """Return time and agreement of each comparison of structured answers."""
    row = comparisons.c
    wanted = sa.select(row.time, row.agrees).where(row.time >= since, row.method.in_(("fields", "exact")))
    return list(connection.execute(wanted))


def _any_of(values: Any, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return where texts (n,) are one of the names; np.isin would sort them all."""
    found = np.zeros(len(values), bool)
    for name in names:
        found |= values == name
    return found


def _tier(name: str, columns: dict[str, Any]) -> TierFigures:
    here = columns["tier"] == name
    output = columns["completion_tokens"][here]
    return TierFigures(
        name,
        int(here.sum()),
        float(here.mean()),
        _latency(columns["total_ms"][here]),
        _latency(columns["ttft_ms"][here]),
        float(np.nanmean(output)) if np.isfinite(output).any() else 0.0,
    )


def _latency(values: Numbers) -> Latency:
    known = values[np.isfinite(values)]
    if not len(known):
        return Latency(None, None, None)
    return Latency(*(float(value) for value in np.percentile(known, (50, 95, 99))))


def _specialists(columns: dict[str, Any], beside: Sequence["_Beside"]) -> tuple[SpecialistFigures, ...]:
    figures = []
    compared = {one.specialist: one for one in beside}
    judged = ~_any_of(columns["outcome"], ("cancelled", "refused", "throttled"))
    for name in sorted(set(columns["routed_to"]) - {""}):
        here = (columns["routed_to"] == name) & judged
        short = here & (columns["outcome"] != "ok")
        if here.any():
            one = compared.get(str(name), _Beside(str(name), 0, 0, 0.0, ""))
            figures.append(
                SpecialistFigures(str(name), int(here.sum()), int(short.sum()), one.count, one.agreed)
            )
    return tuple(figures)
