"""A log of calls of language models to values. Reads JSONL, a call a line, in any of these forms.

- request and response of the chat-completions API: `{"request": {"model", "messages"}, "response": {"choices", "usage"}}`,
  also with a `body` around either, as the Batch API writes them, and with `messages` beside `response`
- plain: `{"prompt": "…", "answer": "…", "model": "…", "prompt_tokens": 12, "completion_tokens": 3, "time": …}`, of which
  only the prompt must be there

Other fields are ignored.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pointsman.catalog.files import shown
from pointsman.errors import CatalogError
from pointsman.review.price import tokens_of
from pointsman.values.catalog import Problem

MOST_PROBLEMS = 20
_ANSWERS = ("answer", "completion", "response", "output")
_LATEST = 1e11
_TIMES = ("time", "timestamp", "created", "created_at")
_EXPECTED = 'expected {"request": {"messages": […]}, "response": {…}} or {"prompt": "…", "answer": "…"}'


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `prompt` is the last turn of the user; `counted` says that the tokens are approximated.

    time: Unix seconds, None where the log does not say
    """

    prompt: str
    system: str
    answer: str
    model: str
    prompt_tokens: float
    cached_tokens: float
    completion_tokens: float
    counted: bool
    time: float | None


@dataclass(frozen=True, slots=True)
class CallLog:
    """What could be read, and what could not: `bad` lines, the first of them as problems."""

    calls: tuple[Call, ...]
    bad: int
    problems: tuple[Problem, ...]


def read_calls(path: Path) -> CallLog:
    """Read a log; lines that cannot be used are left out and named.

    Raises:
        CatalogError: the file cannot be read, or more than half of it cannot be used.

    """
    calls: list[Call] = []
    problems: list[Problem] = []
    bad = 0
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                found = _call(line)
                if isinstance(found, Call):
                    calls.append(found)
                    continue
                bad += 1
                if len(problems) < MOST_PROBLEMS:
                    field, value, message = found
                    problems.append(Problem(str(path), number, field, shown(value), message))
    except OSError as error:
        raise CatalogError([Problem(str(path), 0, "", "", f"cannot be read: {error.strerror}")]) from None
    if bad > len(calls):
        raise CatalogError(problems)
    if not calls:
        raise CatalogError([Problem(str(path), 0, "", "", "holds no calls")])
    return CallLog(tuple(calls), bad, tuple(problems))


def _call(line: bytes) -> Call | tuple[str, object, str]:
    """Return a call, or the field, the value and what is wrong with it."""
    fields = _fields(line)
    if isinstance(fields, tuple):
        return fields
    request = _part(fields, "request")
    response = _part(fields, "response")
    messages = request.get("messages", fields.get("messages"))
    if messages is None:
        return _plain(fields)
    if not isinstance(messages, list) or not messages:
        return "request.messages", messages, "expected a list of messages"
    turns = [(m.get("role"), _text(m.get("content"))) for m in messages if isinstance(m, dict)]
    asked = [text for role, text in turns if role == "user" and text.strip()]
    if not asked:
        return "request.messages", messages, "no message of the user with a text"
    answer = _answer(response) if response else _said(fields)
    usage = response.get("usage") or fields.get("usage") or {}
    return _with_tokens(
        prompt=asked[-1],
        system="\n".join(text for role, text in turns if role in {"system", "developer"}),
        sent="\n".join(text for _, text in turns),
        answer=answer,
        model=str(response.get("model") or request.get("model") or fields.get("model") or ""),
        usage=usage if isinstance(usage, dict) else {},
        time=_time(response | {k: v for k, v in fields.items() if k in _TIMES}),
    )


def _fields(line: bytes) -> dict[str, Any] | tuple[str, object, str]:
    shown_line = line[:80].decode(errors="replace")
    try:
        fields = json.loads(line.decode("utf-8-sig"))
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return "", shown_line, "not Unicode: half of a surrogate pair"
    except (ValueError, RecursionError):
        return "", shown_line, "not JSON"
    return fields if isinstance(fields, dict) else ("", fields, _EXPECTED)


def _plain(fields: Mapping[str, Any]) -> Call | tuple[str, object, str]:
    prompt = fields.get("prompt")
    if prompt is None:
        return "", dict(fields), _EXPECTED
    if not isinstance(prompt, str) or not prompt.strip():
        return "prompt", prompt, "must be text, and not blank"
    system = fields.get("system")
    return _with_tokens(
        prompt=prompt,
        system=system if isinstance(system, str) else "",
        sent=f"{system or ''}\n{prompt}",
        answer=_said(fields),
        model=str(fields.get("model") or ""),
        usage=fields,
        time=_time(fields),
    )


def _with_tokens(
    *,
    prompt: str,
    system: str,
    sent: str,
    answer: str,
    model: str,
    usage: Mapping[str, Any],
    time: float | None,
) -> Call | tuple[str, object, str]:
    told = [
        usage.get(a, usage.get(b))
        for a, b in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
    ]
    for name, value in zip(("prompt_tokens", "completion_tokens"), told, strict=True):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9
        ):
            return name, value, "must be a number of tokens"
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("cached_tokens")
    tokens_in, tokens_out = told
    return Call(
        prompt,
        system,
        answer,
        model,
        float(tokens_of(sent) if tokens_in is None else tokens_in),
        float(cached) if isinstance(cached, int | float) and 0 <= cached <= (tokens_in or 0) else 0.0,
        float(tokens_of(answer) if tokens_out is None else tokens_out),
        tokens_in is None or tokens_out is None,
        time,
    )


def _part(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = fields.get(name)
    if isinstance(part, dict) and isinstance(part.get("body"), dict):
        part = part["body"]
    if isinstance(part, dict):
        return part
    return fields["body"] if name == "request" and isinstance(fields.get("body"), dict) else {}


def _answer(response: Mapping[str, Any]) -> str:
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = choices[0].get("message")
        return _text(message.get("content")) if isinstance(message, dict) else _text(choices[0].get("text"))
    return ""


def _said(fields: Mapping[str, Any]) -> str:
    return next((fields[name] for name in _ANSWERS if isinstance(fields.get(name), str)), "")


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_parts(content))
    return ""


def _parts(content: list[Any]) -> Iterator[str]:
    for part in content:
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            yield part["text"]


def _time(fields: Mapping[str, Any]) -> float | None:
    for name in _TIMES:
        value = fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            # Milliseconds are beyond any second, microseconds beyond any millisecond, and so on.
            stated = next((value / part for part in (1, 1e3, 1e6, 1e9) if value / part < _LATEST), None)
            if stated is not None:
                return float(stated)
        if isinstance(value, str):
            try:
                stated = datetime.fromisoformat(value).timestamp()
            except (ValueError, OverflowError):
                continue
            if 0 < stated < _LATEST:
                return stated
    return None
