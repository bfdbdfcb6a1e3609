"""One YAML file to what it states, with every problem placed. Knows no other file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pointsman.catalog.schema import IntentFile, SpecialistFile
from pointsman.catalog.yaml_document import MAX_BYTES, Document, YamlError, parse, too_large
from pointsman.errors import CatalogError
from pointsman.values.catalog import Intent, Problem, Specialist

_MAX_SHOWN = 80

M = TypeVar("M", IntentFile, SpecialistFile)
F = TypeVar("F", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file states, and where it states it (for problems that only other files reveal)."""

    value: Intent | Specialist
    document: Document

    def problem(self, file: str, field: str, value: str, message: str) -> Problem:
        """Return a problem with one top-level field of the file."""
        return Problem(file, self.document.line((field,)), field, shown(value), message)


def read(path: Path, model: type[M], file: str) -> Loaded:
    """Read one file.

    Raises:
        CatalogError: every problem of the file, each with its line.

    """
    document = read_document(path, file, "name")
    return Loaded(validate(document.data, model, file, document).to_value(), document)


def read_document(path: Path, file: str, first: str) -> Document:
    """Read one file as a mapping of fields; `first` is one that it should have.

    Raises:
        CatalogError: it cannot be read, or is not that.

    """
    try:
        document = parse(_content(path))
    except YamlError as error:
        raise CatalogError([Problem(file, error.line, "", shown(error.value), error.message)]) from None
    except OSError as error:
        raise CatalogError([Problem(file, 0, "", "", f"cannot be read: {error.strerror}")]) from None
    if not isinstance(document.data, dict):
        kind = "nothing" if document.data is None else type(document.data).__name__
        raise CatalogError([Problem(file, 1, "", "", f"expected fields such as '{first}:', found {kind}")])
    return document


def _content(path: Path) -> bytes:
    if not path.is_file():  # a pipe, say, would never end
        raise YamlError(0, "cannot be read: not a regular file")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise too_large(size)
    return path.read_bytes()


def validate(data: dict[str, Any], model: type[F], file: str, document: Document | None = None) -> F:
    """Check plain data against a file format.

    Raises:
        CatalogError: every problem, with its line where a document is given.

    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise CatalogError(list(_problems(error, file, document))) from None


def _problems(error: ValidationError, file: str, document: Document | None) -> Iterable[Problem]:
    for item in error.errors(include_url=False):
        context = item.get("ctx", {})
        path = tuple(context.get("path", item["loc"]))
        missing = item["type"] == "missing"
        value = "" if missing else shown(context.get("value", item["input"]))
        line = document.line(path[:-1] if missing else path) if document else 0
        message = item["msg"].removeprefix("Value error, ")
        yield Problem(file, line, ".".join(str(part) for part in path), value, message)


def shown(value: object) -> str:
    """Return a value as a message shows it: on one line, cut where it is long."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def dump(fields: dict[str, Any], schema: str) -> str:
    """Return YAML text of a file, with the line that tells editors its schema."""
    body = yaml.dump(fields, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=100)
    return f"# yaml-language-server: $schema=../docs/schema/{schema}.schema.json\n{body}"
