"""Typed clients for callers: `AsyncClient`, and `Client` for code without an event loop.

Answers are the messages of `pointsman.v1`, errors are grpc's own (`grpc.RpcError`); `explain` says in
one sentence what an error means and what to do.
"""

import os
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from pointsman.v1 import catalog_pb2, catalog_pb2_grpc, router_pb2, router_pb2_grpc
from pointsman.values.catalog import CALLER, IDENTIFIER

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_S = 120.0

Conversation = str | Sequence[router_pb2.Message]
"""A prompt, or messages, oldest first."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a client shows a server, and what it knows the server by.

    token: bearer token, sent with every call; plain text without `tls`, so for servers on this machine only
    tls: whether the channel is encrypted; so it is with a `ca` or a `certificate`
    ca: PEM; the server's certificate must be signed by one of these, instead of a public authority
    certificate, key: PEM of the client's own certificate, for servers that ask for one
    """

    token: str = field(default="", repr=False)
    tls: bool = False
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Return POINTSMAN_TOKEN, and what is in the files that POINTSMAN_CA, _CERTIFICATE and _KEY name.

        Raises:
            OSError: a file cannot be read.

        """
        ca, certificate, key = (
            Path(path).read_bytes() if (path := os.environ.get(f"POINTSMAN_{name}")) else None
            for name in ("CA", "CERTIFICATE", "KEY")
        )
        return cls(os.environ.get("POINTSMAN_TOKEN", ""), ca=ca, certificate=certificate, key=key)

    def credentials(self) -> Any:
        """Return channel credentials; None for plain text."""
        if not (self.tls or self.ca or self.certificate):
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


_PLAIN = Access()


def constraints(
    *,
    specialist: str = "",
    tier: str = "",
    task_type: str = "",
    local_only: bool = False,
    output_tokens: int = 0,
) -> router_pb2.Constraints:
    """Return rules that override similarity; `tier` is "", "local", "mid" or "cloud".

    `output_tokens` is the length of the answer that is needed; 0 when unknown.

    Raises:
        ValueError: another tier.

    """
    return router_pb2.Constraints(
        specialist=specialist,
        tier=f"TIER_{tier.upper()}" if tier else None,
        task_type=task_type,
        local_only=local_only,
        output_tokens=output_tokens,
    )


def messages(conversation: Conversation) -> list[router_pb2.Message]:
    """Return a conversation as messages."""
    if isinstance(conversation, str):
        return [router_pb2.Message(role=router_pb2.ROLE_USER, content=conversation)]
    return list(conversation)


def said(text: str, event: router_pb2.GenerateResponse) -> str:
    """Return the answer after another event: `text` with a token added, or with what is retracted taken off."""
    match event.WhichOneof("event"):
        case "token":
            return text + event.token.text
        case "escalation":
            return text[: event.escalation.retract_from]
    return text


def _metadata(caller: str, token: str) -> tuple[tuple[str, str], ...]:
    if caller and not re.fullmatch(IDENTIFIER, caller):
        raise ValueError(f"caller must match {IDENTIFIER} (got {caller!r})")
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters that cannot be sent")
    shown = ((CALLER, caller),) if caller else ()
    return (*shown, ("authorization", f"Bearer {token}")) if token else shown


def _with_id(metadata: tuple[tuple[str, str], ...], request_id: str) -> tuple[tuple[str, str], ...]:
    return (*metadata, ("x-request-id", request_id)) if request_id else metadata


def explain(error: grpc.RpcError) -> str:
    """Return an error of a call as one sentence, with the wait that the server advises."""
    status = rpc_status.from_call(error)
    text = f"{error.code().name}: {error.details()}"
    for detail in status.details if status else ():
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            text += f" (try again in {retry.retry_delay.ToMilliseconds() / 1e3:.1f} s)"
    return text


class AsyncClient:
    """A channel to one server. Use it as an async context manager, and for many calls."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        caller: str = "",
        access: Access = _PLAIN,
    ) -> None:
        """Open a channel; nothing is sent yet.

        timeout_s: deadline of every call
        caller: name that rules may ask for, sent with every request; a server that knows its callers ignores it
        access: token and certificates

        Raises:
            ValueError: a name or a token that cannot be sent.

        """
        self._timeout_s = timeout_s
        self._metadata = _metadata(caller, access.token)
        credentials = access.credentials()
        self._channel = (
            grpc.aio.secure_channel(address, credentials)
            if credentials
            else grpc.aio.insecure_channel(address)
        )
        self._router = router_pb2_grpc.RouterServiceStub(self._channel)
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def route(
        self,
        conversation: Conversation,
        rules: router_pb2.Constraints | None = None,
        *,
        session_id: str = "",
        request_id: str = "",
    ) -> router_pb2.RouteResponse:
        """Return where a conversation goes, and why.

        `session_id`, for conversations that are sent one turn at a time, and `request_id`, for `feedback`, are yours.

        Raises:
            grpc.aio.AioRpcError: see `explain`.

        """
        request = router_pb2.RouteRequest(
            messages=messages(conversation), constraints=rules, session_id=session_id
        )
        response: router_pb2.RouteResponse = await self._router.Route(
            request, timeout=self._timeout_s, metadata=_with_id(self._metadata, request_id)
        )
        return response

    async def generate(
        self,
        conversation: Conversation,
        rules: router_pb2.Constraints | None = None,
        sampling: router_pb2.Sampling | None = None,
        *,
        session_id: str = "",
        hold_back: bool = False,
        request_id: str = "",
    ) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
        """Yield events: the decision, tokens, perhaps an escalation, done. Closing the generator cancels the call.

        `hold_back` shows nothing before the local answer is sure enough; `said` joins tokens and retractions.
        `request_id` is of your choice, for `feedback`.

        Raises:
            grpc.aio.AioRpcError: see `explain`.

        """
        request = router_pb2.GenerateRequest(
            messages=messages(conversation),
            constraints=rules,
            sampling=sampling,
            session_id=session_id,
            hold_back=hold_back,
        )
        call = self._router.Generate(
            request, timeout=self._timeout_s, metadata=_with_id(self._metadata, request_id)
        )
        try:
            async for event in call:
                yield event
        finally:
            call.cancel()

    async def feedback(
        self,
        request_id: str,
        *,
        accepted: bool | None = None,
        intent: str = "",
        answer: str = "",
        comment: str = "",
    ) -> None:
        """Say what the answer to a request of yours was worth; `intent` and `answer` are those that were right.

        Raises:
            grpc.aio.AioRpcError: see `explain`.

        """
        said = router_pb2.FeedbackRequest(
            request_id=request_id, accepted=accepted, intent=intent, answer=answer, comment=comment
        )
        await self._router.Feedback(said, timeout=self._timeout_s, metadata=self._metadata)

    async def list_specialists(self) -> catalog_pb2.ListSpecialistsResponse:
        """Return the specialists, how they are doing, and the health of the catalog."""
        response: catalog_pb2.ListSpecialistsResponse = await self.catalog.ListSpecialists(
            catalog_pb2.ListSpecialistsRequest(), timeout=self._timeout_s, metadata=self._metadata
        )
        return response

    async def list_intents(self) -> catalog_pb2.ListIntentsResponse:
        """Return the intents and the health of the catalog."""
        response: catalog_pb2.ListIntentsResponse = await self.catalog.ListIntents(
            catalog_pb2.ListIntentsRequest(), timeout=self._timeout_s, metadata=self._metadata
        )
        return response


