"""What a review of intents can find: codes, how grave each is, and what to do about it. Knows no checks."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What becomes of a run that finds it: errors fail it, warnings fail a strict one, notes never do."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code stands for, and what to do about it."""

    severity: Severity
    advice: str


RULES = {
    "refused": Rule(Severity.ERROR, "mend the file; until then it does not serve"),
    "secret": Rule(Severity.ERROR, "withdraw the credential, then take it out of the file and its history"),
    "duplicate": Rule(Severity.ERROR, "keep it in the intent that it asks for"),
    "personal_data": Rule(Severity.WARNING, "replace it with an invented value (example.com, 555-0100)"),
    "near_duplicate": Rule(
        Severity.WARNING, "keep one of the two, or merge the intents where both mean the same"
    ),
    "misplaced": Rule(Severity.WARNING, "move it, or add exemplars like it to its intent"),
    "unclear": Rule(Severity.NOTE, "the target is the same, so only the intent's name is at stake"),
    "outlier": Rule(Severity.NOTE, "add exemplars like it to its intent, or take it out"),
    "thin": Rule(Severity.WARNING, "add exemplars; twenty varied ones are good"),
    "broad": Rule(Severity.WARNING, "split the intent, or add exemplars where it is sparse"),
    "harmful": Rule(Severity.NOTE, "read it again: move it, reword it or take it out"),
    "unchecked": Rule(Severity.WARNING, "pip install 'pointsman[review]'"),
    "empty": Rule(Severity.WARNING, "add a file to the folder; until then every prompt is one for the cloud"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to look at. `line` is 1-based, 0 when it is not on one line.

    intent, other: the intent whose text it is, and the one that it collides with; either may be empty
    """

    code: str
    file: str
    line: int
    intent: str
    message: str
    other: str = ""

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return RULES[self.code].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return RULES[self.code].advice

    def concerns(self, intents: Collection[str]) -> bool:
        """Return whether it has to do with one of these intents; an error concerns everybody."""
        known = {self.intent, self.other} - {""}
        return self.severity is Severity.ERROR or not known or not known.isdisjoint(intents)

    def __str__(self) -> str:
        """`file:line: severity: code: message; advice`, the way compilers say it."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.severity}: {self.code}: {self.message}; {self.advice}"
