"""What surrounds every handler: request id, undecodable bytes, draining, and the one translator of errors.

grpc waits for the message of a call for ever, before it asks a handler that takes one message. So handlers take a
stream, of which they read one: for a caller that is the same.
"""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from pointsman.errors import (
    BackendDownError,
    DeadlineError,
    InvalidRequestError,
    PointsmanError,
    for_log,
    unwrap,
)
from pointsman.service.doors import Doors, bearer, kept_out
from pointsman.service.errors import code_of, status_of
from pointsman.values.caller import Caller, Role, Shown
from pointsman.values.catalog import CALLER, IDENTIFIER

_log = structlog.get_logger()
_OURS = "/pointsman."
_LEDGERED = "/pointsman.v1.RouterService/"  # the ledger has a line of these
_REQUEST_ID = "x-request-id"
_STALL_RETRY_S = 1.0
MESSAGE_S = 10.0
"""Time within which the message of a call must be there."""
_NAMES = ("x509_subject_alternative_name", "x509_common_name")
_ACCEPTABLE_ID = re.compile(IDENTIFIER)

Observe = Callable[[str, str], None]
"""Called with the method and the status code's name at the end of every call."""
KeptOut = Callable[[str, str, str, BaseException], None]
"""Called with method, request id, caller (empty for a stranger) and error where a call is refused at the door."""


def request_id_of(given: object) -> str:
    """Return the id that a caller gave, where it is one, else a new one: 32 hexadecimal digits.

    Unique, not secret: a generator without system calls will do.
    """
    acceptable = isinstance(given, str) and _ACCEPTABLE_ID.match(given)
    return str(given) if acceptable else f"{random.getrandbits(128):032x}"


def stalled(stall_s: float) -> DeadlineError:
    """Return the error of a caller that does not read its answer."""
    return DeadlineError(f"the answer was not read for {stall_s:g} s (server.stall_s)", _STALL_RETRY_S)


