"""The gRPC server: services, health, reflection, and the way it ends."""

import asyncio
import socket
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from pointsman.errors import ConfigError
from pointsman.sections import Server as ServerSettings
from pointsman.service.convert import Limits
from pointsman.service.doors import Doors
from pointsman.service.guard import Guard, Observe
from pointsman.service.ports import AnswerPort, CatalogPort
from pointsman.service.servicers import CatalogServicer, RouterServicer
from pointsman.service.tls import is_loopback
from pointsman.v1 import catalog_pb2, catalog_pb2_grpc, router_pb2, router_pb2_grpc

_POLL_S = 0.05
_CLOSE_S = 0.5

SERVICES = (
    router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name,
    catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name,
)


def ensure_free(address: str, setting: str) -> None:
    """Fail early, before models are loaded, where a listener cannot be had.

    Raises:
        ConfigError: not host:port, or taken.

    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal():
        raise ConfigError(f"{setting}: expected host:port (got {address!r})")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{setting}: cannot listen on {address}: {reason}") from None


def ensure_safe(settings: ServerSettings, doors: Doors) -> None:
    """Refuse to listen beyond this machine without TLS and known callers, unless told to in so many words.

    Raises:
        ConfigError: says what is missing.

    """
    if settings.insecure:
        return
    wanting = [] if settings.tls else ["TLS (server.tls)"]
    wanting += [] if doors.watched else ["known callers (paths.callers)"]
    for name in ("address", "http_address", "metrics_address"):
        address = getattr(settings, name)
        if wanting and address and not is_loopback(address):
            raise ConfigError(
                f"server.{name}: {address} is reached from other machines, and there is no "
                f"{' and no '.join(wanting)}; --insecure listens all the same"
            )


class _ByName:
    """A server as generated code fills it, which finds methods by name and registers none.

    For every call, grpc.aio 1.85 waits anew on a task of each registered method: with all of ours, that takes longer
    than to look up a name.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: object) -> None:
        """Leave it at the names."""


class GrpcServer:
    """A started server; `port` is the one that it got."""

    def __init__(
        self,
        settings: ServerSettings,
        answers: AnswerPort,
        catalogs: CatalogPort,
        observe: Observe,
        doors: Doors | None = None,
        secured: Any = None,
    ) -> None:
        """Bind the address.

        doors: everybody comes in without them
        secured: `tls.credentials` of the listener; plain text without them

        Raises:
            ConfigError: it is taken.

        """
        doors = doors or Doors()
        self._settings = settings
        self._guard = Guard(observe, answers.kept_out, doors, settings.stall_s, settings.idle_s)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            interceptors=[self._guard],
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port is a mistake, not a feature
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                # A peer that vanished without a word holds its slot no longer than this.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                # One that opens a connection and says nothing, or nothing more, does not keep it.
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.max_connection_idle_ms", round(settings.idle_s * 1000)),
                ("grpc.max_concurrent_streams", settings.max_streams),
            ],
        )
        limits = Limits(settings.max_prompt_bytes, settings.max_messages)
        by_name = _ByName(self._server)
        router_pb2_grpc.add_RouterServiceServicer_to_server(RouterServicer(answers, limits, doors), by_name)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogServicer(catalogs), by_name)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, by_name)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)  # which looks at its type
        try:
            self.port = (
                self._server.add_secure_port(settings.address, secured)
                if secured
                else self._server.add_insecure_port(settings.address)
            )
        except RuntimeError as error:
            raise ConfigError(f"server.address: cannot listen on {settings.address}: {error}") from None

    async def start(self) -> None:
        """Serve."""
        await self._server.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self, grace_s: float) -> int:
        """Stop serving: NOT_SERVING first, new calls refused, running ones get `grace_s` seconds.

        Returns the number of calls that had to be cut.
        """
        self._guard.draining = True
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        deadline = asyncio.get_running_loop().time() + grace_s
        while self._guard.in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_POLL_S)
        cut = self._guard.in_flight
        await self._server.stop(_CLOSE_S)
        return cut

    async def _set_health(self, status: Any) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)
