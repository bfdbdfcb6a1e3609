"""Sums over the ledger to figures week by week, and to what got worse of late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pointsman.ledger.ratings import success
from pointsman.ledger.tallies import Tally, joined

FEW = 50
"""Answers, or comparisons, under which a week says little."""
_WORSE = 0.02
"""A fall of a share that matters, if it is not chance."""
_SLOWER = 1.25
_CHANCE = 3.3
"""Standard errors: a week in two thousand passes it by chance, on one side."""


@dataclass(frozen=True, slots=True)
class Week:
    """A week, by its Monday.

    well: answers that served, see `ratings.success`
    p95: of local answers, ms; None without one
    fields, same: local answers of which the cloud gave the fields as well, or the one right text, and those that both agree on
    """

    monday: date
    answers: int
    cloud_share: float
    well: int
    local: int
    p95: float | None
    fields: int
    same: int


def weeks_of(
    found: Sequence[Tally], changed: Sequence[tuple[float, int]], fields: Sequence[Any]
) -> tuple[Week, ...]:
    """Return each week that has an answer.

    changed: by how many what callers said changes the answers that served, by when they were asked for
    fields: (time, agrees) of each comparison by field
    """
    of_change = _mondays(np.array([time for time, _ in changed], np.float64))
    changes = np.array([change for _, change in changed], np.int64)
    of_field = _mondays(np.array([time for time, _ in fields], np.float64))
    agrees = np.array([bool(agrees) for _, agrees in fields], bool)
    weeks = []
    for monday in sorted({one.monday for one in found}):
        here = [one for one in found if one.monday == monday]
        day = (monday - date(1970, 1, 1)) // timedelta(days=1)
        count = sum(one.count for one in here)
        local = joined(one.total_ms for one in here if one.tier == "local")
        weeks.append(
            Week(
                monday,
                count,
                sum(one.count for one in here if one.tier == "cloud") / count,
                sum(one.count for one in here if success(one.outcome)) + int(changes[of_change == day].sum()),
                len(local),
                float(np.percentile(local, 95)) if len(local) else None,
                int((of_field == day).sum()),
                int(agrees[of_field == day].sum()),
            )
        )
    return tuple(weeks)


def drift(weeks: Sequence[Week]) -> tuple[str, ...]:
    """Say what is worse in the last week than in all before it: shares beyond chance, latency by a quarter."""
    if len(weeks) < 2:
        return ()
    now, before = weeks[-1], weeks[:-1]
    shares = (
        ("ended well", (now.well, now.answers), [(w.well, w.answers) for w in before]),
        ("agreed with the cloud on fields", (now.same, now.fields), [(w.same, w.fields) for w in before]),
    )
    found = []
    for name, (part, whole), others in shares:
        part_before, whole_before = (sum(column) for column in zip(*others, strict=True))
        if min(whole, whole_before) >= FEW and _fell(part, whole, part_before, whole_before):
            found.append(f"{name}: {part / whole:.1%}, {part_before / whole_before:.1%} before")
    known = [week for week in before if week.p95 is not None and week.local >= FEW]
    if known and now.p95 is not None and now.local >= FEW:
        usual = float(np.median([week.p95 for week in known if week.p95 is not None]))
        if now.p95 > _SLOWER * usual:
            found.append(f"p95 of local answers: {now.p95:,.0f} ms, {usual:,.0f} before")
    return tuple(found)


def _fell(part: int, whole: int, part_before: int, whole_before: int) -> bool:
    fall = part_before / whole_before - part / whole
    pooled = (part + part_before) / (whole + whole_before)
    error = sqrt(pooled * (1 - pooled) * (1 / whole + 1 / whole_before))
    return fall > _WORSE and fall > _CHANCE * error


def _mondays(times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the Monday of each time (n,), in days of Unix time."""
    days = (times // 86400).astype(np.int64)
    return days - (days + 3) % 7  # the first day of Unix time was a Thursday
