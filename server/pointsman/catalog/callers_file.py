"""The file of known callers: YAML to values. It holds hashes of tokens, never tokens."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pointsman.catalog.file_model import FileModel, refusal
from pointsman.catalog.files import read_document, validate
from pointsman.values.caller import Caller, Role
from pointsman.values.catalog import IDENTIFIER

_PREFIX = "sha256:"


def _hash(text: str) -> str:
    # What stands there by mistake may be the token itself: it is not repeated.
    digest = text.removeprefix(_PREFIX)
    if digest == text or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        message = "expected 'sha256:' and 64 hexadecimal digits, as `pointsman callers new` writes them"
        raise PydanticCustomError("refused", "{message}", {"message": message, "value": "(not shown)"})
    return text


TokenHash = Annotated[str, AfterValidator(_hash)]
Limit = Annotated[int | None, Field(ge=1, le=10**12)]


class CallerEntry(FileModel):
    """One who may come in."""

    name: Annotated[
        str, Field(pattern=IDENTIFIER, description="Unique; rules, log and metrics call them so.")
    ]
    roles: Annotated[
        list[Literal["caller", "operator"]],
        Field(min_length=1, description="caller: Route and Generate; operator: CatalogService, metrics."),
    ] = Field(default=["caller"])
    tokens: Annotated[
        list[TokenHash],
        Field(
            max_length=8, description="`sha256:` of bearer tokens, as `pointsman callers new` writes them."
        ),
    ] = Field(default_factory=list)
    certificates: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]],
        Field(
            max_length=32, description="Names in client certificates: alternative names, or the common name."
        ),
    ] = Field(default_factory=list)
    requests_per_minute: Limit = None
    concurrent_requests: Limit = None
    tokens_per_day: Annotated[Limit, Field(description="Of prompts and answers; the day is that of UTC.")] = (
        None
    )

    @model_validator(mode="after")
    def _can_be_known(self) -> Self:
        if not self.tokens and not self.certificates:
            raise PydanticCustomError("refused", "needs 'tokens' or 'certificates' to be known by")
        return self

    def to_value(self) -> Caller:
        """Return what the file states."""
        return Caller(
            name=self.name,
            roles=frozenset(map(Role, self.roles)),
            tokens=tuple(token.removeprefix(_PREFIX) for token in self.tokens),
            certificates=tuple(self.certificates),
            requests_per_minute=self.requests_per_minute,
            concurrent_requests=self.concurrent_requests,
            tokens_per_day=self.tokens_per_day,
        )


class CallersFile(FileModel):
    """All who may come in."""

    callers: Annotated[list[CallerEntry], Field(max_length=10_000)]

    @model_validator(mode="after")
    def _each_is_one(self) -> Self:
        for field in ("name", "tokens", "certificates"):
            seen: set[str] = set()
            for i, entry in enumerate(self.callers):
                stated = getattr(entry, field)
                for value in [stated] if isinstance(stated, str) else stated:
                    if value in seen:
                        raise refusal(("callers", i, field), "another caller has it", value)
                    seen.add(value)
        return self


def read_callers(path: Path) -> tuple[Caller, ...]:
    """Read the file.

    Raises:
        CatalogError: every problem with its line; unreadable.

    """
    document = read_document(path, path.name, "callers")
    stated = validate(document.data, CallersFile, path.name, document)
    return tuple(entry.to_value() for entry in stated.callers)
