"""An engine, held for one answer: where the answer waits for its turn, and how it is read."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from pointsman.generation.backend import Question, Stream
from pointsman.generation.deadline import Deadline
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.place import Place
from pointsman.generation.unbroken import ended
from pointsman.values.events import Finished, Token


class Lease:
    """`place` waits for the turn, `stream` answers. `adapters` scales all adapters of the engine, if it has any."""

    def __init__(
        self,
        engine: EngineProcess,
        adapters: tuple[float, ...] | None,
        batch: str,
        deadline: Deadline,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Hold `engine` for a request of a batch: its adapter and scale, see `engine_plan`."""
        self.engine = engine
        self.adapters = adapters
        self.batch = batch
        self._deadline = deadline
        self._tasks = tasks
        self._place: Place | None = None

    @asynccontextmanager
    async def place(
        self, tokens: int = 0, budget_s: float | None = None, prompt_tokens: int = 0
    ) -> AsyncGenerator[float, None]:
        """Hold a place for one answer of at most `tokens`; yields the wait in milliseconds.

        prompt_tokens: about how many are to be read

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the answer would not be made within `budget_s`.

        """
        if budget_s is not None:
            budget_s -= self.engine.ready_in_s() or 0.0
        async with self.engine.admission.place(self.batch, tokens, budget_s, prompt_tokens) as place:
            self._place = place
            try:
                yield place.queue_ms
            finally:
                self._place = None

    async def stream(self, question: Question) -> Stream:
        """Answer, within `place`; see `Backend.stream`.

        The engine is read as fast as it answers: a caller that is slow to read holds no turn.
        """
        pieces: asyncio.Queue[Token | Finished | Exception] = asyncio.Queue()
        reading = self._tasks.create_task(self._read(question, pieces), name=f"answer of {self.engine.name}")
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
                if isinstance(piece, Finished):
                    return
        finally:
            reading.cancel()
            await ended(reading)  # until then the engine may yet be told something for this place

    async def _read(self, question: Question, pieces: "asyncio.Queue[Token | Finished | Exception]") -> None:
        place = self._place
        try:
            async with aclosing(self.engine.stream(question, place, self._deadline)) as stream:
                async for piece in stream:
                    if place is not None and isinstance(piece, Finished):
                        place.answered(piece.usage)
                    elif place is not None and not self.engine.spec.takes_turns:
                        place.said(1)
                    pieces.put_nowait(piece)
        except Exception as error:  # noqa: BLE001 - handed to the caller, above
            pieces.put_nowait(error)