class Client:
    """The same, without an event loop. Safe to share between threads."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        caller: str = "",
        access: Access = _PLAIN,
    ) -> None:
        """Open a channel; nothing is sent yet.

        timeout_s: deadline of every call
        caller: name that rules may ask for, sent with every request; a server that knows its callers ignores it
        access: token and certificates

        Raises:
            ValueError: a name or a token that cannot be sent.

        """
        self._timeout_s = timeout_s
        self._metadata = _metadata(caller, access.token)
        credentials = access.credentials()
        self._channel = (
            grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
        )
        self._router = router_pb2_grpc.RouterServiceStub(self._channel)
        self.catalog = catalog_pb2_grpc.CatalogServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def route(
        self,
        conversation: Conversation,
        rules: router_pb2.Constraints | None = None,
        *,
        session_id: str = "",
        request_id: str = "",
    ) -> router_pb2.RouteResponse:
        """Return where a conversation goes, and why.

        `session_id`, for conversations that are sent one turn at a time, and `request_id`, for `feedback`, are yours.

        Raises:
            grpc.RpcError: see `explain`.

        """
        request = router_pb2.RouteRequest(
            messages=messages(conversation), constraints=rules, session_id=session_id
        )
        response: router_pb2.RouteResponse = self._router.Route(
            request, timeout=self._timeout_s, metadata=_with_id(self._metadata, request_id)
        )
        return response

    def generate(
        self,
        conversation: Conversation,
        rules: router_pb2.Constraints | None = None,
        sampling: router_pb2.Sampling | None = None,
        *,
        session_id: str = "",
        hold_back: bool = False,
        request_id: str = "",
    ) -> Iterator[router_pb2.GenerateResponse]:
        """Yield events: the decision, tokens, perhaps an escalation, done. Leaving the loop early cancels the call.

        `hold_back` shows nothing before the local answer is sure enough; `said` joins tokens and retractions.
        `request_id` is of your choice, for `feedback`.

        Raises:
            grpc.RpcError: see `explain`.

        """
        request = router_pb2.GenerateRequest(
            messages=messages(conversation),
            constraints=rules,
            sampling=sampling,
            session_id=session_id,
            hold_back=hold_back,
        )
        call: Any = self._router.Generate(
            request, timeout=self._timeout_s, metadata=_with_id(self._metadata, request_id)
        )
        try:
            yield from call
        finally:
            call.cancel()

    def feedback(
        self,
        request_id: str,
        *,
        accepted: bool | None = None,
        intent: str = "",
        answer: str = "",
        comment: str = "",
    ) -> None:
        """Say what the answer to a request of yours was worth; `intent` and `answer` are those that were right.

        Raises:
            grpc.RpcError: see `explain`.

        """
        said = router_pb2.FeedbackRequest(
            request_id=request_id, accepted=accepted, intent=intent, answer=answer, comment=comment
        )
        self._router.Feedback(said, timeout=self._timeout_s, metadata=self._metadata)

    def list_specialists(self) -> catalog_pb2.ListSpecialistsResponse:
        """Return the specialists, how they are doing, and the health of the catalog."""
        response: catalog_pb2.ListSpecialistsResponse = self.catalog.ListSpecialists(
            catalog_pb2.ListSpecialistsRequest(), timeout=self._timeout_s, metadata=self._metadata
        )
        return response

    def list_intents(self) -> catalog_pb2.ListIntentsResponse:
        """Return the intents and the health of the catalog."""
        response: catalog_pb2.ListIntentsResponse = self.catalog.ListIntents(
            catalog_pb2.ListIntentsRequest(), timeout=self._timeout_s, metadata=self._metadata
        )
        return response
