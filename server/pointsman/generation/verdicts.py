"""What engines were found to answer under an adapter at a scale: sense, nonsense, or nothing. Asks no engine."""

import math
import time

from pointsman.generation.engine_plan import Key, batch_of, key_of
from pointsman.values.catalog import Specialist

RETRY_S = 50.0
"""After what time what made an engine fail is tried again: less than the catalog's own retry."""


class Verdicts:
    """By base, adapter and scale, all three by content: they hold for every engine, and over its restarts."""

    def __init__(self) -> None:
        self._sound: set[tuple[Key, str]] = set()
        self._wrong: dict[tuple[Key, str], tuple[str, float]] = {}

    def known_sound(self, specialist: Specialist) -> bool:
        """Return whether an engine has answered sense; the bare base is asked nothing."""
        return specialist.adapter is None or _name(specialist) in self._sound

    def wrong(self, specialist: Specialist) -> str:
        """Return what is wrong with it; empty when nothing is, or nothing is known (any more)."""
        reason, until = self._wrong.get(_name(specialist), ("", 0.0))
        return reason if time.monotonic() < until else ""

    def clear(self, specialist: Specialist) -> None:
        """Note that an engine answers sense."""
        self._sound.add(_name(specialist))
        self._wrong.pop(_name(specialist), None)

    def condemn(self, specialist: Specialist, reason: str, for_s: float = math.inf) -> None:
        """Note what is wrong with it, for ever or for a while."""
        self._wrong[_name(specialist)] = reason, time.monotonic() + for_s

    def pardon(self) -> None:
        """Forget what was to be forgotten after a while."""
        self._wrong = {name: (why, until) for name, (why, until) in self._wrong.items() if until == math.inf}


def _name(specialist: Specialist) -> tuple[Key, str]:
    return key_of(specialist), batch_of(specialist)
