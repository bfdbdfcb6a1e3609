"""Who may come in, as values."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a caller may do: ask for routes and answers, or look after the catalog and read metrics."""

    CALLER = "caller"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """One who is known at the door.

    tokens: sha256 (hexadecimal) of the bearer tokens that are theirs; several while one is being replaced
    certificates: names in client certificates that are theirs: subject alternative names, or the common name
    requests_per_minute, concurrent_requests, tokens_per_day: None is without limit; tokens are those of prompts
        and answers of Generate
    """

    name: str
    roles: frozenset[Role]
    tokens: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a peer shows at the door."""

    token: str = field(default="", repr=False)
    certificates: tuple[str, ...] = ()


def names_in(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names in what Python's TLS tells of a peer's verified certificate: those that gRPC knows it by.

    That is its alternative names, or its common name where it has none.
    """
    found = certificate or {}
    kinds = {"DNS", "URI", "email", "IP Address"}
    alternative = [_plain(kind, name) for kind, name in found.get("subjectAltName", ()) if kind in kinds]
    common = [name for part in found.get("subject", ()) for kind, name in part if kind == "commonName"]
    return tuple(alternative or common)


def _plain(kind: str, name: str) -> str:
    return str(ipaddress.ip_address(name.strip())) if kind == "IP Address" else name