class _Undecodable:
    """Stands in for a request whose bytes are no message."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships without types
    """Wraps the handlers of our own services; of health and reflection, it bounds the wait for messages."""

    def __init__(
        self, observe: Observe, kept_out: KeptOut, doors: Doors, stall_s: float, idle_s: float
    ) -> None:
        self._kept_out = kept_out
        self._stall_s = stall_s
        self._idle_s = idle_s
        self._observe = observe
        self._doors = doors
        self._wrapped: dict[str, Any] = {}
        self.in_flight = 0
        self.draining = False

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Return the wrapped handler, made for the first call of its method."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:  # whoever asks thinks up the name, so none is kept
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> Any:
        if not method.startswith(_OURS):
            return _bounded(handler, self._idle_s)
        decode = _forgiving(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(method, handler.unary_stream), decode, handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary), decode, handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def handle(_: Any, context: Any) -> Any:
            self._enter(context)
            known = request = None
            try:
                known = self._known(context)
                request = await _message(context)
                self._admit(request)
                with self._doors.enter(known, _role_for(method)):
                    response = await behaviour(request, context)
            except asyncio.CancelledError:  # the caller left, or the deadline passed
                self._observe(method, "CANCELLED")
                _log.info("rpc.cancelled", method=method)
                raise
            except Exception as error:  # noqa: BLE001 - the one translator
                await self._fail(method, context, known, error, came=request is not None)
            else:
                self._observe(method, "OK")
                if not method.startswith(_LEDGERED):
                    _log.info("rpc.done", method=method)
                return response
            finally:
                self.in_flight -= 1

        return handle

    def _streaming(self, method: str, behaviour: Any) -> Any:
        async def handle(_: Any, context: Any) -> None:
            self._enter(context)
            known = request = None
            try:
                known = self._known(context)
                request = await _message(context)
                self._admit(request)
                with self._doors.enter(known, _role_for(method)):
                    unread = await self._written(behaviour(request, context), context)
                await self._refuse_stalled(unread)
            except asyncio.CancelledError:  # the caller left, or the deadline passed
                self._observe(method, "CANCELLED")
                raise
            except Exception as error:  # noqa: BLE001 - the one translator
                await self._fail(method, context, known, error, came=request is not None)
            else:
                self._observe(method, "OK")
            finally:
                self.in_flight -= 1

        return handle

    async def _written(self, events: AsyncGenerator[Any, None], context: Any) -> asyncio.Task[None] | None:
        """Write all events; returns the write that the caller left unread for too long, if there is one."""
        async with aclosing(events):
            async for event in events:
                writing: asyncio.Task[None] = asyncio.ensure_future(context.write(event))
                try:
                    await asyncio.wait({writing}, timeout=self._stall_s)
                except asyncio.CancelledError:
                    writing.cancel()
                    raise
                if not writing.done():
                    return writing
                writing.result()
        return None

    async def _refuse_stalled(self, unread: asyncio.Task[None] | None) -> None:
        """Fail a call that was left unread; its place is free by now, and a status can be sent once it reads on."""
        if unread is not None:
            await unread
            raise stalled(self._stall_s)

    def _enter(self, context: Any) -> None:
        request_id = request_id_of(said(context, _REQUEST_ID))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        context.set_trailing_metadata(((_REQUEST_ID, request_id),))
        self.in_flight += 1

    def _known(self, context: Any) -> Caller | None:
        return self._doors.who(shown_by(context)) if self._doors.watched else None

    def _admit(self, request: Any) -> None:
        if isinstance(request, _Undecodable):
            raise InvalidRequestError("", f"the request cannot be decoded: {request.reason}")
        if self.draining:
            raise BackendDownError("the server is shutting down; ask another", retry_after_s=1.0)

    async def _fail(
        self, method: str, context: Any, known: Caller | None, raised: Exception, *, came: bool
    ) -> None:
        error = unwrap(raised)
        if isinstance(error, grpc.aio.AbortError):
            raise error
        code = code_of(error)
        self._observe(method, code.name)
        if not isinstance(error, PointsmanError):
            _log.error("rpc.failed", method=method, exc_info=raised)
        elif not error.noted:
            _log.warning("rpc.refused", method=method, code=code.name, error=for_log(error))
        request_id = structlog.contextvars.get_contextvars().get("request_id", "")
        if kept_out(error) or not came:
            caller = self._doors.name(known, said(context, CALLER))
            self._kept_out(method.rpartition("/")[2], request_id, caller, error)
        await _refuse(context, error, (_REQUEST_ID, request_id))


def said(context: Any, key: str) -> str:
    """Return what the metadata of a call say; empty where they say nothing."""
    return next((value for name, value in context.invocation_metadata() or () if name == key), "")


def shown_by(context: Any) -> Shown:
    """Return what the peer shows: the bearer token of the call, the names in the certificate of the connection."""
    peer = context.auth_context() or {}
    names = next((found for key in _NAMES if (found := peer.get(key))), ())
    return Shown(
        bearer(said(context, "authorization")), tuple(name.decode(errors="replace") for name in names)
    )


async def _message(context: Any) -> Any:
    """Return the one message of a call.

    Raises:
        DeadlineError: it did not come in time.
        InvalidRequestError: the call ended without one.

    """
    message = await _read(context, MESSAGE_S)
    if message is grpc.aio.EOF:
        raise InvalidRequestError("", "the call ended without a message")
    return message


async def _messages(context: Any, idle_s: float) -> AsyncGenerator[Any, None]:
    while (message := await _read(context, idle_s)) is not grpc.aio.EOF:
        yield message


async def _read(context: Any, limit_s: float) -> Any:
    try:
        async with asyncio.timeout(limit_s):
            return await context.read()
    except TimeoutError:
        raise DeadlineError(f"no message came within {limit_s:g} s", _STALL_RETRY_S) from None


def _bounded(handler: Any, idle_s: float) -> Any:
    """Return a handler of another's service that waits `MESSAGE_S` for its message, `idle_s` for each of a stream."""
    one = handler.stream_unary or handler.unary_unary
    many = handler.stream_stream or handler.unary_stream

    async def asked(context: Any) -> Any:
        return _messages(context, idle_s) if handler.request_streaming else await _message(context)

    async def answer(_: Any, context: Any) -> Any:
        try:
            return await one(await asked(context), context)
        except PointsmanError as error:
            await _refuse(context, error)

    async def answers(_: Any, context: Any) -> None:
        try:
            found = many(await asked(context), context)
            if hasattr(found, "__aiter__"):
                async for response in found:
                    await context.write(response)
            else:  # it writes by itself
                await found
        except PointsmanError as error:
            await _refuse(context, error)

    codecs = handler.request_deserializer, handler.response_serializer
    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(answers, *codecs)
    return grpc.stream_unary_rpc_method_handler(answer, *codecs)


async def _refuse(context: Any, error: BaseException, *trailing: tuple[str, str]) -> None:
    status = status_of(error)
    details = ("grpc-status-details-bin", status.SerializeToString())
    await context.abort(code_of(error), status.message, (*trailing, details))


def _role_for(method: str) -> Role:
    return Role.CALLER if method.startswith(_LEDGERED) else Role.OPERATOR


def _forgiving(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that lets the handler answer INVALID_ARGUMENT instead of grpc INTERNAL."""

    def decode_or_stand_in(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return _Undecodable(f"{error} (text must be UTF-8)")

    return decode_or_stand_in
