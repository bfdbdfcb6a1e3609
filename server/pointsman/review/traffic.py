"""A JSONL file of prompts to values, with every bad line placed. Knows no vectors.

A line is `{"text": "…", "intent": "…"}`; an intent of `null` means out of scope. Other fields are
ignored, so that lines may come from a log as they are; blank lines are skipped, repeated ones count.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pointsman.catalog.files import shown
from pointsman.errors import CatalogError
from pointsman.values.catalog import Problem

_MOST_PROBLEMS = 100
"""A file of another format is wrong on every line; so many of them tell enough."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt and what it asks for. `labelled` with an `intent` of None means out of scope.

    line: where it stands in its file, 1-based; 0 when it comes from elsewhere
    """

    text: str
    intent: str | None
    labelled: bool
    line: int = 0


def read_traffic(path: Path, *, need_labels: bool) -> tuple[Labelled, ...]:
    """Read a file of prompts; `need_labels` demands the field `intent` on every line.

    Raises:
        CatalogError: every bad line with its field and value; an unreadable file, or one without prompts.

    """
    prompts: list[Labelled] = []
    problems: list[Problem] = []
    try:
        with path.open("rb") as file:
            for number, content in enumerate(file, 1):
                if not content.strip():
                    continue
                found = list(_read_line(content, str(path), number, need_labels=need_labels))
                prompts += [item for item in found if isinstance(item, Labelled)]
                problems += [item for item in found if isinstance(item, Problem)]
    except OSError as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error.strerror}")]) from None
    if problems:
        raise CatalogError(_first(problems, str(path)))
    if not prompts:
        raise CatalogError([Problem(str(path), 0, "", "", "holds no prompts")])
    return tuple(prompts)


def check_intents(traffic: Sequence[Labelled], known: Collection[str], path: Path) -> None:
    """Refuse labels that name no intent.

    Raises:
        CatalogError: every such line, with the known names that are nearest.

    """
    unknown = {item.intent for item in traffic if item.intent is not None} - set(known)
    advice = {name: _nearest(name, known) for name in unknown}
    problems = [
        Problem(str(path), item.line, "intent", shown(item.intent), f"unknown intent; {advice[item.intent]}")
        for item in traffic
        if item.intent in advice
    ]
    if problems:
        raise CatalogError(_first(problems, str(path)))


def _nearest(name: str, known: Collection[str]) -> str:
    if not known:
        return "the catalog has none"
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(close or sorted(known)[:3])
    return (
        f"the nearest known names: {listed}" if close else f"no known name is like it; known are {listed}, …"
    )


def _first(problems: list[Problem], file: str) -> list[Problem]:
    more = len(problems) - _MOST_PROBLEMS
    if more <= 0:
        return problems
    return [*problems[:_MOST_PROBLEMS], Problem(file, 0, "", "", f"and {more} problems more")]


def _read_line(content: bytes, file: str, number: int, *, need_labels: bool) -> Iterator[Labelled | Problem]:
    """Yield the prompt of a line, or all that is wrong with the line."""
    try:
        data: Any = json.loads(content.decode("utf-8-sig" if number == 1 else "utf-8").strip())
    except UnicodeDecodeError as error:
        yield Problem(file, number, "", repr(content[error.start : error.end]), "not UTF-8")
        return
    except json.JSONDecodeError as error:
        yield Problem(
            file,
            number,
            "",
            shown(content.decode().strip()),
            f"not JSON: {error.msg} at column {error.colno}",
        )
        return
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of brackets
        yield Problem(file, number, "", shown(content.decode().strip()), "not JSON that can be read")
        return
    if not isinstance(data, dict):
        message = 'expected an object such as {"text": "…", "intent": "…"}'
        yield Problem(file, number, "", shown(data), message)
        return
    problems = [
        Problem(file, number, field, shown(data[field]) if field in data else "", message)
        for field, message in (("text", _wrong_text(data)), ("intent", _wrong_intent(data, need_labels)))
        if message
    ]
    yield from problems
    if not problems:
        yield Labelled(data["text"], data.get("intent"), "intent" in data, number)


def _wrong_text(data: dict[str, Any]) -> str:
    if "text" not in data:
        return "field required"
    text = data["text"]
    if not isinstance(text, str):
        return "must be text"
    if not text.strip():
        return "must not be blank"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "not Unicode: half of a surrogate pair"
    return ""


def _wrong_intent(data: dict[str, Any], need_labels: bool) -> str:
    if "intent" not in data:
        return "field required; null means out of scope" if need_labels else ""
    intent = data["intent"]
    if intent is None or (isinstance(intent, str) and intent):
        return ""
    return "must be the name of an intent, or null for out of scope"
