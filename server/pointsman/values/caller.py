"""Who may come in, as values."""

from dataclasses import dataclass, field
from enum import StrEnum


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
