"""Two catalogs to what was edited between them. Knows no vectors and no traffic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pointsman.catalog.schema import normalise
from pointsman.values.catalog import Catalog, Intent

_SAME_INTENT = 0.5
"""An intent that came is one that went, renamed, when they share this part of all their exemplars."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field with another value; empty where there is none."""

    field: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class IntentChange:
    """What was edited in one intent. `old_name` differs from `name` in a renamed one."""

    name: str
    old_name: str
    fields: tuple[FieldChange, ...]
    exemplars_added: tuple[str, ...]
    exemplars_removed: tuple[str, ...]
    negatives_added: tuple[str, ...]
    negatives_removed: tuple[str, ...]

    @property
    def renamed(self) -> bool:
        """Whether the intent has another name."""
        return self.name != self.old_name


@dataclass(frozen=True, slots=True)
class Changes:
    """Intents that came, went, and were edited, each by name."""

    added: tuple[Intent, ...]
    removed: tuple[Intent, ...]
    edited: tuple[IntentChange, ...]

    @property
    def renames(self) -> Mapping[str, str]:
        """New names by old ones, of the intents that were renamed."""
        return {change.old_name: change.name for change in self.edited if change.renamed}

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.added or self.removed or self.edited)


def compare(old: Catalog, new: Catalog) -> Changes:
    """Compare two catalogs, intent by intent.

    A name that went and one that came are one renamed intent when their exemplars share half of all the texts
    in either (Jaccard index); of several, the most alike are paired first.
    """
    before = {intent.name: intent for intent in old.intents}
    after = {intent.name: intent for intent in new.intents}
    gone = [intent for name, intent in before.items() if name not in after]
    come = [intent for name, intent in after.items() if name not in before]
    pairs = [(before[name], after[name]) for name in after if name in before]
    for was, now in _renamed(gone, come):
        pairs.append((was, now))
        gone.remove(was)
        come.remove(now)
    edited = (_edited(was, now) for was, now in sorted(pairs, key=lambda pair: pair[1].name))
    return Changes(tuple(come), tuple(gone), tuple(change for change in edited if change is not None))


def _renamed(gone: list[Intent], come: list[Intent]) -> Iterator[tuple[Intent, Intent]]:
    alike = sorted(
        ((_overlap(was, now), was.name, now.name) for was in gone for now in come),
        key=lambda item: (-item[0], *item[1:]),
    )
    taken: set[str] = set()
    by_name = {intent.name: intent for intent in (*gone, *come)}
    for overlap, was, now in alike:
        if overlap >= _SAME_INTENT and was not in taken and now not in taken:
            taken |= {was, now}
            yield by_name[was], by_name[now]


def _overlap(was: Intent, now: Intent) -> float:
    ours, theirs = ({normalise(text) for text in intent.exemplars} for intent in (was, now))
    return len(ours & theirs) / len(ours | theirs)


def _edited(was: Intent, now: Intent) -> IntentChange | None:
    if was == now:
        return None
    fields = (
        FieldChange(name, _shown(getattr(was, name)), _shown(getattr(now, name)))
        for name in ("target", "threshold", "description")
        if getattr(was, name) != getattr(now, name)
    )
    return IntentChange(
        name=now.name,
        old_name=was.name,
        fields=tuple(fields),
        exemplars_added=_without(now.exemplars, was.exemplars),
        exemplars_removed=_without(was.exemplars, now.exemplars),
        negatives_added=_without(now.negatives, was.negatives),
        negatives_removed=_without(was.negatives, now.negatives),
    )


def _without(texts: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    known = set(others)
    return tuple(text for text in texts if text not in known)


def _shown(value: object) -> str:
    return "" if value is None else str(value)
