"""What intents and rules may name as their target. Knows names only."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from pointsman.values.catalog import CLOUD, MID, Intent, Mid, Rule


@dataclass(frozen=True, slots=True)
class Targets:
    """The specialists that can be had, and who answers on the middle tier."""

    specialists: AbstractSet[str]
    mid: Mid | None

    def refusal(self, target: str) -> str:
        """Return what is wrong with the target of an intent; empty when it can be had."""
        if target == MID:
            return self._refusal_of_mid()
        others = (CLOUD, MID) if self.mid else (CLOUD,)
        return "" if target == CLOUD or target in self.specialists else self._unknown(*others)

    def refusal_of_rule(self, rule: Rule) -> str:
        """Return what is wrong with where a rule leads; empty when it can be had."""
        if rule.to == MID:
            return self._refusal_of_mid()
        return "" if rule.specialist is None or rule.specialist in self.specialists else self._unknown()

    def _refusal_of_mid(self) -> str:
        if self.mid is None:
            return "no mid tier is configured; set routing.mid"
        if self.mid.specialist is None or self.mid.specialist in self.specialists:
            return ""
        return f"routing.mid names {self.mid.specialist!r}: {self._unknown()}"

    def _unknown(self, *others: str) -> str:
        return f"no such specialist; known: {', '.join(sorted({*self.specialists, *others}))}"


def specialist_of(target: str, mid: Mid | None) -> str | None:
    """Return the specialist that answers a target; None where a model of the cloud does."""
    if target == MID:
        return mid.specialist if mid else None
    return None if target == CLOUD else target


def users_of(
    intents: Iterable[Intent], rules: Iterable[Rule], mid: Mid | None, general: str | None = None
) -> dict[str, list[str]]:
    """Return who needs each specialist, by the specialist's name: names of intents, then rules, then settings.

    general: who answers where no intent fits
    """
    needed = [(intent.name, specialist_of(intent.target, mid)) for intent in intents]
    of_mid = specialist_of(MID, mid)
    needed += [(f"rule {r.name}", of_mid if r.to == MID else r.specialist) for r in rules]
    needed += [("routing.mid", of_mid), ("routing.general_specialist", general)]
    users: dict[str, list[str]] = {}
    for user, specialist in needed:
        if specialist is not None:
            users.setdefault(specialist, []).append(user)
    return users
