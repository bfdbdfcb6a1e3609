"""How a new version of a specialist does on its way into use, as values."""

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far a new version is."""

    SHADOW = "shadow"  # asked beside the live one; nobody sees its answers
    CANARY = "canary"  # answers a share
    ALL = "all"  # answers everything, on trial still


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers, and those of them that succeeded: of the right format, no refusal, no circle, not empty."""

    answers: int = 0
    successes: int = 0

    @property
    def rate(self) -> float:
        """Share of successes; 1 where there is no answer yet."""
        return self.successes / self.answers if self.answers else 1.0

    def __add__(self, other: "Tally") -> "Tally":
        """Both together."""
        return Tally(self.answers + other.answers, self.successes + other.successes)

    def __str__(self) -> str:
        return f"{self.successes} of {self.answers}"


@dataclass(frozen=True, slots=True)
class Past:
    """What a stage showed.

    same: answers in shadow that were held against what their callers got, and those of them that said the same
    """

    stage: Stage
    candidate: Tally
    live: Tally
    same: Tally = Tally()


@dataclass(frozen=True, slots=True)
class Trial:
    """How a rollout does in its stage: tallies of candidate and live version, and as for `Past`, `same`."""

    stage: Stage
    candidate: Tally
    live: Tally
    same: Tally
