"""llama.cpp's own API, spoken to a local engine: what the OpenAI protocol has no words for.

An answer is asked for in rounds. It names its slot, so that its cache is where it was left. It is interrupted
by closing the connection, and goes on from the tokens that were said, in the engine's own numbers; at
temperature 0 its text is that of an answer made in one go (tests/test_adapter_turns.py). Round n samples with
the seed plus n - 1, if there is a seed: the same distribution, but not the same draws as without interruption.
"""

import asyncio
import json
import math
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from pointsman.errors import BackendDownError, InvalidRequestError, OverloadedError, PointsmanError
from pointsman.generation.backend import Question, Stream
from pointsman.generation.engine_slots import Held, Slot
from pointsman.generation.interlude import BALLAST, Post
from pointsman.generation.place import Place
from pointsman.generation.unbroken import ended
from pointsman.values.events import Finished, FinishReason, Token, Usage

_RETRY_S = 1.0
PROBE_TOKENS = 4
_PROBE_PROMPT = "Hello"
_BEGINS_WITHIN_S = 30.0
"""How long a request that was given up waits for its first piece. The engine does not come to it sooner."""
_FILLS_WITHIN_S = 3.0
_EVENT = "data: "
_RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""Closing a connection breaks it: the engine's next write fails, where after an orderly end only the one after does."""


@dataclass(slots=True)
class _Draft:
    """An answer over its rounds. `said` are the tokens whose text was passed on, `told` counts them."""

    prompt: str
    said: list[int] = field(default_factory=list)
    told: int = 0
    rounds: int = 0
    usage: Usage = field(default_factory=Usage)
    reason: FinishReason | None = None


@dataclass(slots=True)
class _Round:
    """One round: `made` tokens by the engine's count, of which `told` were passed on as text.

    heard: whether the engine has said anything, and be it a refusal: then it has begun
    ended: whether it has said its last
    held: numbers of tokens whose text the engine keeps to itself for now: half a character, or what may
    become a stop string; with the sum of their log-probabilities
    """

    begun_with: int
    limit: int
    is_last: bool
    made: int = 0
    told: int = 0
    held: list[int] = field(default_factory=list)
    held_logprob: float = 0.0
    heard: bool = False
    ended: bool = False
    interrupted: bool = False


