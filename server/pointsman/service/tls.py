"""Certificate files to what a listener shows; files that are replaced are shown to the next connection."""

import asyncio
import ipaddress
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from pointsman.artifacts.whole_file import signature_of
from pointsman.errors import ConfigError
from pointsman.sections import Tls

_log = structlog.get_logger()
_LOOK_EVERY_S = 0.5


def credentials(settings: Tls | None) -> Any:
    """Return the credentials of a listener; None for plain text. Reads files.

    Raises:
        ConfigError: a file is missing, or is not what its setting says.

    """
    if settings is None:
        return None
    files = _Files(settings)
    configuration = files.read()
    return grpc.dynamic_ssl_server_credentials(
        configuration, files.newer, require_client_authentication=settings.client_ca is not None
    )


def is_loopback(address: str) -> bool:
    """Whether a host:port is reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Chain:
    """Certificate, key and client CAs of a listener of Python's own TLS, taken up again when they are replaced."""

    def __init__(self, context: ssl.SSLContext, settings: Tls) -> None:
        """Watch the files that a context was loaded from. Where client certificates are asked for, from TLS 1.3 on."""
        self._chain = (settings.certificate, settings.key)
        self._verify_mode = context.verify_mode
        self._client_ca = settings.client_ca if self._verify_mode is not ssl.CERT_NONE else None
        self._signatures = self._look()
        self._shown = self._load()
        if self._client_ca is not None:
            # A session that is resumed shows no certificate again: nobody would ask the CAs of today.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        context.sni_callback = self._show  # called at every connection, whether it names a server or not

    async def watch(self, stop: asyncio.Event) -> None:
        """Take changes up until told to stop."""
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)

    def look(self) -> None:
        """Take up what changed; half of a pair that was replaced is no pair, and is looked at again."""
        signatures = self._look()
        if signatures == self._signatures:
            return
        self._signatures = signatures
        try:
            self._shown = self._load()
        except (ssl.SSLError, OSError) as error:
            _log.error("tls.refused", error=str(error), serves="the certificate before it")
        else:
            _log.info("tls.reloaded")

    def _load(self) -> ssl.SSLContext:
        # A new one: from a context no CA can be taken out.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._chain)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = self._verify_mode
        return context

    def _show(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._shown

    def _look(self) -> tuple[tuple[int, ...], ...]:
        found = []
        for path in (*self._chain, *([self._client_ca] if self._client_ca else [])):
            try:
                found.append(signature_of(path))
            except OSError:
                found.append(())
        return tuple(found)


class _Files:
    def __init__(self, settings: Tls) -> None:
        stated = {"certificate": settings.certificate, "key": settings.key, "client_ca": settings.client_ca}
        self._paths = {name: path for name, path in stated.items() if path is not None}
        self._signatures: dict[str, tuple[int, ...]] = {}
        self._refused: dict[str, tuple[int, ...]] = {}

    def read(self) -> Any:
        signatures = self._look()
        contents = {name: self._content(name, path) for name, path in self._paths.items()}
        certificates = self._certificates("certificate", contents["certificate"])
        try:
            key = load_pem_private_key(contents["key"], None)
        except (ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise ConfigError(f"server.tls.key: {self._paths['key']}: no readable PEM key: {error}") from None
        ours, theirs = (
            public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            for public in (key.public_key(), certificates[0].public_key())
        )
        if ours != theirs:
            raise ConfigError(
                f"server.tls.key: {self._paths['key']} is not the key of {self._paths['certificate']}"
            )
        if "client_ca" in contents:
            self._certificates("client_ca", contents["client_ca"])
        self._signatures = signatures
        return grpc.ssl_server_certificate_configuration(
            [(contents["key"], contents["certificate"])], contents.get("client_ca")
        )

    def newer(self) -> Any:
        """Return what to show from now on; None for what was shown before. Called at every connection."""
        try:
            signatures = self._look()
            if signatures in (self._signatures, self._refused):
                return None
            found = self.read()
        except ConfigError as error:  # half of a pair was replaced, perhaps: the next connection looks again
            if signatures != self._refused:
                _log.error("tls.refused", error=str(error), serves="the certificate before it")
            self._refused = signatures
            return None
        _log.info("tls.reloaded")
        return found

    def _look(self) -> dict[str, tuple[int, ...]]:
        found = {}
        for name, path in self._paths.items():
            try:
                found[name] = signature_of(path)
            except OSError:
                found[name] = ()
        return found

    def _content(self, name: str, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigError(f"server.tls.{name}: {path}: cannot be read: {error.strerror}") from None

    def _certificates(self, name: str, content: bytes) -> list[x509.Certificate]:
        try:
            return x509.load_pem_x509_certificates(content)
        except ValueError as error:
            raise ConfigError(
                f"server.tls.{name}: {self._paths[name]}: no readable PEM certificate: {error}"
            ) from None
