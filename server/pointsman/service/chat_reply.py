"""Decisions and events of an answer to what chat completions look like."""

import json
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

from pointsman.errors import BackendDownError
from pointsman.values.decision import Decision, Routed
from pointsman.values.events import Done, Escalation, Event, FinishReason, Token

DONE = b"data: [DONE]\n\n"
_LEAST_LOGPROB = -9999.0
"""In the place of minus infinity, which JSON has no word for."""
_FINISHES = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CONTENT_FILTER: "content_filter",
}


@dataclass(slots=True)
class Reply:
    """One answer as it comes; `text` is what stands of it."""

    request_id: str
    decision: Decision
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    done: Done | None = None

    def take(self, event: Event) -> None:
        """Note an event."""
        match event:
            case Token():
                self.text += event.text
                self.tokens.append(event)
            case Escalation():
                self.decision = event.decision
                self.text = self.text[: event.retract_from]
                self._withdraw()
            case Done():
                self.done = event
            case Routed():
                self.decision = event.decision

    def _withdraw(self) -> None:
        """Forget the tokens of what does not stand."""
        length = 0
        for number, token in enumerate(self.tokens):
            length += len(token.text)
            if length > len(self.text):
                del self.tokens[number:]
                return

    def headers(self) -> dict[str, str]:
        """Return what the response says of the decision before its body."""
        decision, evidence = self.decision, self.decision.evidence
        said = {
            "tier": str(decision.tier),
            "specialist": decision.specialist or "",
            "model": decision.model,
            "reason": str(decision.reason),
            "intent": evidence.intent or "",
            "confidence": f"{evidence.confidence:.4f}" if evidence.intent else "",
            "catalog-version": decision.catalog_version,
        }
        shown = {f"x-pointsman-{name}": _ascii(value) for name, value in said.items() if value}
        return {"x-request-id": self.request_id} | shown

    def completion(self) -> dict[str, Any]:
        """Return the whole answer, once it is done."""
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text, "refusal": None},
            "logprobs": _logprobs(self.tokens),
            "finish_reason": self._finish,
        }
        return self._head("chat.completion") | {
            "choices": [choice], "usage": self._usage(), "pointsman": self._ours(),
        }  # fmt: skip

    def chunk(self, delta: dict[str, str], token: Token | None = None) -> bytes:
        """Return a piece of the answer."""
        logprobs = _logprobs([token]) if token else None
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return data(self._head("chat.completion.chunk") | {"choices": [choice]})

    def last_chunks(self, *, include_usage: bool) -> Iterator[bytes]:
        """Yield what ends the answer: why it ended, with the decision that stands, and its tokens where asked for."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish}
        head = self._head("chat.completion.chunk")
        yield data(head | {"choices": [choice], "pointsman": self._ours()})
        if include_usage:
            yield data(head | {"choices": [], "usage": self._usage(), "pointsman": self._ours()})
        yield DONE

    @property
    def _finish(self) -> str:
        return _FINISHES[self.done.finish_reason] if self.done else "stop"

    def _head(self, kind: str) -> dict[str, Any]:
        model = self.decision.specialist or self.decision.model
        return {"id": f"chatcmpl-{self.request_id}", "object": kind, "created": self.created, "model": model}

    def _usage(self) -> dict[str, Any]:
        usage = self.done.usage if self.done else None
        told = (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) if usage else (0, 0, 0)
        return {
            "prompt_tokens": told[0],
            "completion_tokens": told[1],
            "total_tokens": told[0] + told[1],
            "prompt_tokens_details": {"cached_tokens": told[2]},
        }

    def _ours(self) -> dict[str, Any]:
        decision, done = self.decision, self.done
        evidence = decision.evidence
        cost = done.cost if done else None
        return {
            "decision": {
                "tier": str(decision.tier),
                "specialist": decision.specialist,
                "model": decision.model,
                "reason": str(decision.reason),
                "rule": decision.rule or None,
                "explanation": decision.explanation,
                "intent": evidence.intent,
                "similarity": evidence.similarity,
                "confidence": evidence.confidence,
                "catalog_version": decision.catalog_version,
            },
            "confidence": done.confidence if done else None,
            "low_confidence": bool(done and done.shortfall),
            "cost": {"currency": cost.currency, "amount": cost.amount} if cost else None,
        }


async def chunks(
    reply: Reply, events: AsyncGenerator[Event, None], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the answer as server-sent events, from its first token on: what fails before that is no stream.

    Raises:
        BackendDownError: what was said is taken back, which this protocol has no word for.

    """
    begun = False
    async for event in events:
        said = len(reply.text)
        reply.take(event)
        if not begun and isinstance(event, Token | Done):
            begun = True
            yield reply.chunk({"role": "assistant", "content": ""})
        if isinstance(event, Token):
            yield reply.chunk({"content": event.text}, event)
        elif isinstance(event, Escalation) and event.retract_from < said:
            raise BackendDownError("the answer was taken back: its source failed within it; ask again")
    for chunk in reply.last_chunks(include_usage=include_usage):
        yield chunk


def data(content: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def _logprobs(tokens: list[Token]) -> dict[str, Any] | None:
    told = [token for token in tokens if token.logprob is not None]
    if not told:
        return None
    return {
        "content": [
            {
                "token": token.text,
                "logprob": max(token.logprob or 0.0, _LEAST_LOGPROB),
                "bytes": list(token.text.encode("utf-8", "replace")),
                "top_logprobs": [],
            }
            for token in told
        ],
        "refusal": None,
    }


def _ascii(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
