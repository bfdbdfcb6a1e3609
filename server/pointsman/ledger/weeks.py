"""Columns of the ledger to figures week by week, and to what got worse of late."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    well: answers that ended well and that no caller rejected
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
    columns: Mapping[str, Any], well: NDArray[np.bool_], rejected: Sequence[float], fields: Sequence[Any]
) -> tuple[Week, ...]:
    """Return each week that has an answer.

    columns: `time`, `tier`, `total_ms`, each (n,); well: which ended well (n,)
    rejected: times of those of them that a caller rejected; fields: (time, agrees) of each comparison by field
    """
    of_row = _mondays(columns["time"])
    of_rejected = _mondays(np.asarray(rejected, np.float64))
    of_field = _mondays(np.array([time for time, _ in fields], np.float64))
    agrees = np.array([bool(agrees) for _, agrees in fields], bool)
    weeks = []
    for monday in np.unique(of_row):
        here = of_row == monday
        tier, took = columns["tier"][here], columns["total_ms"][here]
        local = took[(tier == "local") & np.isfinite(took)]
        weeks.append(
            Week(
                date(1970, 1, 1) + timedelta(days=int(monday)),
                int(here.sum()),
                float((tier == "cloud").mean()),
                int(well[here].sum() - (of_rejected == monday).sum()),
                len(local),
                float(np.percentile(local, 95)) if len(local) else None,
                int((of_field == monday).sum()),
                int(agrees[of_field == monday].sum()),
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
