"""Which slot of an engine makes which answer, so that a prompt meets the cache that fits it best.

An engine drops the cache of a slot when the slot's adapter changes, and it looks for the best slot by the
prompt alone. So we choose: a slot keeps its adapter as long as others will do. And an engine makes the next tokens
of several slots in one go only where their numbers follow each other: with gaps, four answers at once took a fifth
longer. So answers under one adapter get slots side by side; a cache that was swapped out goes wherever they are.
Knows no engine.
"""

from dataclasses import dataclass, field

_WORTH_A_GAP = 128
"""Characters of a cached prompt: to read so many again takes, by estimate, as long as a gap costs an answer."""


@dataclass(slots=True, eq=False)
class Held:
    """A cache: the scales of adapters it was made under, what was read of its prompt, whose answer wants it."""

    adapters: tuple[float, ...] | None
    text: str
    owner: object | None = field(default=None, repr=False)


@dataclass(slots=True)
class Slot:
    """One slot. `owner` holds it, at work or between two rounds; `text` is what its cache began with.

    holds: what its cache is known to be; None while that is not certain
    """

    number: int
    adapter: str | None = None
    text: str = ""
    used: int = 0
    owner: object | None = field(default=None, repr=False)
    holds: Held | None = None


class EngineSlots:
    """All slots of one engine."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._slots = [Slot(number) for number in range(count)]
        self._uses = 0

    def take(self, adapter: str, text: str, owner: object, idle_owners: set[int], kept: int = 0) -> Slot:
        """Return the slot in which an answer is best made, and let `owner` have it.

        Free slots come before those whose owners are between two rounds (`idle_owners`, by id): such an
        owner loses its cache, and nothing else. Of slots whose caches are about as good, those beside others
        that have an owner under the adapter are preferred.

        kept: characters of the prompt that can be put into any slot. Where no slot has more, those beside others
            come before all, also before free ones: to move caches is cheaper than a gap.
        """
        beside = self._beside(adapter)
        slot = max(
            (slot for slot in self._slots if slot.owner is None or id(slot.owner) in idle_owners),
            key=lambda slot: (*_fit(slot, adapter, text, beside[slot.number], kept), -slot.used),
        )
        self._uses += 1
        slot.adapter, slot.text, slot.owner, slot.used = adapter, text, owner, self._uses
        return slot

    def _beside(self, adapter: str) -> list[int]:
        """Return for each slot how many of those next to it have an owner under an adapter."""
        taken = [slot.owner is not None and slot.adapter == adapter for slot in self._slots]
        return [left + right for left, right in zip([False, *taken[:-1]], [*taken[1:], False], strict=True)]

    def held_by(self, owner: object) -> Slot | None:
        """Return the slot of an owner, if it still has one."""
        return next((slot for slot in self._slots if slot.owner is owner), None)

    def free(self, owner: object) -> None:
        """Give back the slot of an owner; its cache stays until somebody needs the slot."""
        for slot in self._slots:
            if slot.owner is owner:
                slot.owner = None
            if slot.holds is not None and slot.holds.owner is owner:
                slot.holds.owner = None

    def idle(self) -> list[tuple[int, str]]:
        """Return the numbers of slots without an owner, and what their caches began with."""
        return [(slot.number, slot.text) for slot in self._slots if slot.owner is None]

    def begin(self, last: str) -> None:
        """Note that the engine began anew; `last` is what its last slot reads before anybody comes."""
        for slot in self._slots:
            slot.holds = None
            if slot.owner is None:
                slot.adapter, slot.text = None, ""
        if self._slots[-1].owner is None:
            self._slots[-1].text = last


def _fit(slot: Slot, adapter: str, text: str, beside: int, kept: int) -> tuple[int, ...]:
    mine, free = slot.adapter == adapter, slot.owner is None
    same = shared(slot.text, text) if mine else 0
    kind = 2 if mine else 1 if slot.adapter is None else 0
    if kept < _WORTH_A_GAP:
        return free, kind, same // _WORTH_A_GAP, beside, same
    # Who gave up its slot under the same adapter would need another one beside.
    gained = beside if free or not mine else -1
    return max(same, kept) // _WORTH_A_GAP, gained, free, kind, same


def shared(one: str, other: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    same, most = 0, min(len(one), len(other))
    while same < most:
        middle = (same + most + 1) // 2
        if one[same:middle] == other[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
