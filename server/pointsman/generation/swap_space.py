"""Prompt caches that had to leave their slot: into memory outside the engine, and back into a slot.

An engine drops the cache of a slot when the slot's adapter changes, and to read a prompt again takes far longer than
to copy what was made of it (benchmarks/results/adapters.md). So caches are swapped out and in, as those of
preempted requests in Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", SOSP 2023, section 4.5. They lie in memory files without a name, which the engine inherits:
nothing is left of them once both processes are gone. A cache is put in under the adapters it was made under only.
What a slot goes on with is swapped out too, once: others under the adapter begin from it in slots of their own.

What a slot holds is known only if the engine begins requests in the order in which they were sent. So whoever
gives a request up waits until the engine has begun it (`LlamaClient`), and where that cannot be told, nothing
is swapped any more (`distrust`).
"""

import asyncio
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from pointsman.errors import PointsmanError
from pointsman.generation.engine_slots import Held, Slot, shared
from pointsman.generation.interlude import Post
from pointsman.generation.unbroken import ended

_log = structlog.get_logger()
_FILES = 32
_COVERED = 0.8
"""Part of a text that another one begins with, from which its cache is as good."""
_WORTH_A_COPY = 128
"""Characters of a cached prompt: to read them again takes ten times as long as to copy them."""


@dataclass(slots=True, eq=False)
class _Swapped:
    """A cache in a file. `readers`: how many slots it is being put into; it stays where it is meanwhile."""

    file: int
    held: Held
    size: int
    used: int
    readers: int = 0


