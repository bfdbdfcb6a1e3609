"""What a source of tokens is asked, and what it is."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from pointsman.values.events import Finished, Token
from pointsman.values.request import Message


@dataclass(frozen=True, slots=True)
class Constraint:
    """What decoding is held to: a JSON Schema as JSON text (empty: any JSON object), else a GBNF grammar."""

    grammar: str = ""
    json_schema: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that say so to llama.cpp's server, in /completion and /v1/chat/completions alike."""
        if self.grammar:
            return {"grammar": self.grammar}
        return {"json_schema": json.loads(self.json_schema or '{"type": "object"}')}


@dataclass(frozen=True, slots=True)
class Question:
    """One answer to make, with nothing left to defaults of the backend.

    adapters: scale of every adapter that the engine holds, in engine order; exactly those, because an
    engine that is told of no adapter may reuse a cache that another adapter filled
    (tests/test_adapters.py); None for backends without adapters
    constraint: for llama.cpp alone; None leaves decoding free
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None
    top_p: float | None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    adapters: tuple[float, ...] | None = None
    constraint: Constraint | None = None


Stream = AsyncGenerator[Token | Finished, None]
"""Tokens, then one `Finished`. Closing it frees what it holds, within a token."""


class Backend(Protocol):
    """A source of tokens."""

    def stream(self, question: Question) -> Stream:
        """Answer.

        Raises:
            BackendDownError: it failed, before or within the answer.
            InvalidRequestError: the prompt does not fit.

        """
