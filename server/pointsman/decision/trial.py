"""Tallies of two versions of a specialist to a verdict: go on, go back, or wait for more answers. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

from pointsman.values.rollout import Tally

NONE = Tally()
_ROUNDING = 1e-9
"""1 - 0.95 is over 0.05."""
_Z = 3.09
"""99.9 % one-sided: the tallies are looked at after every answer, so a single look must be nearly sure."""


class Course(StrEnum):
    """What becomes of a candidate."""

    WAIT = "wait"
    ADVANCE = "advance"
    BACK = "back"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate, and why, as a sentence."""

    course: Course
    why: str


def judge(
    candidate: Tally,
    live: Tally | None,
    needed: int,
    bound: float,
    same: Tally = NONE,
    agreement: float = 0.0,
) -> Verdict:
    """Compare shares of successes, and the share of answers that say the same with the least that must.

    Before `needed` answers of the candidate and of the live version it goes back only if the drop is beyond
    `bound`, or what agrees is under `agreement`, with 99.9 % confidence; then the shares that were seen decide.

    live: None where too little was seen of it, and no more will be: as if all of its answers had succeeded
    """
    against = live or Tally(needed, needed)
    drop = against.rate - candidate.rate
    beside = f"{live} of the live version" if live else "too few of the live version were seen"
    figures = f"{candidate} answers of the candidate succeeded, {beside} (bound {bound:.0%})"
    differ = f"Its answers differ: {same} say what callers got ({agreement:.0%} must)"
    if least_drop(candidate, against) > bound:
        return Verdict(Course.BACK, f"The drop is sure: {figures}.")
    if same.answers and _wilson(same)[1] < agreement:
        return Verdict(Course.BACK, f"{differ}, and that is sure. {figures}.")
    if candidate.answers < needed or against.answers < needed:
        return Verdict(Course.WAIT, f"{figures}; {needed} of each are needed.")
    if drop > bound + _ROUNDING:
        return Verdict(Course.BACK, f"{figures}.")
    if same.rate < agreement - _ROUNDING:
        return Verdict(Course.BACK, f"{differ}. {figures}.")
    return Verdict(Course.ADVANCE, f"{figures}.")


def least_drop(candidate: Tally, live: Tally) -> float:
    """Return the lower confidence limit of live rate less candidate rate, in [-1, 1].

    Source: Newcombe's hybrid score interval ('Interval estimation for the difference between independent
    proportions', Statistics in Medicine 17, 1998, method 10), over Wilson's for each rate.
    """
    if not candidate.answers or not live.answers:
        return -1.0
    live_low, _ = _wilson(live)
    _, candidate_high = _wilson(candidate)
    drop = live.rate - candidate.rate
    return drop - sqrt((live.rate - live_low) ** 2 + (candidate_high - candidate.rate) ** 2)


def _wilson(tally: Tally) -> tuple[float, float]:
    n, p = tally.answers, tally.rate
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return centre - half, centre + half