class SwapSpace:
    """What was swapped out of one engine; the least recently used makes room."""

    def __init__(self, limit_bytes: int) -> None:
        """Open the files, of which each process may have 1,024.

        Raises:
            OSError: there are no more to be had.

        """
        self._limit = limit_bytes
        self._kept: list[_Swapped] = []
        self._free: list[int] = []
        self.files: tuple[int, ...] = ()
        try:
            for i in range(_FILES):
                self.files += (os.memfd_create(f"pointsman cache {i}"),)
        except OSError:
            self.close()
            raise
        self._free = list(self.files)
        self._going: dict[Held, asyncio.Event] = {}
        self._uses = 0
        self._too_long = math.inf  # characters of the shortest text whose cache was larger than the limit
        self._failed = False
        self._epoch = 0

    @property
    def working(self) -> bool:
        """Whether caches are swapped; not after `distrust`."""
        return not self._failed

    @property
    def bytes(self) -> int:
        """What the caches take."""
        return sum(kept.size for kept in self._kept)

    def close(self) -> None:
        """Give the memory back, once the engine is gone too."""
        self._kept, self._free, files, self.files = [], [], self.files, ()
        for file in files:
            os.close(file)

    def clear(self) -> None:
        """Forget everything: the engine began anew."""
        self._kept, self._free, self._failed = [], [], False
        self._epoch += 1
        for file in self.files:
            self._give_back(file)

    def forget(self, owner: object) -> None:
        """Note that an answer has ended: its cache serves others, with a prompt that begins like it."""
        for held in [*(kept.held for kept in self._kept), *self._going]:
            if held.owner is owner:
                held.owner = None

    def reach(self, adapters: tuple[float, ...] | None, text: str) -> int:
        """Return how many characters of a prompt a cache holds that can be put into any slot, soon if not yet."""
        if self._failed:
            return 0
        movable = [*(kept.held for kept in self._kept), *self._going]
        return max((_reach_of(held, adapters, text) for held in movable), default=0)

    def distrust(self, why: str) -> None:
        """Swap nothing until the engine is started again: what it does, and when, is not known any more."""
        if not self._failed:
            self._failed = True
            _log.warning("engine.swap_failed", error=why, until="the engine is started again")

    async def settle(
        self, slot: Slot, owner: object, adapters: tuple[float, ...] | None, text: str, post: Post
    ) -> None:
        """Swap out what a slot holds that others want again, and in what serves a prompt best.

        A cache that cannot be had is no error: the engine reads the prompt. Where the engine fails at it, nothing is
        swapped until it is started again.

        owner: has taken the slot; adapters: the scales of its request
        """
        if self._failed or (slot.holds is not None and slot.holds.owner is owner):
            return
        # What the engine was told to do with the slot is done before anybody else has it.
        moving = asyncio.ensure_future(self._move(slot, owner, adapters, text, post))
        await ended(moving)
        moving.result()

    async def _move(
        self, slot: Slot, owner: object, adapters: tuple[float, ...] | None, text: str, post: Post
    ) -> None:
        epoch = self._epoch
        await self._better_ones_swapped_out(adapters, text, _reach_of(slot.holds, adapters, text))
        if self._failed or epoch != self._epoch:
            return
        held, slot.holds = slot.holds, None  # until the engine has begun: who leaves now leaves it unknown
        same = held is not None and held.adapters == adapters
        here = _reach_of(held, adapters, text)
        found = self._find(adapters, text, owner)
        kept = shared(found.held.text, text) if found is not None else 0
        if found is not None:  # before anything is awaited: it must be there still when its turn comes
            found.used = self._next_use()
            found.readers += 1
        try:
            if held is not None and self._wants_a_copy(held, adapters, text):
                await self._swap_out(slot.number, held, post)
            if found is not None and (found.held.owner is owner or kept > here):
                await self._swap_in(slot.number, found, None if same else adapters or (), post)
        except Exception as error:  # noqa: BLE001 - whatever it is, the prompt can be read
            if epoch == self._epoch:  # not of an engine that is gone
                self.distrust(str(error) if isinstance(error, PointsmanError) else repr(error)[:200])
        finally:
            if found is not None:
                found.readers -= 1
                if found.held.owner is owner:  # its answer goes on from here
                    self._drop(found)

    def _wants_a_copy(self, held: Held, adapters: tuple[float, ...] | None, text: str) -> bool:
        """Whether a slot's cache, which it loses or goes on with for a prompt, has no copy as good."""
        if held.owner is not None or held.adapters != adapters:
            return not self._covered(held)
        here = _reach_of(held, adapters, text)
        return here >= _WORTH_A_COPY > self.reach(adapters, text) and self._has_room_for(held)

    async def _better_ones_swapped_out(
        self, adapters: tuple[float, ...] | None, text: str, here: int
    ) -> None:
        """Wait for caches on their way out that serve a prompt better than what is `here` already."""
        for held, out in list(self._going.items()):
            if _reach_of(held, adapters, text) >= here + _WORTH_A_COPY:
                await out.wait()

    async def _swap_out(self, number: int, held: Held, post: Post) -> None:
        file = self._room()
        if file is None:
            return
        epoch = self._epoch
        out = self._going[held] = asyncio.Event()  # its owner may leave meanwhile
        try:
            reply = await post(f"/slots/{number}?action=save", {"filename": str(file)})
            if epoch != self._epoch:  # the file may be another's by now
                return
            if reply.get("n_saved"):
                self._keep(_Swapped(file, held, reply.get("n_written", 0), self._next_use()))
            else:
                self._give_back(file)
        finally:
            del self._going[held]
            out.set()

    async def _swap_in(
        self, number: int, found: _Swapped, adapters: tuple[float, ...] | None, post: Post
    ) -> None:
        if adapters is not None:  # these drop the cache of a slot when they change, so they come first
            lora = [{"id": i, "scale": scale} for i, scale in enumerate(adapters)]
            await post("/completion", {"prompt": [[]], "n_predict": 0, "id_slot": number, "lora": lora})
        await post(f"/slots/{number}?action=restore", {"filename": str(found.file)})

    def _find(self, adapters: tuple[float, ...] | None, text: str, owner: object) -> _Swapped | None:
        fitting = [kept for kept in self._kept if kept.held.adapters == adapters]
        return max(
            fitting,
            key=lambda kept: (kept.held.owner is owner, shared(kept.held.text, text), kept.used),
            default=None,
        )

    def _covered(self, held: Held) -> bool:
        return held.owner is None and any(
            kept.held.adapters == held.adapters and _begins_like(held.text, kept.held.text)
            for kept in self._kept
        )

    def _has_room_for(self, held: Held) -> bool:
        """Whether a copy that perhaps nobody asks for would take nobody's place, as far as sizes are known."""
        usual = max((kept.size for kept in self._kept), default=0)
        return bool(self._free) and self.bytes + usual <= self._limit and len(held.text) < self._too_long

    def _keep(self, new: _Swapped) -> None:
        if new.size > self._limit:
            self._too_long = min(self._too_long, len(new.held.text))
            self._give_back(new.file)
        if new.size > self._limit or new.file not in self.files:
            return
        for kept in list(self._kept):
            same = kept.held.adapters == new.held.adapters
            if kept.held.owner is None and same and _begins_like(kept.held.text, new.held.text):
                self._drop(kept)
        self._kept.append(new)
        while self.bytes > self._limit and self._make_room():
            pass

    def _room(self) -> int | None:
        if not self._free:
            self._make_room()
        return self._free.pop() if self._free else None

    def _make_room(self) -> bool:
        idle = [kept for kept in self._kept if not kept.readers]
        if idle:
            self._drop(min(idle, key=lambda kept: kept.used))
        return bool(idle)

    def _drop(self, kept: _Swapped) -> None:
        if kept in self._kept and not kept.readers:
            self._kept.remove(kept)
            self._give_back(kept.file)

    def _give_back(self, file: int) -> None:
        if file not in self.files:  # closed meanwhile: the number may be another file's by now
            return
        os.ftruncate(file, 0)
        self._free.append(file)

    def _next_use(self) -> int:
        self._uses += 1
        return self._uses


@contextmanager
def swap_space(limit_mib: int) -> Iterator[SwapSpace | None]:
    """Open a space, where the system has such files; 0 is none."""
    if not limit_mib or not hasattr(os, "memfd_create"):
        yield None
        return
    try:
        space = SwapSpace(limit_mib << 20)
    except OSError as error:
        _log.warning("engine.swap_failed", error=str(error), until="the engine is started again")
        yield None
        return
    try:
        yield space
    finally:
        space.close()


def _reach_of(held: Held | None, adapters: tuple[float, ...] | None, text: str) -> int:
    """Return how many characters of a prompt a cache holds, read under these adapters."""
    return shared(held.text, text) if held is not None and held.adapters == adapters else 0


def _begins_like(text: str, other: str) -> bool:
    return shared(text, other) >= _COVERED * len(text)