class LlamaClient:
    """One engine with llama.cpp's server in it."""

    def __init__(self, name: str, url: str, api_key: str, *, connect_s: float, read_s: float) -> None:
        """Speak to `url`; `name` is what errors call it. No connection is made yet."""
        self._name = name
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=httpx2.Timeout(read_s, connect=connect_s),
            # On loopback a new connection is cheap, and an engine that closes an idle one just as it is used
            # again fails a request. Closing a connection is how an answer is cancelled.
            transport=httpx2.AsyncHTTPTransport(
                limits=httpx2.Limits(max_keepalive_connections=0), socket_options=[_RESET], verify=False
            ),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close idle connections."""
        await self._http.aclose()

    async def stream(self, question: Question, place: Place | None = None) -> Stream:
        """Answer; see `Backend.stream`. With a place, in its slot, and giving way when its turn is over."""
        messages = [{"role": m.role.value, "content": m.content} for m in question.messages]
        draft = _Draft((await self._post("/apply-template", {"messages": messages}))["prompt"])
        if place is not None and question.constraint is not None:
            place.gives_way = False  # a grammar begins at its beginning, so it cannot go on in a later turn
        while draft.reason is None:
            if draft.told >= question.max_tokens:  # interrupted just before its end
                draft.reason = FinishReason.LENGTH
                break
            if place is not None and draft.rounds:
                await place.next_turn()
            async with aclosing(self._round(question, draft, place)) as pieces:
                async for token in pieces:
                    yield token
        yield Finished(draft.reason, draft.usage)

    async def probe(self, adapters: tuple[float, ...], place: Place) -> bool:
        """Return whether a few tokens under these adapters have log-probabilities that are numbers.

        Raises:
            BackendDownError: the engine died of it.

        """
        slot = place.slot(_PROBE_PROMPT, adapters)
        body = {
            "prompt": _PROBE_PROMPT,
            "n_predict": PROBE_TOKENS,
            "n_probs": 1,
            "temperature": 0,
            "ignore_eos": True,
            "id_slot": slot.number,
            "lora": [{"id": i, "scale": scale} for i, scale in enumerate(adapters)],
        }
        if place.swap is not None:  # the slot may hold what others want again
            await place.swap.settle(slot, place, adapters, _PROBE_PROMPT, self._post)
        reply = await self._post("/completion", body)
        slot.adapter, slot.text, slot.holds = None, "", None  # what it holds now is of use to nobody
        entries = reply.get("completion_probabilities") or ()
        return len(entries) == PROBE_TOKENS and math.isfinite(_logprob(reply))

    async def fill(self, slot: int) -> None:
        """Have a slot read something; see `interlude`. An engine that cannot is found out by others."""
        with suppress(PointsmanError, TimeoutError):
            async with asyncio.timeout(_FILLS_WITHIN_S):
                await self._post("/completion", {"prompt": BALLAST, "n_predict": 0, "id_slot": slot})

    async def _round(
        self, question: Question, draft: _Draft, place: Place | None
    ) -> AsyncGenerator[Token, None]:
        self._ensure_open()  # before a slot is settled, which is one of the next engine by now
        left = question.max_tokens - draft.told
        limit = place.round_tokens(left) if place is not None else left
        this = _Round(draft.told, limit, is_last=limit == left)
        draft.rounds += 1
        body = self._body(question, draft, limit)
        slot = place.slot(draft.prompt, question.adapters) if place is not None else None
        if place is not None and slot is not None:
            body["id_slot"] = slot.number
            if place.swap is not None:
                await place.swap.settle(slot, place, question.adapters, draft.prompt, self._post)
        with _heard_of_who_leaves(this, place, self._post):
            async with aclosing(self._chunks(body, this)) as chunks:
                chunk = await _first(chunks, this, place)
                while chunk is not None:
                    if slot is not None:
                        _hold(slot, question.adapters, draft.prompt, chunk, place)
                    self._count(chunk, draft, this, place)
                    this.held += _tokens(chunk)
                    this.held_logprob += _logprob(chunk)
                    this.ended = bool(chunk.get("stop"))
                    if text := chunk.get("content"):
                        logprob = this.held_logprob if question.logprobs else None
                        await self._keep(text, draft, this, place)
                        yield Token(text, logprob)
                    if this.ended:
                        break
                    this.interrupted = place is not None and place.turn_is_over and place.gives_way
                    chunk = None if this.interrupted else await _next(chunks, place)
                else:
                    this.interrupted = place is not None and place.turn_is_over
                    if not this.interrupted:
                        raise BackendDownError(
                            f"{self._name} ended its stream without finishing the answer",
                            retry_after_s=_RETRY_S,
                        )
        if place is not None and this.made >= limit and draft.told == this.begun_with:
            place.gives_way = False  # the engine holds back more text than so short a round can end

    def _count(self, chunk: dict[str, Any], draft: _Draft, this: _Round, place: Place | None) -> None:
        made = chunk.get("tokens_predicted", 0)
        timings = chunk.get("timings") or {}
        if made and not this.made and place is not None:
            place.read(timings.get("prompt_n", 0), timings.get("prompt_ms", 0.0) / 1e3)
        if made > this.made:
            if place is not None:
                place.round_left = this.limit - made
                place.said(made - this.made)
            this.made = made
        if draft.usage.prompt_tokens == 0:  # what the first round found in the cache counts, and no later one
            seen = chunk.get("prompt_progress") or {}
            prompt = seen.get("total", chunk.get("tokens_evaluated", 0))
            draft.usage = Usage(prompt, 0, max(0, seen.get("cache", timings.get("cache_n", 0))))
        total = this.begun_with + this.made
        draft.usage = Usage(draft.usage.prompt_tokens, total, draft.usage.cached_tokens)
        if chunk.get("stop"):
            ended_at_limit = chunk.get("stop_type") == "limit"
            if not ended_at_limit:
                draft.reason = FinishReason.STOP
            elif this.is_last:
                draft.reason = FinishReason.LENGTH

    async def _keep(self, text: str, draft: _Draft, this: _Round, place: Place | None) -> None:
        """Add the tokens of a piece of text to what was said."""
        tokens, count = this.held, this.made - this.told
        if len(tokens) != count and place is not None and place.gives_way:
            # Of a character of several tokens the engine tells the last one only; the others are had by
            # asking how it would write the text. Some tokenizers write a space before it, which is cut off.
            tokens = (await self._post("/tokenize", {"content": text, "add_special": False}))["tokens"]
            if tokens[-1:] == this.held[-1:] and len(tokens) > count:
                tokens = tokens[-count:]
        draft.told += count
        draft.said += tokens
        this.held, this.held_logprob, this.told = [], 0.0, this.made

    def _body(self, question: Question, draft: _Draft, limit: int) -> dict[str, Any]:
        optional = {
            "temperature": question.temperature,
            "top_p": question.top_p,
            "seed": None if question.seed is None else question.seed + draft.rounds - 1,
            "stop": list(question.stop) or None,
            "n_probs": 1 if question.logprobs else None,
        }
        body: dict[str, Any] = {
            "prompt": [draft.prompt, *draft.said] if draft.said else draft.prompt,
            "n_predict": limit,
            "stream": True,
            "return_tokens": True,
            "timings_per_token": True,
            "return_progress": True,  # while a prompt is read, each of these is where an interruption is noticed
        }
        body |= {key: value for key, value in optional.items() if value is not None}
        if question.adapters is not None:
            body["lora"] = [{"id": i, "scale": scale} for i, scale in enumerate(question.adapters)]
        if question.constraint is not None:
            body |= question.constraint.fields
        return body

    async def _chunks(self, body: dict[str, Any], this: _Round) -> AsyncGenerator[dict[str, Any], None]:
        self._ensure_open()
        try:
            async with self._http.stream("POST", "/completion", json=body) as response:
                this.heard = True
                if not response.is_success:
                    raise self._refusal(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if line.startswith(_EVENT):
                        chunk = json.loads(line.removeprefix(_EVENT))
                        if "error" in chunk:
                            raise BackendDownError(f"{self._name} failed within the answer: {_said(chunk)}")
                        yield chunk
        except httpx2.HTTPError as error:
            raise self._translate(error) from error
        except ValueError as error:  # not JSON, not UTF-8
            raise BackendDownError(f"{self._name} sent what is no stream of an answer") from error

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        self._ensure_open()
        try:
            response = await self._http.post(path, json=body)
            if not response.is_success:
                raise self._refusal(response.status_code, response.content)
            return response.json()
        except httpx2.HTTPError as error:
            raise self._translate(error) from error
        except ValueError as error:
            raise BackendDownError(f"{self._name} answered {path} with what is no JSON") from error

    def _ensure_open(self) -> None:
        if self._http.is_closed:  # its engine ended a moment ago
            raise BackendDownError(f"{self._name} is gone", retry_after_s=_RETRY_S)

    def _translate(self, error: httpx2.HTTPError) -> BackendDownError:
        if isinstance(error, httpx2.ConnectError):
            return BackendDownError(f"{self._name} cannot be reached: {error}", retry_after_s=_RETRY_S)
        if isinstance(error, httpx2.TimeoutException):
            return BackendDownError(f"{self._name} did not answer in time", retry_after_s=_RETRY_S)
        return BackendDownError(
            f"{self._name} broke off within the answer: {type(error).__name__}", retry_after_s=_RETRY_S
        )

    def _refusal(self, status: int, content: bytes) -> Exception:
        try:
            reason = _said(json.loads(content))
        except ValueError:
            reason = "no reason given"
        said = f"{self._name} answered {status}: {reason}"
        if status in {400, 413, 422}:
            return InvalidRequestError("messages", said, logged=f"{self._name} answered {status}")
        if status == 429:
            return OverloadedError(said, _RETRY_S)
        return BackendDownError(said, retry_after_s=_RETRY_S)


@contextmanager
def _heard_of_who_leaves(this: _Round, place: Place | None, post: Post) -> Iterator[None]:
    """Let the engine hear soon of a caller who leaves a round before its end."""
    try:
        yield
    except (GeneratorExit, asyncio.CancelledError):
        if place is not None and this.heard and not this.ended:
            place.stream_closed(post)
        raise


async def _first(
    chunks: AsyncIterator[dict[str, Any]], this: _Round, place: Place | None
) -> dict[str, Any] | None:
    """Return the first piece, with which the engine says that it has begun.

    Where caches are swapped, that is waited for whatever comes. Else the engine may begin a request that was given
    up after the next one's, and its slot holds what nobody knows of.
    """
    swap = place.swap if place is not None else None
    if swap is None or not swap.working:
        return await _next(chunks, place)
    reading = asyncio.ensure_future(_next(chunks, None))
    try:
        await ended(reading, _BEGINS_WITHIN_S)
        return reading.result()
    except BaseException as error:  # also a caller who leaves: what the engine does now is not known
        if not this.heard:
            swap.distrust(str(error) or "a request was given up before the engine began with it")
        raise


def _hold(
    slot: Slot, adapters: tuple[float, ...] | None, prompt: str, chunk: dict[str, Any], place: Place | None
) -> None:
    """Note what a slot holds: while a prompt is read, what was read of it."""
    if slot.holds is None:
        slot.holds = Held(adapters, "", place)
    seen = chunk.get("prompt_progress") or {}
    read = seen.get("processed", 1) / max(1, seen.get("total", 1))
    slot.holds.text = max(slot.holds.text, prompt[: int(len(prompt) * read)], key=len)


async def _next(chunks: AsyncIterator[dict[str, Any]], place: Place | None) -> dict[str, Any] | None:
    """Return the next piece; None at the end, and when the turn is over meanwhile."""
    if place is None:
        return await anext(chunks, None)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(None) as waiting:
            place.interrupt = lambda: waiting.reschedule(loop.time())
            try:
                return await anext(chunks, None)
            finally:
                place.interrupt = None
    except TimeoutError:
        return None


def _tokens(chunk: dict[str, Any]) -> list[int]:
    """Return the tokens of a piece. One that tells how far the prompt is read names a token 0, which nobody said."""
    return chunk.get("tokens", []) if chunk.get("tokens_predicted") else []


def _logprob(chunk: dict[str, Any]) -> float:
    """Return the sum over the tokens of a piece; 0 where it has none, or nobody asked."""
    # Null is an engine's way of saying that a probability was not a number: no confidence at all.
    values = [entry.get("logprob") for entry in chunk.get("completion_probabilities") or ()]
    finite = all(value is not None and math.isfinite(value) for value in values)
    return sum(values) if finite else float("-inf")


def _said(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message)[:300] if message else "no reason given"
