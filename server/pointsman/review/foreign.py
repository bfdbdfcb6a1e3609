"""Files of other tools to labelled texts: Rasa NLU YAML, CSV, TSV and JSONL. Knows no intents."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pointsman.catalog.files import shown
from pointsman.catalog.yaml_document import Document, YamlError, parse
from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem

_MOST_PROBLEMS = 100
_BULLET = "-"
_RASA_SUFFIXES = (".yml", ".yaml")
_ANNOTATION = re.compile(r"\[([^\[\]]+)\](?:\([^()]*\)|\{[^{}]*\}|\[\s*\{[^\[\]]*\}\s*\])")
"""Rasa's marked entities: `[Berlin](city)`, `[Berlin]{"entity": "city"}`, `[Berlin][{…}, {…}]`."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text and its label as the file has it; None is out of scope. `line` is 1-based, 0 when unknown."""

    text: str
    label: str | None
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Read:
    """What files hold, and what of them was passed over."""

    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()


def read_rasa(path: Path) -> Read:
    """Read a Rasa NLU file (YAML of version 3; 2 is alike), or all of a folder. Entity marks are taken off.

    Raises:
        CatalogError: not such a file; names each place.

    """
    files = sorted(p for p in path.rglob("*") if p.suffix in _RASA_SUFFIXES) if path.is_dir() else [path]
    examples: list[Example] = []
    passed: Counter[str] = Counter()
    problems: list[Problem] = []
    for file in files:
        try:
            document = parse(_bytes(file))
        except YamlError as error:
            problems.append(Problem(str(file), error.line, "", shown(error.value), error.message))
            continue
        if path.is_dir() and not (isinstance(document.data, dict) and "nlu" in document.data):
            passed["files without 'nlu:'"] += 1  # stories, rules and the domain stand beside it
            continue
        for item in _rasa_examples(document, str(file), passed):
            if isinstance(item, Problem):
                problems.append(item)
            else:
                examples.append(item)
    raise_all(problems)
    return Read(tuple(examples), tuple(f"passed over: {what} ({count})" for what, count in passed.items()))


def _rasa_examples(document: Document, file: str, passed: Counter[str]) -> Iterator[Example | Problem]:
    entries = document.data.get("nlu") if isinstance(document.data, dict) else None
    if not isinstance(entries, list):
        yield Problem(file, 1, "nlu", "", "expected a list 'nlu:' of intents, as in Rasa NLU YAML")
        return
    for i, entry in enumerate(entries):
        line = document.line(("nlu", i))
        if not isinstance(entry, dict):
            yield Problem(file, line, f"nlu.{i}", shown(entry), "expected fields such as 'intent:'")
        elif "intent" not in entry:
            passed[f"entries without an intent: {', '.join(sorted(set(entry) - {'examples'}))}"] += 1
        elif not isinstance(entry["intent"], str) or not entry["intent"].strip():
            yield Problem(
                file,
                line,
                f"nlu.{i}.intent",
                shown(entry["intent"]),
                "must be a name; quote yes, no and numbers",
            )
        else:
            yield from _rasa_texts(document, file, i, entry, passed)


def _rasa_texts(
    document: Document, file: str, i: int, entry: dict[str, Any], passed: Counter[str]
) -> Iterator[Example | Problem]:
    label, listed = entry["intent"].strip(), entry.get("examples")
    start = document.line(("nlu", i, "examples"))
    if isinstance(listed, str):
        for offset, text in enumerate(listed.splitlines(), 1):
            if text.strip().startswith(_BULLET):
                yield Example(_plain(text.strip()[1:]), label, file, start + offset)
            elif text.strip():
                passed[f"lines of examples without a leading '{_BULLET}'"] += 1
        return
    if not isinstance(listed, list):
        message = "expected a text of lines that begin with '-', or a list"
        yield Problem(file, start, f"nlu.{i}.examples", shown(listed), message)
        return
    for k, item in enumerate(listed):
        given = item.get("text") if isinstance(item, dict) else item
        line = document.line(("nlu", i, "examples", k))
        if isinstance(given, str):
            yield Example(_plain(given.strip().removeprefix(f"{_BULLET} ")), label, file, line)
        else:
            yield Problem(file, line, f"nlu.{i}.examples.{k}", shown(item), "expected a text")


def _plain(text: str) -> str:
    return _ANNOTATION.sub(r"\1", text).strip()


def read_csv(path: Path, text_column: str, label_column: str, delimiter: str = ",") -> Read:
    """Read a file with a header; an empty label is out of scope.

    Raises:
        CatalogError: no such columns, rows of another length, not UTF-8; names each place.

    """
    content = _decoded(path)
    examples: list[Example] = []
    problems: list[Problem] = []
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = list(reader.fieldnames or [])
        missing = [name for name in (text_column, label_column) if name not in columns]
        if missing:
            listed = ", ".join(columns) or "none"
            raise CatalogError([Problem(str(path), 1, name, "", f"no such column; there are {listed}")
                                for name in missing])  # fmt: skip
        end = reader.line_num
        for row in reader:
            line, end = end + 1, reader.line_num  # a quoted text may hold line breaks
            text, label = row[text_column], row[label_column]
            if text is None or label is None or None in row:
                message = f"expected {len(columns)} columns"
                problems.append(Problem(str(path), line, "", shown(text or ""), message))
            else:
                examples.append(Example(text.strip(), label.strip() or None, str(path), line))
    except csv.Error as error:
        problems.append(Problem(str(path), reader.line_num, "", "", f"not CSV: {error}"))
    raise_all(problems)
    return Read(tuple(examples))


def read_jsonl(path: Path, text_field: str, label_field: str) -> Read:
    """Read a file of one JSON object a line; a label of `null` is out of scope.

    Raises:
        CatalogError: not such a file; names each place.

    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            data: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "cannot be read"
            problems.append(Problem(str(path), number, "", shown(line.strip()), f"not JSON: {said}"))
            continue
        wrong = list(_wrong_fields(data, text_field, label_field))
        problems += [Problem(str(path), number, field, value, message) for field, value, message in wrong]
        if not wrong:
            examples.append(Example(data[text_field].strip(), data[label_field], str(path), number))
    raise_all(problems)
    return Read(tuple(examples))


def _wrong_fields(data: Any, text_field: str, label_field: str) -> Iterator[tuple[str, str, str]]:
    if not isinstance(data, dict):
        yield "", shown(data), f'expected an object such as {{"{text_field}": "…", "{label_field}": "…"}}'
        return
    for field, kinds, expected in (
        (text_field, str, "must be text"),
        (label_field, str | None, "must be text, or null for out of scope"),
    ):
        if field not in data:
            yield field, "", f"field required; there are {', '.join(data) or 'none'}"
        elif not isinstance(data[field], kinds):
            yield field, shown(data[field]), expected


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error.strerror}")]) from None


def _decoded(path: Path) -> str:
    content = _bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        value = repr(content[error.start : error.end])
        raise CatalogError([Problem(str(path), line, "", value, "not UTF-8")]) from None


def raise_all(problems: Sequence[Problem]) -> None:
    """Raise problems, if there are any; a file of another format is wrong on every line."""
    if not problems:
        return
    more = len(problems) - _MOST_PROBLEMS
    rest = [Problem(problems[0].file, 0, "", "", f"and {more} problems more")] if more > 0 else []
    raise CatalogError([*problems[:_MOST_PROBLEMS], *rest])
