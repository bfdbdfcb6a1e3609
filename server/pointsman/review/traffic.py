"""A JSONL file of prompts to values, with every bad line placed. Knows no vectors.

A line is `{"text": "…", "intent": "…"}`; an intent of `null` means out of scope. Where conversations are
read, `turns` (the user's texts in order) or `messages` (role and content) may stand in the place of `text`;
the intent is that of the last user turn. Other fields are ignored, so that lines may come from a log as they
are; blank lines are skipped, repeated ones count.
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

_CONVERSATIONS = ("turns", "messages")
_USER = "user"
_MOST_PROBLEMS = 100
"""A file of another format is wrong on every line; so many of them tell enough."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt and what it asks for. `labelled` with an `intent` of None means out of scope.

    line: where it stands in its file, 1-based; 0 when it comes from elsewhere
    before: the user turns before it, in order
    """

    text: str
    intent: str | None
    labelled: bool
    line: int = 0
    before: tuple[str, ...] = ()


def read_traffic(path: Path, *, need_labels: bool, conversations: bool = False) -> tuple[Labelled, ...]:
    """Read a file of prompts; `need_labels` demands the field `intent` on every line.

    conversations: whether lines may hold `turns` or `messages` in the place of `text`

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
                found = list(
                    _read_line(
                        content, str(path), number, need_labels=need_labels, conversations=conversations
                    )
                )
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


def _read_line(
    content: bytes, file: str, number: int, *, need_labels: bool, conversations: bool
) -> Iterator[Labelled | Problem]:
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
    field = next((name for name in _CONVERSATIONS if conversations and name in data), "text")
    turns = _turns(data, field)
    problems = [
        Problem(file, number, name, shown(data[name]) if name in data else "", message)
        for name, message in (
            (field, turns if isinstance(turns, str) else ""),
            ("intent", _wrong_intent(data, need_labels)),
        )
        if message
    ]
    yield from problems
    if not problems and not isinstance(turns, str):
        *before, text = turns
        yield Labelled(text, data.get("intent"), "intent" in data, number, tuple(before))


def _turns(data: dict[str, Any], field: str) -> list[str] | str:
    """Return the user turns of a line, or what is wrong with them."""
    if field not in data:
        return "field required"
    turns = data[field]
    if field == "text":
        turns = [turns]
    elif not isinstance(turns, list) or not turns:
        return "must be a list with at least one turn"
    elif "text" in data:
        return "must not stand beside text"
    elif field == "messages":
        if not all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns):
            return 'must be a list of objects such as {"role": "user", "content": "…"}'
        if turns[-1]["role"] != _USER:
            return "the last message must be the user's: that is the one with the intent"
        turns = [turn.get("content") for turn in turns if turn["role"] == _USER]
    return next(filter(None, map(_wrong_text, turns)), turns)


def _wrong_text(text: object) -> str:
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
