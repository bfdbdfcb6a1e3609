"""Tallies of two versions of a specialist to a verdict: go on, go back, or wait for more answers. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

from pointsman.values.rollout import Tally

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


def judge(candidate: Tally, live: Tally, needed: int, bound: float) -> Verdict:
    """Compare shares of successes.

    Before `needed` answers of the candidate (and, where it is counted at all, of the live version) it goes
    back only if the drop is beyond `bound` with 99.9 % confidence; then the drop that was seen decides.
    """
    drop = live.rate - candidate.rate
    figures = (
        f"{candidate} answers of the candidate succeeded, {live} of the live version (bound {bound:.0%})"
    )
    if least_drop(candidate, live) > bound:
        return Verdict(Course.BACK, f"The drop is sure: {figures}.")
    if candidate.answers < needed or live.answers < needed:
        return Verdict(Course.WAIT, f"{figures}; {needed} of each are needed.")
    if drop > bound:
        return Verdict(Course.BACK, f"{figures}.")
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
