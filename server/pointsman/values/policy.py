"""What may leave, as values: what was found in a conversation, and what is to be done about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

SECRET = "secret"  # noqa: S105 - the kind, not one
UNREADABLE = "unreadable"
"""The kind of a message that detection failed on: nobody knows what it holds."""

PLACEHOLDER = re.compile(r"\[([A-Z][A-Z0-9_]*)_[0-9]+\]")
"""What stands for a span that was taken out of a text: its kind, in capitals, and a number."""


class Action(StrEnum):
    """What is to be done about something sensitive, from nothing to most."""

    ALLOW = "allow"
    REDACT = "redact"
    STAY_LOCAL = "stay_local"
    REFUSE = "refuse"


STRICTNESS = tuple(Action)
"""Actions in order: the strictest one of a conversation holds for all of it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Something sensitive in a text, by its kind and its place: characters from `start` up to `end`."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A span, without its place: what may be written down. `message` counts from 0."""

    message: int
    kind: str
    length: int
    action: Action


@dataclass(frozen=True, slots=True)
class Screening:
    """What a policy says of a conversation: the strictest action of all findings."""

    action: Action = Action.ALLOW
    findings: tuple[Finding, ...] = ()

    def describe(self, *actions: Action) -> str:
        """Return the kinds found with these actions, and in which messages; never the text."""
        places: dict[str, set[int]] = {}
        for finding in self.findings:
            if finding.action in actions:
                places.setdefault(finding.kind, set()).add(finding.message + 1)
        return ", ".join(
            f"{kind} (message {', '.join(map(str, sorted(where)))})" for kind, where in sorted(places.items())
        )


NOTHING_FOUND = Screening()


@dataclass(frozen=True, slots=True)
class Pattern:
    """A company's own kind: a regular expression."""

    name: str
    regex: str


@dataclass(frozen=True, slots=True)
class WordList:
    """A company's own kind: words and phrases, in any case."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """The operator's policy.

    actions: by kind; a kind without one is not looked for
    callers: by the caller's name, the actions that differ for them
    phone_regions: countries whose national form of phone numbers is looked for too
    ner_model: of spaCy, which finds names and places; empty: none
    """

    actions: Mapping[str, Action] = field(default_factory=lambda: MappingProxyType({}))
    patterns: tuple[Pattern, ...] = ()
    words: tuple[WordList, ...] = ()
    callers: Mapping[str, Mapping[str, Action]] = field(default_factory=lambda: MappingProxyType({}))
    phone_regions: tuple[str, ...] = ()
    ner_model: str = ""

    def action(self, kind: str, caller: str, *, known: bool = True) -> Action:
        """Return what is to be done about a kind that this caller's conversation holds.

        known: whether it is sure who they are; what is theirs is never looser than for all where it is not
        """
        if kind == UNREADABLE:
            return Action.STAY_LOCAL
        of_all = self.actions.get(kind, Action.ALLOW)
        own = self.callers.get(caller, {}).get(kind, of_all)
        return own if known else max(own, of_all, key=STRICTNESS.index)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that matter to anybody."""
        stated = [self.actions, *self.callers.values()]
        return frozenset(
            k for actions in stated for k, action in actions.items() if action is not Action.ALLOW
        )
