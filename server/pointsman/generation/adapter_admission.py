"""Requests of many adapters to turns at one engine, which makes answers of one adapter at a time.

llama.cpp puts requests with different adapters into different batches, and works on one batch until it is
done: a request for one adapter waits as long as answers of another are made (benchmarks/adapters.py). So the
requests of an adapter are answered together, and adapters take turns by deficit round robin: Shreedhar and
Varghese, "Efficient Fair Queuing Using Deficit Round-Robin", IEEE/ACM Transactions on Networking 4(3), 1996.
A quantum is counted in tokens. What an answer will cost is not known when it begins, so tokens are charged as
they are made, and what was taken too much is owed in the next turn. An answer that outlasts its turn gives
way within a token and goes on in a later one; where few tokens are left of its round, that may end by itself.

Turns go by turns to adapters with requests that wait for their first token, and to those whose answers have
only been interrupted: the first are bounded in time, the second by the number of turns before theirs, and those
by their tokens.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pointsman.errors import DeadlineError, OverloadedError
from pointsman.generation.engine_slots import EngineSlots, Slot
from pointsman.generation.interlude import BALLAST, Interlude, Post
from pointsman.generation.place import Place
from pointsman.generation.speed import Pace, Tally
from pointsman.generation.swap_space import SwapSpace

_SHORTEST_TURN_S = 0.1
_SHORTEST_ROUND = 8
"""Tokens; shorter rounds would cost more than they give."""
_SPARED, _MOST_SPARED = 2, 8
"""Tokens; a round with no more to make is not interrupted, which costs the engine a step or two and what they make. The
second where they take no more than a quarter of the turn."""
_OVERRUN = 16
"""The same while nobody waits for a first token: what is made beyond the turn is owed in the next one."""
_UNKNOWN_RATE = 50.0


@dataclass(slots=True)
class _Group:
    """The requests of one adapter at one scale. `deficit` is what its turn may still cost, in tokens.

    in_line_since: when it began to wait for a turn with requests that are new
    """

    begun: deque[Place] = field(default_factory=deque)
    new: deque[Place] = field(default_factory=deque)
    running: set[Place] = field(default_factory=set)
    deficit: float = 0.0
    in_line_since: float = 0.0

    @property
    def waiting(self) -> int:
        return len(self.begun) + len(self.new)

    @property
    def left(self) -> float:
        """Tokens that its requests still want, as estimated."""
        return sum(max(1.0, place.left) for place in (*self.begun, *self.new, *self.running))


class AdapterAdmission:
    """Turns at one engine. Rejects at once when the queue is full, or a deadline cannot be met.

    Adapters with new requests have at least every second turn, and turns are as short as the line of them
    asks for: none waits longer than `turn_s` for its own, or 0.2 s for each adapter that waits if that is longer
    (from eleven on), as long as answers give way. What cannot be interrupted comes on top, in each turn before its own:
    a step of a prompt, and an answer that is held to a grammar, to its end.
    """

    def __init__(
        self, name: str, slots: int, queue_limit: int, turn_s: float, *, engine_slots: int | None = None
    ) -> None:
        self._name = name
        self._slots = slots
        self._limit = queue_limit
        self._turn_s = turn_s
        self._engine_slots = EngineSlots(engine_slots or slots)
        self.swap: SwapSpace | None = None
        """Where caches go that have to leave their slot."""
        self.interlude: Interlude | None = None
        """Lets the engine hear of closed streams a step sooner."""
        self._groups: dict[str, _Group] = {}
        # Adapters that wait for a turn: with new requests, and with interrupted answers only.
        self._fresh: deque[str] = deque()
        self._begun: deque[str] = deque()
        self._fresh_had_the_last = False
        self._current: str | None = None
        self._turn_began = 0.0
        self._time_is_up = False
        self._timer: asyncio.TimerHandle | None = None
        self.pace = Pace()
        self.switches = 0
        """Turns that ended because another adapter waited."""

    @property
    def held(self) -> int:
        """Answers that are being made, or between two turns."""
        return sum(len(group.running) + len(group.begun) for group in list(self._groups.values()))

    @property
    def waiting(self) -> int:
        """Requests that have not been begun."""
        return sum(len(group.new) for group in self._groups.values())

    @property
    def slots(self) -> int:
        """Answers that are made at once."""
        return self._slots

    @property
    def tokens_per_s(self) -> float | None:
        """Smoothed, of all answers together; None before the first ones."""
        return self.pace.speed.per_s

    @property
    def files(self) -> tuple[int, ...]:
        """Descriptors of what caches are copied to; the engine inherits them."""
        swap = self.swap.files if self.swap is not None else ()
        return swap if self.interlude is None else (*swap, self.interlude.file)

    @property
    def last_slot(self) -> int:
        """The number of the engine's last slot."""
        return self._engine_slots.count - 1

    @property
    def swapped_bytes(self) -> int:
        """What caches take that had to leave their slot."""
        return self.swap.bytes if self.swap is not None else 0

    @property
    def swap_failed(self) -> bool:
        """Whether caches would be swapped, but are not since something went wrong."""
        return self.swap is not None and not self.swap.working

    def tally(self, adapter: str) -> Tally:
        """Return what is known of an adapter's answers."""
        return self.pace.tally(adapter)

    def estimate_s(self, adapter: str, tokens: int, prompt_tokens: int = 0) -> float:
        """Return the seconds until an answer of `tokens` would be made, begun now; 0 while nothing is known.

        Adapters share the engine evenly, an adapter's own requests in the order of their coming.
        """
        if self.pace.speed.per_s is None:
            return 0.0
        group = self._groups.get(adapter) or _Group()
        others = sum(
            1 for key, other in self._groups.items() if key != adapter and (other.running or other.waiting)
        )
        share = 1 + others
        ahead = len(group.running) + group.waiting
        wait_s = self._turn_s * others / (1 + others)
        if ahead >= self._slots:  # its own adapter's requests come first, `slots` at a time
            wait_s = max(wait_s, self.pace.saying_s(group.left * (ahead - self._slots + 1) / ahead) * share)
        answer_s = self.pace.saying_s(tokens * min(self._slots, ahead + 1))
        return wait_s + (self.pace.reading_s(adapter, prompt_tokens) + answer_s) * share

    @asynccontextmanager
    async def place(
        self,
        adapter: str = "",
        tokens: int = 0,
        budget_s: float | None = None,
        prompt_tokens: int = 0,
        *,
        probes: bool = False,
    ) -> AsyncGenerator[Place, None]:
        """Hold a place for one answer of at most `tokens`.

        probes: tries an adapter that has not served yet: refused by no limit, counted in no figure

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: an answer of usual length would not be made within `budget_s`.

        """
        usual = round(self.pace.usual_tokens(adapter, tokens))
        if not probes:
            self._refuse_if_hopeless(adapter, self.estimate_s(adapter, usual, prompt_tokens), budget_s)
        place = Place(self, adapter, max(1, usual or tokens), probes=probes)
        group = self._groups.setdefault(adapter, _Group())
        group.new.append(place)
        arrived = asyncio.get_running_loop().time()
        try:
            await self._admitted(place)
            place.queue_ms = (asyncio.get_running_loop().time() - arrived) * 1e3
            yield place
        finally:
            self.leave(place)

    def slot_of(self, place: Place, text: str, scales: tuple[float, ...] | None) -> Slot:
        """See `Place.slot`."""
        held = self._engine_slots.held_by(place)
        if held is not None:
            return held
        idle = {id(other) for group in self._groups.values() for other in group.begun}
        kept = self.swap.reach(scales, text) if self.swap is not None else 0
        return self._engine_slots.take(place.adapter, text, place, idle, kept)

    def engine_began(self) -> None:
        """Note that the slots of the engine are empty."""
        self._engine_slots.begin(BALLAST if self.interlude is not None else "")
        if self.swap is not None:
            self.swap.clear()

    def stream_closed(self, post: Post) -> None:
        """See `Place.stream_closed`."""
        if self.interlude is not None:
            self.interlude.ask(self._engine_slots.idle(), post)

    def charge(self, place: Place, tokens: float, *, made: float) -> None:
        """See `Place.said` and `Place.read`."""
        place.left -= made
        self.pace.said(made, _now())
        group = self._groups.get(place.adapter)
        if group is not None and self._others_wait():
            group.deficit -= tokens
            if self._turn_is_over():
                self._schedule()

    def round_tokens(self, place: Place, left: int) -> int:
        """See `Place.round_tokens`."""
        if not (self._others_wait() and place.gives_way):
            return left
        group = self._groups[place.adapter]
        return min(left, max(_SHORTEST_ROUND, round(group.deficit / max(1, len(group.running)))))

    async def wait_again(self, place: Place) -> None:
        """See `Place.next_turn`."""
        group = self._groups[place.adapter]
        group.running.discard(place)
        place.begin_to_wait()
        group.begun.append(place)
        await self._admitted(place)

    async def _admitted(self, place: Place) -> None:
        place.admitted = asyncio.get_running_loop().create_future()
        self._schedule()
        await place.admitted

    def _refuse_if_hopeless(self, adapter: str, estimate_s: float, budget_s: float | None) -> None:
        group = self._groups.get(adapter) or _Group()
        busy = sum(len(g.running) + g.waiting for g in self._groups.values())
        if self.waiting >= self._limit and (busy >= self._slots or group.waiting):
            rate = self.pace.speed.per_s or _UNKNOWN_RATE
            raise OverloadedError(
                f"{self._name} is full: {self.held} at work, {self.waiting} waiting",
                retry_after_s=max(0.1, sum(g.left for g in self._groups.values()) / rate / max(1, busy)),
            )
        if budget_s is not None and estimate_s > budget_s:
            raise DeadlineError(
                f"{self._name} would need {estimate_s:.1f} s for this answer, {max(0.0, budget_s):.1f} s are left",
                retry_after_s=estimate_s - max(0.0, budget_s),
            )

    def leave(self, place: Place) -> None:
        """Give a place up; it may have been given up before."""
        self._engine_slots.free(place)
        if self.swap is not None:
            self.swap.forget(place)
        group = self._groups.get(place.adapter)
        if group is None:
            return
        group.running.discard(place)
        for queue in (group.begun, group.new):
            if place in queue:
                queue.remove(place)
        if not (group.running or group.waiting):
            del self._groups[place.adapter]
        self._schedule()

    def _schedule(self) -> None:
        """Begin what may begin now, and end the turn that is over."""
        self._line_up()
        while True:
            if self._current not in self._groups and not self._begin_turn():
                break
            group = self._groups[self._current or ""]
            if self._others_wait() and (self._turn_is_over() or not (group.running or group.waiting)):
                if group.running:
                    for place in list(group.running):
                        place.end_turn(self._spared(self._share_s()) if self._fresh else _OVERRUN)
                    break
                self._end_turn()
                continue
            self._admit(group)
            break
        self._set_timer()
        running = any(not place.probes for group in self._groups.values() for place in group.running)
        self.pace.work(_now(), going_on=running)

    def _line_up(self) -> None:
        """Let every adapter stand where it belongs, behind those that stand there already."""
        others = {key: group for key, group in self._groups.items() if key != self._current}
        self._join(self._fresh, [key for key, group in others.items() if group.new])
        self._join(self._begun, [key for key, group in others.items() if group.begun and not group.new])

    def _join(self, line: deque[str], wanted: list[str]) -> None:
        kept = [key for key in line if key in wanted]
        joining = [key for key in wanted if key not in kept]
        for key in joining:
            self._groups[key].in_line_since = _now()
        line.clear()
        line.extend([*kept, *joining])

    def _begin_turn(self) -> bool:
        fresh_first = bool(self._fresh) and not (self._fresh_had_the_last and self._begun)
        adapters = self._fresh if fresh_first else self._begun
        if not adapters:
            self._current = None
            return False
        self._fresh_had_the_last = fresh_first
        self._current = adapters.popleft()
        self._turn_began, self._time_is_up = _now(), False
        group = self._groups[self._current]
        quantum = self._share_s() * (self.pace.speed.per_s or _UNKNOWN_RATE)
        # What is left of a turn is not saved up, and no debt costs more than a turn of the shortest rounds.
        least = _SHORTEST_ROUND * min(self._slots, group.waiting)
        group.deficit = max(least, quantum + min(0.0, group.deficit))
        return True

    def _end_turn(self) -> None:
        self.switches += 1
        self._current = None
        self._line_up()

    def _admit(self, group: _Group) -> None:
        while len(group.running) < self._slots and group.waiting:
            place = (group.begun or group.new).popleft()
            group.running.add(place)
            if place.admitted is not None and not place.admitted.done():
                place.admitted.set_result(None)

    def _others_wait(self) -> bool:
        return bool(self._fresh or self._begun)

    def _share_s(self) -> float:
        """Return how long the turn may last, for every adapter in line to have its own in time.

        Before the turn of the i-th one in line come at most 2 i turns, this one included.
        """
        share_s = self._turn_s
        for place_in_line, adapter in enumerate(self._fresh, 1):
            due = self._groups[adapter].in_line_since + self._turn_s
            share_s = min(share_s, (due - self._turn_began) / (2 * place_in_line))
        return max(_SHORTEST_TURN_S, share_s)

    def _spared(self, share_s: float) -> float:
        """Return with how many tokens to make a round is left alone while others wait for a first token."""
        return min(_MOST_SPARED, max(_SPARED, share_s / 4 / self._step_s()))

    def _ends_after_s(self) -> float:
        """Return when to end the turn, for rounds that are left alone to be over in time."""
        share_s = self._share_s()
        return share_s - (self._spared(share_s) - _SPARED) * self._step_s()

    def _step_s(self) -> float:
        """Return about how long the running answers take for a token each."""
        group = self._groups.get(self._current or "") or _Group()
        return max(1, len(group.running)) / (self.pace.speed.per_s or _UNKNOWN_RATE)

    def _turn_is_over(self) -> bool:
        if self._current is None or self._current not in self._groups:
            return True
        group = self._groups[self._current]
        # Spent is a turn in which no round is left that were worth to be begun.
        spent = group.deficit <= max(_SHORTEST_ROUND / 2, _SPARED * len(group.running))
        if self._fresh and _now() - self._turn_began >= self._ends_after_s() - 1e-4:
            self._time_is_up = True  # and stays so, although the fewer are running the faster is a step
        return spent or (bool(self._fresh) and self._time_is_up)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._current is not None and self._fresh and not self._turn_is_over():
            left_s = self._turn_began + self._ends_after_s() - _now()
            self._timer = asyncio.get_running_loop().call_later(max(0.0, left_s), self._schedule)


def _now() -> float:
    return asyncio.get_running_loop().time()
