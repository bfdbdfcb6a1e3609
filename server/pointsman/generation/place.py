"""The right of one answer to be made at an engine whose adapters take turns (`adapter_admission`)."""

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from pointsman.generation.engine_slots import Slot
from pointsman.generation.interlude import Post
from pointsman.generation.swap_space import SwapSpace
from pointsman.values.events import Usage

if TYPE_CHECKING:
    from pointsman.generation.adapter_admission import AdapterAdmission

_PROMPT_WEIGHT = 0.25
"""What a prompt token costs, in tokens of an answer (benchmarks/results/generate.md: 1/3 to 1/6)."""


class Place:
    """The right of one answer to be made. `gives_way` is false while it cannot be interrupted.

    queue_ms: the wait for the first turn
    """

    def __init__(
        self, admission: "AdapterAdmission", adapter: str, tokens: int, *, probes: bool = False
    ) -> None:
        self.adapter = adapter
        self.probes = probes
        self.gives_way = True
        self.queue_ms = 0.0
        self.left = float(tokens)
        self.turn_is_over = False
        self.round_left = math.inf  # tokens that the engine was asked for and has not made
        self.admitted: asyncio.Future[None] | None = None
        self.interrupt: Callable[[], None] | None = None
        """Called when the turn is over, by whoever waits for tokens meanwhile."""
        self._admission = admission

    def slot(self, text: str, scales: tuple[float, ...] | None) -> Slot:
        """Return the slot of the engine to answer in: the one it had, or the best there is for a prompt.

        scales: of the adapters that it is read under
        """
        return self._admission.slot_of(self, text, scales)

    @property
    def swap(self) -> SwapSpace | None:
        """Where caches go that have to leave their slot, if anywhere."""
        return self._admission.swap

    def stream_closed(self, post: Post) -> None:
        """Note that its stream was closed before the end, and let the engine hear of it soon; returns at once."""
        self._admission.stream_closed(post)

    def said(self, tokens: float) -> None:
        """Charge tokens of the answer."""
        self._admission.charge(self, tokens, made=tokens)

    def read(self, tokens: int, seconds: float = 0.0) -> None:
        """Charge tokens of the prompt that were not in a cache, and took so long to read."""
        self._admission.pace.read(tokens, seconds, asyncio.get_running_loop().time())
        self._admission.charge(self, tokens * _PROMPT_WEIGHT, made=0.0)

    def answered(self, usage: Usage) -> None:
        """Note what the whole answer took, and let others have the place."""
        self._admission.pace.answered(self.adapter, usage)
        self._admission.leave(self)

    def round_tokens(self, left: int) -> int:
        """Return how many tokens to ask the engine for now: those of the turn while others wait, else all."""
        return self._admission.round_tokens(self, left)

    def begin_to_wait(self) -> None:
        """Note that the round is over, and with it the turn."""
        self.turn_is_over, self.round_left = False, math.inf

    async def next_turn(self) -> None:
        """Give way, and return when the adapter has its turn again."""
        await self._admission.wait_again(self)

    def end_turn(self, spared: float) -> None:
        """Ask for the way to be given, unless no more than `spared` tokens are to come before it is."""
        if self.turn_is_over or not self.gives_way or self.round_left <= spared:
            return
        self.turn_is_over = True
        if self.interrupt is not None:
            self.interrupt()
