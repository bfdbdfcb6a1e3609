"""Requests as the ledger has them, and what their callers say of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that ended. What it did not come to is None, and a name empty.

    time: Unix seconds at which it came
    method: `route` or `generate`
    outcome: `ok`, `escalated`, `flagged` (stands, and looks wrong), `invalid` (stands, and breaks its format),
        `cancelled`, `throttled` (found no place), `quota` (a limit of the caller's), `rejected` (at the door: a
        stranger, a call that is not understood), `late` (no answer before the deadline), `failed` or `refused`
    routed_to: the specialist of the first decision; an escalation leaves `specialist` empty
    confidence_alone: before labelled traffic corrected it
    scorer, hardness_by: name what scored the prompt, and what judged how hard it is
    asked: what the request fixed, and what rules ask for, as JSON; of a call refused at the door, why
    retries: times that the cloud was asked again
    cost: in `currency`, ISO 4217; None where no price is known
    uncounted: answers of the cloud that broke off or were given up, and are in no `cost`: nobody told their tokens
    prompt, answer: redacted; None unless `ledger.text` is on
    """

    time: float
    request_id: str
    method: str
    outcome: str
    caller: str = ""
    session_id: str = ""
    tier: str = ""
    specialist: str = ""
    routed_to: str = ""
    model: str = ""
    intent: str = ""
    reason: str = ""
    rule: str = ""
    similarity: float | None = None
    score: float | None = None
    threshold: float | None = None
    confidence: float | None = None
    difficulty: float | None = None
    answer_confidence: float | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    route_ms: float | None = None
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    retries: int | None = None
    cost: float | None = None
    currency: str = ""
    catalog_version: str = ""
    confidence_alone: float | None = None
    scorer: str = ""
    hardness_by: str = ""
    asked: str = ""
    uncounted: int | None = None
    prompt: str | None = None
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a caller says of a request. `accepted` None and empty texts say nothing.

    intent, answer: those that would have been right
    """

    request_id: str
    caller: str = ""
    accepted: bool | None = None
    intent: str = ""
    answer: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of two answers: how they were compared, how alike they are in [0, 1], and whether that is the same answer.

    method: `exact`, `fields` of JSON objects, `similarity` of embeddings, or `judge`
    """

    method: str
    score: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """A local answer, and what the cloud said to the same request.

    time: Unix seconds
    model: that was asked; its answer cost `cost`, in `currency`, with what a judge cost
    answers_hash: of the specialist that answered; cut: the token limit ended its answer
    logprobs: of its tokens, a JSON list
    answer: the cloud's; redacted, and None unless `ledger.text` is on
    """

    time: float
    request_id: str
    caller: str
    specialist: str
    model: str
    method: str
    score: float
    agrees: bool
    cost: float
    currency: str
    answers_hash: str
    cut: bool
    logprobs: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """A decision that was made, as the ledger has it; see `Entry`.

    asked: what the request fixed; see `Entry.asked`
    good: whether the answer was; by its caller, else by the cloud, else by how it ended. None where there was none
    """

    request_id: str
    caller: str
    method: str
    outcome: str
    tier: str
    specialist: str
    routed_to: str
    model: str
    intent: str
    reason: str
    similarity: float | None
    score: float | None
    confidence_alone: float | None
    difficulty: float | None
    scorer: str
    hardness_by: str
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    cost: float | None
    currency: str
    asked: Mapping[str, Any]
    prompt: str | None
    good: bool | None
    answer_confidence: float | None = None
