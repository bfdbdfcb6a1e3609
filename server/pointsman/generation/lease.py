"""An engine, held for one answer: where the answer waits for its turn, and how it is read."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from pointsman.generation.adapter_admission import Place
from pointsman.generation.backend import Question, Stream
from pointsman.generation.engine_process import EngineProcess
from pointsman.generation.unbroken import ended
from pointsman.values.events import Finished, Token


class Lease:
    """`place` waits for the turn, `stream` answers. `adapters` scales all adapters of the engine, if it has any."""

    def __init__(
        self,
        engine: EngineProcess,
        adapters: tuple[float, ...] | None,
        adapter: str,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Hold `engine` for a request under `adapter`, by sha256; '' is the bare base."""
        self.engine = engine
        self.adapters = adapters
        self.adapter = adapter
        self._tasks = tasks
        self._place: Place | None = None

    def estimate_s(self, tokens: int) -> float:
        """Return the seconds until an answer of `tokens` would be made; see `AdapterAdmission`."""
        return self.engine.admission.estimate_s(self.adapter, tokens)

    @asynccontextmanager
    async def place(self, tokens: int = 0, budget_s: float | None = None) -> AsyncGenerator[float, None]:
        """Hold a place for one answer of at most `tokens`; yields the wait in milliseconds.

        Raises:
            OverloadedError: the queue is full.
            DeadlineError: the answer would not be made within `budget_s`.

        """
        async with self.engine.admission.place(self.adapter, tokens, budget_s) as place:
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
            async with aclosing(self.engine.stream(question, place)) as stream:
                async for piece in stream:
                    if place is not None and isinstance(piece, Finished):
                        place.answered(piece.usage)
                    elif place is not None and not self.engine.spec.takes_turns:
                        place.said(1)
                    pieces.put_nowait(piece)
        except Exception as error:  # noqa: BLE001 - handed to the caller, above
            pieces.put_nowait(error)
