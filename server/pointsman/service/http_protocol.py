"""HTTP/1.1 whose requests have a time to come in, and a peer with a name. Needs uvicorn (extra `http`)."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from pointsman.values.caller import names_in

HEAD_S = 10.0
PEER = "pointsman.peer"
"""Where the state of a request has the names in its peer's certificate."""


class TimedProtocol(H11Protocol):
    """Closes a connection on which the head of a request is not whole in time: uvicorn itself waits for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, of whom the certificate names."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, PEER: names_in(transport.get_extra_info("peercert"))}
        self._late = self.loop.call_later(HEAD_S, self._close)

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head, and no longer once it is there."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._close)

    def on_response_complete(self) -> None:
        """Leave the wait for another request to uvicorn, until its first byte."""
        self._forget()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._forget()
        super().connection_lost(exc)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        self.transport.close()
