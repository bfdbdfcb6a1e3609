"""A JSONL file to checked examples: rows of `user` and `answer`, perhaps `system`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem

_MOST_CHARACTERS = 100_000
"""Of one row. What is longer is no example but a file that lacks its line ends."""
_SHOWN = 60
_FIELDS = ("system", "user", "answer")


@dataclass(frozen=True, slots=True)
class Example:
    """One exchange to learn: `line` is its place in the file, 1-based."""

    system: str
    user: str
    answer: str
    line: int


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """The examples of a file, without its duplicates.

    duplicates: lines that were dropped because an earlier one says the same
    leaks: lines that were dropped because the judging file asks the same
    """

    path: Path
    sha256: str
    examples: tuple[Example, ...]
    duplicates: tuple[int, ...]
    leaks: tuple[int, ...] = ()


def read_examples(path: Path, system: str | None = None) -> ExampleFile:
    """Read and check a JSONL file. A `system` given here stands for that of every row.

    A row that repeats an earlier one word by word is dropped.

    Raises:
        CatalogError: names every bad row, or says that the file cannot be read or holds no rows.

    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CatalogError([Problem(path.name, 0, "", str(path), error.strerror or str(error))]) from error
    problems: list[Problem] = []
    first_lines: dict[tuple[str, str, str], int] = {}
    duplicates: list[int] = []
    for line, row in enumerate(content.split(b"\n"), 1):
        if not row.strip():
            continue
        read = _read_row(path.name, line, row, system)
        if isinstance(read, Problem):
            problems.append(read)
        elif (read.system, read.user, read.answer) in first_lines:
            duplicates.append(line)
        else:
            first_lines[read.system, read.user, read.answer] = line
    if not problems and not first_lines:
        problems.append(Problem(path.name, 0, "", "", "holds no examples"))
    if problems:
        raise CatalogError(problems)
    examples = tuple(Example(*fields, line) for fields, line in first_lines.items())
    return ExampleFile(path, hashlib.sha256(content).hexdigest(), examples, tuple(duplicates))


def check_no_leak(train: ExampleFile, held_out: ExampleFile) -> None:
    """Refuse a held-out file that repeats what is trained on, whatever its answers, case and spacing.

    Raises:
        CatalogError: names every such row.

    """
    seen = {_folded(example): example.line for example in reversed(train.examples)}
    problems = [
        Problem(
            held_out.path.name,
            example.line,
            "user",
            _short(example.user),
            f"stands in {train.path.name}:{seen[_folded(example)]} too; what was trained on judges nothing "
            "(--drop-leaks leaves it out of the training)",
        )
        for example in held_out.examples
        if _folded(example) in seen
    ]
    if problems:
        raise CatalogError(problems)


def without_leaks(train: ExampleFile, held_out: ExampleFile) -> ExampleFile:
    """Return the training file without the prompts of the held-out one, whatever their case and spacing."""
    judged = {_folded(example) for example in held_out.examples}
    kept = tuple(example for example in train.examples if _folded(example) not in judged)
    lines = tuple(example.line for example in train.examples if _folded(example) in judged)
    return replace(train, examples=kept, leaks=lines)


def check_one_system(data: ExampleFile) -> str:
    """Return the system prompt that all rows share: it is the one the specialist will serve with.

    Raises:
        CatalogError: the rows have several.

    """
    first = data.examples[0]
    for example in data.examples:
        if example.system != first.system:
            message = f"differs from line {first.line}; a specialist has one system prompt (--system sets it)"
            raise CatalogError(
                [Problem(data.path.name, example.line, "system", _short(example.system), message)]
            )
    return first.system


def held_out_of(examples: Sequence[Example], count: int, order: Sequence[int]) -> tuple[list[int], list[int]]:
    """Split example numbers in the given `order` into (seen, held out); twins of a prompt stay together.

    At most `count` are held out, and none whose user text also stands among the seen.
    """
    repeats: dict[str, int] = {}
    for example in examples:
        repeats[_folded(example)] = repeats.get(_folded(example), 0) + 1
    held = [i for i in order if repeats[_folded(examples[i])] == 1][:count]
    chosen = set(held)
    return [i for i in order if i not in chosen], held


def _read_row(file: str, line: int, row: bytes, system: str | None) -> Example | Problem:
    if len(row) > _MOST_CHARACTERS:
        message = f"longer than {_MOST_CHARACTERS:,} bytes"
        return Problem(file, line, "", f"{len(row):,} bytes", message)
    try:
        fields = json.loads(row.decode("utf-8-sig" if line == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        return Problem(file, line, "", _short(row.decode(errors="replace")), f"not a line of JSON: {error}")
    return _read_fields(file, line, fields, system)


def _read_fields(file: str, line: int, fields: object, system: str | None) -> Example | Problem:
    if not isinstance(fields, dict):
        return Problem(file, line, "", _short(str(fields)), "not an object with user and answer")
    for name in fields:
        if name not in _FIELDS:
            return Problem(
                file, line, _short(name), _short(str(fields[name])), f"unknown; known: {', '.join(_FIELDS)}"
            )
    if system is not None:
        fields["system"] = system
    fields.setdefault("system", "")
    for name in _FIELDS:
        value = fields.get(name)
        if not isinstance(value, str):
            wanted = "is missing" if value is None else "must be a string"
            return Problem(file, line, name, "" if value is None else _short(str(value)), wanted)
        if name != "system" and not value.strip():
            return Problem(file, line, name, repr(value), "is empty")
    return Example(fields["system"].strip(), fields["user"], fields["answer"], line)


def _folded(example: Example) -> str:
    return " ".join(example.user.casefold().split())


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
