"""A JSONL, CSV or Parquet file of outcome-labelled prompts to values, with every bad line placed.

A line is `{"text": "…", "quality_local": 0.4, "quality_cloud": 1, "topic": "…"}`; a topic that is null, empty
or left out means none. Qualities are in [0, 1]; true and false count as 1 and 0. Other fields are ignored,
so that lines may come from a log as they are; blank lines are skipped, repeated ones count.
"""

import csv
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.catalog.files import shown
from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem

FORMATS = (".jsonl", ".csv", ".parquet")
_MOST_PROBLEMS = 100
"""A file of another format is wrong on every line; so many of them tell enough."""
_FIELDS = ("text", "quality_local", "quality_cloud")
_ADVICE = "expected .jsonl, .csv or .parquet"

Line = tuple[int, Mapping[str, Any] | Problem]
"""A line's number, 1-based, with its fields or with what is wrong with all of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt with the qualities of both answers, in [0, 1]."""

    text: str
    local: float
    cloud: float
    topic: str | None


def read_outcomes(path: Path) -> tuple[Outcome, ...]:
    """Read a file; its suffix tells the format. A Parquet row counts as a line.

    Raises:
        CatalogError: every bad line with its field and value; an unreadable file, or one without prompts.

    """
    file = str(path)
    reader = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower())
    if reader is None:
        raise _refusal(file, f"not a format that is read; {_ADVICE}", shown(path.suffix))
    outcomes: list[Outcome] = []
    problems: list[Problem] = []
    try:
        for number, fields in reader(path):
            wrong = [fields] if isinstance(fields, Problem) else list(_problems(fields, file, number))
            problems += wrong
            if not wrong and not isinstance(fields, Problem):
                outcomes.append(_outcome(fields))
    except OSError as error:
        raise _refusal(file, f"cannot be read: {error.strerror or error}") from None
    if len(problems) > _MOST_PROBLEMS:
        more = len(problems) - _MOST_PROBLEMS
        problems = [*problems[:_MOST_PROBLEMS], Problem(file, 0, "", "", f"and {more} problems more")]
    if problems:
        raise CatalogError(problems)
    if not outcomes:
        raise _refusal(file, "holds no prompts")
    return tuple(outcomes)


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    return Outcome(
        fields["text"],
        float(fields["quality_local"]),
        float(fields["quality_cloud"]),
        fields.get("topic") or None,
    )


def _problems(fields: Mapping[str, Any], file: str, number: int) -> Iterator[Problem]:
    for field in _FIELDS:
        if field not in fields:
            yield Problem(file, number, field, "", "field required")
            continue
        value = fields[field]
        message = _wrong_text(value) if field == "text" else _wrong_quality(value)
        if message:
            yield Problem(file, number, field, shown(value), message)
    topic = fields.get("topic")
    if topic is not None and not isinstance(topic, str):
        yield Problem(file, number, "topic", shown(topic), "must be text, or null for none")
    elif topic and not _encodable(topic):
        yield Problem(file, number, "topic", shown(topic), "not Unicode: half of a surrogate pair")


def _wrong_text(value: object) -> str:
    if not isinstance(value, str):
        return "must be text"
    if not value.strip():
        return "must not be blank"
    return "" if _encodable(value) else "not Unicode: half of a surrogate pair"


def _wrong_quality(value: object) -> str:
    if not isinstance(value, int | float):
        return "must be a number from 0 to 1"
    return "" if 0 <= value <= 1 else "must be from 0 to 1"  # NaN is neither


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_jsonl(path: Path) -> Iterator[Line]:
    file = str(path)
    with path.open("rb") as lines:
        for number, content in enumerate(lines, 1):
            if not content.strip():
                continue
            try:
                data: Any = json.loads(content.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                bad = repr(content[error.start : error.end])
                yield number, Problem(file, number, "", bad, "not UTF-8")
                continue
            except json.JSONDecodeError as error:
                message = f"not JSON: {error.msg} at column {error.colno}"
                yield number, Problem(file, number, "", shown(error.doc.strip()), message)
                continue
            except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
                yield number, Problem(file, number, "", "", "not JSON that can be read")
                continue
            if isinstance(data, dict):
                yield number, data
            else:
                message = f"expected an object with {', '.join(_FIELDS)}"
                yield number, Problem(file, number, "", shown(data), message)


def _read_csv(path: Path) -> Iterator[Line]:
    file = str(path)
    number = 1
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)
        try:
            _need_columns(rows.fieldnames or (), file)
            number += 1
            for row in rows:
                fields: dict[str, Any] = {key: value for key, value in row.items() if value is not None}
                fields |= {key: _number(fields[key]) for key in _FIELDS[1:] if key in fields}
                yield number, fields
                number = rows.line_num + 1  # a quoted text may span lines: a row stands where it begins
        except UnicodeDecodeError as error:
            bad = repr(error.object[error.start : error.end])
            raise _refusal(file, "not UTF-8", bad, number) from None
        except csv.Error as error:
            raise _refusal(file, f"not CSV: {error}", "", rows.line_num) from None


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _read_parquet(path: Path) -> Iterator[Line]:
    file = str(path)
    if not path.is_file():
        raise _refusal(file, "cannot be read: no such file")
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        message = "reading Parquet needs pyarrow: pip install pyarrow, or convert the file to JSONL or CSV"
        raise _refusal(file, message) from None
    number = 0
    try:
        source = parquet.ParquetFile(path)
        _need_columns(source.schema_arrow.names, file)
        wanted = [name for name in (*_FIELDS, "topic") if name in source.schema_arrow.names]
        for batch in source.iter_batches(columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (arrow.ArrowException, OSError) as error:
        raise _refusal(file, f"not Parquet that can be read: {error}", "", number) from None


def _need_columns(found: Any, file: str) -> None:
    missing = [Problem(file, 1, name, "", "column required") for name in _FIELDS if name not in found]
    if missing:
        raise CatalogError(missing)


def _refusal(file: str, message: str, value: str = "", line: int = 0) -> CatalogError:
    return CatalogError([Problem(file, line, "", value, message)])
