"""Spans to placeholders, and placeholders in an answer back to what stood there, over chunk borders."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from pointsman.values.policy import Span
from pointsman.values.request import Message


@dataclass(frozen=True, slots=True)
class Redaction:
    """What each placeholder stands for."""

    originals: dict[str, str] = field(default_factory=dict)

    def restorer(self, *, as_json: bool = False) -> "Restorer":
        """Return what puts one answer right; in one that is JSON, originals stand as in a string of it."""
        if not as_json:
            return Restorer(self.originals)
        return Restorer(
            {name: json.dumps(text, ensure_ascii=False)[1:-1] for name, text in self.originals.items()}
        )


class Restorer:
    """Restores one streamed answer. What may be the beginning of a placeholder waits for its rest."""

    def __init__(self, originals: dict[str, str]) -> None:
        self._originals = originals
        self._held = ""

    def feed(self, piece: str) -> str:
        """Take a piece of the answer; returns what can be said now."""
        if not self._originals:
            return piece
        text, said = self._held + piece, ""
        self._held = ""
        while (start := text.find("[")) >= 0:
            said, text = said + text[:start], text[start:]
            placeholder = next((name for name in self._originals if text.startswith(name)), None)
            if placeholder is not None:
                said, text = said + self._originals[placeholder], text[len(placeholder) :]
            elif any(name.startswith(text) for name in self._originals):
                self._held = text
                return said
            else:
                said, text = said + "[", text[1:]
        return said + text

    def end(self) -> str:
        """Return what still waits, as it is."""
        held, self._held = self._held, ""
        return held


def redact(
    messages: tuple[Message, ...], spans: Sequence[Sequence[Span]]
) -> tuple[tuple[Message, ...], Redaction]:
    """Replace the spans of each message; the same text gets the same placeholder everywhere.

    A placeholder is never one that already stands in a message.
    """
    taken = "\n".join(message.content for message in messages)
    placeholders: dict[tuple[str, str], str] = {}
    redacted = []
    for message, found in zip(messages, spans, strict=True):
        text, end = "", 0
        for span in _joined(found):
            original = message.content[span.start : span.end]
            key = (span.kind, original)
            if key not in placeholders:
                placeholders[key] = _placeholder(span.kind, set(placeholders.values()), taken)
            text += message.content[end : span.start] + placeholders[key]
            end = span.end
        redacted.append(replace(message, content=text + message.content[end:]) if end else message)
    return tuple(redacted), Redaction({made: original for (_, original), made in placeholders.items()})


def _placeholder(kind: str, made: set[str], taken: str) -> str:
    number = 1
    while (name := f"[{kind.upper()}_{number}]") in made or name in taken:
        number += 1
    return name


def _joined(spans: Sequence[Span]) -> Iterator[Span]:
    """Join spans that overlap, under the kind of the longer one; they come by their start."""
    last: Span | None = None
    for span in spans:
        if last is None or span.start >= last.end:
            if last is not None:
                yield last
            last = span
        else:
            longer = max(last, span, key=lambda s: s.end - s.start)
            last = Span(longer.kind, last.start, max(last.end, span.end))
    if last is not None:
        yield last
