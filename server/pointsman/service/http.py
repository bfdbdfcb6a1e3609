"""The same door over HTTP, in the language of chat completions. Needs starlette and uvicorn (extra `http`).

Callers are known by the bearer token, which is what clients of OpenAI call the API key, or by their certificate.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from pointsman.errors import (
    BackendDownError,
    ConfigError,
    DeadlineError,
    InvalidRequestError,
    PointsmanError,
    for_callers,
    for_log,
    unwrap,
)
from pointsman.sections import Server as ServerSettings
from pointsman.service.chat_reply import Reply, chunks, data
from pointsman.service.chat_request import AUTO, Asked, asked_of
from pointsman.service.convert import Limits
from pointsman.service.doors import Doors, bearer, kept_out
from pointsman.service.errors import INTERNAL_MESSAGE, code_of
from pointsman.service.guard import Observe, request_id_of, stalled
from pointsman.service.http_protocol import PEER, TimedProtocol
from pointsman.service.ports import AnswerPort, CatalogPort
from pointsman.service.tls import Chain
from pointsman.values.caller import Role, Shown
from pointsman.values.catalog import CALLER, TRACEPARENT
from pointsman.values.decision import Routed

_log = structlog.get_logger()
_POLL_S = 0.05
_LARGE = 64 << 10
"""Bytes of a body from which it is read beside the event loop."""
_BODY_S = 10.0
_CLOSE_S = 1
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, "invalid_request_error"),
    grpc.StatusCode.FAILED_PRECONDITION: (400, "invalid_request_error"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "authentication_error"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "permission_error"),
    grpc.StatusCode.NOT_FOUND: (404, "not_found_error"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    grpc.StatusCode.UNAVAILABLE: (503, "server_error"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "server_error"),
}
_INTERNAL = (500, "server_error")
_CHAT = "chat.completions"

Handler = Callable[["_Call"], Awaitable[None]]


class HttpServer:
    """A started server; `port` is the one that it got."""

    def __init__(
        self,
        settings: ServerSettings,
        answers: AnswerPort,
        catalogs: CatalogPort,
        observe: Observe,
        doors: Doors,
        cloud_models: Sequence[str] = (),
    ) -> None:
        """Bind the address.

        Raises:
            ConfigError: it is taken.

        """
        self.in_flight = 0
        self.draining = False
        self.stall_s = settings.stall_s
        self._settings = settings
        self._answers = answers
        self._catalogs = catalogs
        self._observe = observe
        self._doors = doors
        self._cloud_models = tuple(cloud_models)
        self._limits = Limits(settings.max_prompt_bytes, settings.max_messages)
        routes = [
            Route("/v1/chat/completions", _Endpoint(self, _CHAT, self._chat), methods=["POST"]),
            Route("/v1/models", _Endpoint(self, "models", self._models), methods=["GET"]),
            Route("/v1/models/{name:path}", _Endpoint(self, "models", self._model), methods=["GET"]),
        ]
        self._socket = _bound(settings.http_address, settings.stall_s)
        self.port: int = self._socket.getsockname()[1]
        tls = settings.tls
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=TimedProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            timeout_graceful_shutdown=_CLOSE_S,
            ssl_certfile=tls.certificate if tls else None,
            ssl_keyfile=tls.key if tls else None,
            ssl_ca_certs=str(tls.client_ca) if tls and tls.client_ca else None,
            ssl_cert_reqs=2 if tls and tls.client_ca else 0,  # ssl.CERT_REQUIRED, ssl.CERT_NONE
        )
        config.load()
        self.chain = Chain(config.ssl, tls) if tls and config.ssl else None
        self._server = _Uvicorn(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(_POLL_S)
        if self._task.done():
            await self._task

    async def drain(self, grace_s: float) -> int:
        """Stop serving: new calls are refused, running ones get `grace_s` seconds; returns those that were cut."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + grace_s
        while self.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
        cut = self.in_flight
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        return cut

    @contextmanager
    def entered(self, call: "_Call") -> Iterator[None]:
        """Count a call while it is being answered, and let its caller in; tells the call who that is.

        Raises:
            UnauthenticatedError, ForbiddenError, QuotaError, BackendDownError

        """
        request = call.request
        token = bearer(request.headers.get("authorization", ""))
        known = self._doors.who(Shown(token, request.scope.get("state", {}).get(PEER, ())))
        call.caller = self._doors.name(known, request.headers.get(CALLER, ""))
        if self.draining:
            raise BackendDownError("the server is shutting down; ask another", retry_after_s=1.0)
        with self._doors.enter(known, Role.CALLER):
            yield

    def observe(self, method: str, code: str) -> None:
        """Count how a call ended."""
        self._observe(method, code)

    def kept_out(self, call: "_Call", error: BaseException) -> None:
        """Note a call that was refused before it was an answer's."""
        self._answers.kept_out("Generate", call.request_id, call.caller, error)

    async def _chat(self, call: "_Call") -> None:
        content = await _content(call.request, self._settings.max_message_bytes)
        told = content, self._catalogs.catalog, self._cloud_models, self._limits, call.request_id, call.caller
        asked = asked_of(*told) if len(content) < _LARGE else await asyncio.to_thread(asked_of, *told)
        traced = replace(asked.request, traceparent=call.request.headers.get(TRACEPARENT, ""))
        deadline_s = asked.request.budget_s
        try:
            async with asyncio.timeout(deadline_s):
                await call.while_there(self._answer(call, replace(asked, request=traced)))
        except TimeoutError:
            message = f"the answer was not there within {deadline_s:g} s (pointsman.deadline_s)"
            raise DeadlineError(message, retry_after_s=1.0) from None

    async def _answer(self, call: "_Call", asked: Asked) -> None:
        answers = self._answers.generate(asked.request)
        tokens = asked.request.tokens
        async with aclosing(answers), aclosing(self._doors.counted(answers, tokens)) as counted:
            first = await anext(counted)
            assert isinstance(first, Routed)  # noqa: S101 - the decision comes first
            reply = Reply(call.request_id, first.decision)
            if asked.stream:
                async with aclosing(chunks(reply, counted, include_usage=asked.include_usage)) as stream:
                    async for chunk in stream:
                        await call.send_event(chunk, reply.headers())
                await call.end_events()
            else:
                async for event in counted:
                    reply.take(event)
                await call.respond(JSONResponse(reply.completion(), headers=reply.headers()))

    async def _models(self, call: "_Call") -> None:
        await call.respond(
            JSONResponse({"object": "list", "data": [_model_entry(*m) for m in self._known()]})
        )

    async def _model(self, call: "_Call") -> None:
        name = call.request.path_params["name"]
        found = next((entry for entry in self._known() if entry[0] == name), None)
        if found is None:
            await call.respond(
                _error_response(404, "not_found_error", f"no model {name!r}", "model", "model_not_found")
            )
        else:
            await call.respond(JSONResponse(_model_entry(*found)))

    def _known(self) -> list[tuple[str, str]]:
        specialists = [(s.name, "pointsman") for s in self._catalogs.catalog.specialists]
        return [(AUTO, "pointsman"), *specialists, *((model, "cloud") for model in self._cloud_models)]


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process, which drains before it ends."""
        yield


class _Endpoint:
    """A handler with what surrounds it: request id, caller, the one translator of errors."""

    def __init__(self, server: HttpServer, method: str, handle: Handler) -> None:
        self._server = server
        self._method = method
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _Call(Request(scope, receive), send, self._server.stall_s)
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        self._server.in_flight += 1
        try:
            with self._server.entered(call):
                await self._handle(call)
        except (asyncio.CancelledError, ClientDisconnect):
            self._server.observe(self._method, "CANCELLED")
            raise
        except Exception as raised:  # noqa: BLE001 - the one translator
            error = unwrap(raised)
            self._server.observe(self._method, code_of(error).name)
            if self._method == _CHAT and kept_out(error):
                self._server.kept_out(call, error)
            await call.fail(error, raised)
        else:
            self._server.observe(self._method, "CANCELLED" if call.gone else "OK")
        finally:
            self._server.in_flight -= 1
            structlog.contextvars.unbind_contextvars("request_id")


class _Call:
    """One request, and what was sent in answer to it."""

    def __init__(self, request: Request, send: Send, stall_s: float) -> None:
        self._stall_s = stall_s
        self.request = request
        self.request_id = request_id_of(request.headers.get("x-request-id"))
        self.caller = ""
        self.gone = False
        self._stalled = False
        self._send = send
        self._begun = False

    async def while_there(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; leave it as soon as the caller is gone."""
        working = asyncio.create_task(work, name=f"answer {self.request_id}")
        watching = asyncio.create_task(self._leaves(), name=f"caller of {self.request_id}")
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.gone = not working.done()
            for task in (watching, working):
                task.cancel()
            done = await asyncio.gather(working, watching, return_exceptions=True)
        if isinstance(done[0], Exception):
            raise done[0]

    async def _leaves(self) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass

    async def respond(self, response: Response) -> None:
        """Send a whole response."""
        self._begun = True
        response.headers["x-request-id"] = self.request_id
        await response(self.request.scope, self.request.receive, self._write)

    async def send_event(self, chunk: bytes, headers: dict[str, str]) -> None:
        """Send a piece of a stream of events; the first one begins it."""
        if not self._begun:
            self._begun = True
            told = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"} | headers
            raw = [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
            await self._write({"type": "http.response.start", "status": 200, "headers": raw})
        await self._write({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end_events(self) -> None:
        """End a stream of events."""
        await self._write({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                await self._send(message)
        except TimeoutError:
            self._stalled = True
            raise stalled(self._stall_s) from None

    async def fail(self, error: BaseException, raised: Exception) -> None:
        """Send an error: as the response, or as the last event of what was begun."""
        if not isinstance(error, PointsmanError):
            _log.error("http.failed", exc_info=raised)
        elif not error.noted:
            _log.warning("http.refused", code=code_of(error).name, error=for_log(error))
        status, kind = _STATUSES.get(code_of(error), _INTERNAL)
        message = INTERNAL_MESSAGE if status == _INTERNAL[0] else for_callers(error)
        field = error.field if isinstance(error, InvalidRequestError) else None
        code = type(error).__name__.removesuffix("Error").lower() if status != _INTERNAL[0] else None
        if self._stalled:
            return
        if self._begun:
            last = data(_error(kind, message, field, code))
            with suppress(DeadlineError):
                await self._write({"type": "http.response.body", "body": last, "more_body": False})
            return
        response = _error_response(status, kind, message, field, code)
        retry = getattr(error, "retry_after_s", None)
        if retry is not None:
            response.headers["retry-after"] = str(max(1, round(retry)))
        if status == 401:
            response.headers["www-authenticate"] = "Bearer"
        await self.respond(response)


async def _content(request: Request, most: int) -> bytes:
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                content += piece
                if len(content) > most:
                    raise InvalidRequestError("", f"the body is over {most} bytes (server.max_message_bytes)")
    except TimeoutError:
        raise InvalidRequestError("", f"the body did not come within {_BODY_S:.0f} s") from None
    return bytes(content)


def _bound(address: str, stall_s: float) -> socket.socket:
    host, _, port = address.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of its connections: one that takes nothing any more is closed
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(stall_s * 1000))
    try:
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise ConfigError(f"server.http_address: cannot listen on {address}: {error.strerror}") from None
    return listener


def _model_entry(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _error(kind: str, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code}}


def _error_response(
    status: int, kind: str, message: str, param: str | None, code: str | None
) -> JSONResponse:
    return JSONResponse(_error(kind, message, param, code), status_code=status)
