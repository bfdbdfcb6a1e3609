"""The OpenAI chat-completions protocol, spoken to local engines and the cloud alike."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDelta

from pointsman.errors import BackendDownError, InvalidRequestError, OverloadedError, PointsmanError
from pointsman.generation.backend import Question, Stream
from pointsman.values.events import Finished, FinishReason, Token, Usage

_FINISH = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
_TOO_LONG = "refuses the conversation, which may be too long for it"
_REFUSALS = {
    400: _TOO_LONG,
    401: "does not let this service in",
    403: "does not let this service in",
    404: "has not what it was asked for",
    413: _TOO_LONG,
    422: _TOO_LONG,
    429: "is asked too much",
}
"""What callers are told of a status: what an endpoint itself says may name accounts, keys and addresses."""
_HINTS = {
    301: "it sends elsewhere, where no conversation is sent; check cloud.base_url",
    401: "it refuses our key; check cloud.api_key",
    403: "it refuses our key; check cloud.api_key",
    404: "check cloud.base_url and cloud.model",
}
_HINTS |= dict.fromkeys((302, 303, 307, 308), _HINTS[301])
_MOST_SAID = 300
_DEFAULT_RETRY_S = 1.0
_LONGEST_RETRY_S = 3600.0

Again = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Sending:
    """The requests that the official client sends for one question, and what is to be done before each but the first."""

    again: Again | None
    sent: int = 0
    at: float = 0.0
    """When the last one was sent, by the clock of the loop."""

    @property
    def retries(self) -> int:
        return max(0, self.sent - 1)

    def failed(self, why: str, retry_after_s: float | None = None) -> BackendDownError:
        error = BackendDownError(why, retry_after_s=retry_after_s)
        error.retries = self.retries
        return error


_sending: ContextVar[_Sending | None] = ContextVar("sending", default=None)


class ChatClient:
    """One endpoint. Tries again only before the first token: the official client's retries end there."""

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        api_key: str,
        *,
        connect_s: float,
        read_s: float,
        retries: int,
        limit_field: str = "max_tokens",
        ours: bool = False,
    ) -> None:
        """Speak to `base_url`; `name` is what errors call it. No connection is made yet.

        ours: whether it is an engine of this service, whose words callers may read
        read_s: the longest wait for the first token, and from one to the next, whatever else is sent meanwhile
        """
        self._name = name
        self._ours = ours
        self._read_s = read_s
        self._model = model
        self._limit_field = limit_field
        timeout = httpx2.Timeout(read_s, connect=connect_s)
        loopback = base_url.startswith("http://127.")
        # Proxies of the environment, certificates and kept connections are for the cloud. On loopback a new
        # connection is cheap, and an engine that closes an idle one just as it is used again fails a request.
        limits = httpx2.Limits(max_keepalive_connections=0) if loopback else openai.DEFAULT_CONNECTION_LIMITS
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout,
            limits=limits,
            trust_env=not loopback,
            verify=not loopback,
            follow_redirects=False,  # 307 and 308 would send the conversation to another host
            event_hooks={"request": [_before]},
        )
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            max_retries=retries,
            timeout=timeout,
            http_client=http,
        )

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.close()

    async def stream(self, question: Question, again: Again | None = None) -> Stream:
        """Answer; see `Backend.stream`. `again` is called before the question is sent another time."""
        finish: FinishReason | None = None
        usage = Usage()
        sending = _Sending(again)
        try:
            entered = _sending.set(sending)
            try:
                raw = await self._client.chat.completions.with_raw_response.create(
                    **self._arguments(question)
                )
            finally:
                _sending.reset(entered)
            response = raw.parse()
            async with response:
                chunks, due = aiter(response), sending.at + self._read_s
                while chunk := await self._next(chunks, due, sending, finished=finish is not None):
                    usage = _usage(chunk) or usage
                    for choice in chunk.choices or ():
                        if choice.delta and choice.delta.content:
                            yield Token(choice.delta.content, _logprob(choice))
                        if choice.finish_reason:
                            finish = _FINISH.get(choice.finish_reason, FinishReason.STOP)
                        if choice.finish_reason or _says(choice.delta):
                            due = asyncio.get_running_loop().time() + self._read_s
        except openai.APIError as error:
            told = self._translate(error)
            told.retries = sending.retries
            raise told from error
        except httpx2.HTTPError as error:  # a connection that broke within the answer
            why = f"{self._name} broke off within the answer: {type(error).__name__}"
            raise sending.failed(why, _DEFAULT_RETRY_S) from error
        except ValueError as error:  # not JSON, not UTF-8
            raise sending.failed(f"{self._name} sent what is no chat-completions stream") from error
        if finish is None:
            why = f"{self._name} ended its stream without finishing the answer"
            raise sending.failed(why, _DEFAULT_RETRY_S)
        yield Finished(finish, usage, raw.retries_taken)

    async def _next(
        self, chunks: AsyncIterator[ChatCompletionChunk], due: float, sending: _Sending, *, finished: bool
    ) -> ChatCompletionChunk | None:
        """Return the next chunk, None after the last. Comments keep a connection alive, not an answer."""
        try:
            async with asyncio.timeout_at(due):
                return await anext(chunks, None)
        except TimeoutError:
            if finished:  # what follows is nothing that anybody waits for
                return None
            why = f"{self._name} sent no token for {self._read_s:g} s: it did not answer in time"
            raise sending.failed(why, _DEFAULT_RETRY_S) from None

    def _arguments(self, question: Question) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": m.role.value, "content": m.content} for m in question.messages],
            self._limit_field: question.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        optional = {
            "temperature": question.temperature,
            "top_p": question.top_p,
            "seed": question.seed,
            "stop": list(question.stop) or None,
        }
        arguments |= {key: value for key, value in optional.items() if value is not None}
        if question.logprobs:
            arguments |= {"logprobs": True, "top_logprobs": 1}
        if question.adapters is not None:
            lora = [{"id": i, "scale": scale} for i, scale in enumerate(question.adapters)]
            arguments["extra_body"] = {"lora": lora}
        return arguments

    def _translate(self, error: openai.APIError) -> PointsmanError:
        if isinstance(error.__cause__, PointsmanError):  # ours, of what is done before a request
            return error.__cause__
        if isinstance(error, openai.APITimeoutError):
            return BackendDownError(f"{self._name} did not answer in time", retry_after_s=_DEFAULT_RETRY_S)
        if isinstance(error, openai.APIConnectionError):
            return BackendDownError(
                f"{self._name} cannot be reached: {error.__cause__ or error}",
                retry_after_s=_DEFAULT_RETRY_S,
                public=f"{self._name} cannot be reached",
            )
        if isinstance(error, openai.APIStatusError):
            return self._translate_status(error)
        said = str(error.message)[:_MOST_SAID]
        failed = BackendDownError(f"{self._name} failed within the answer{f': {said}' if self._ours else ''}")
        failed.said = said
        return failed

    def _translate_status(self, error: openai.APIStatusError) -> PointsmanError:
        status, said = error.status_code, _message(error.body)
        hint = "" if self._ours else _HINTS.get(status, "")
        whole = f"{self._name} answered {status}{f': {said}' if self._ours else ''}{hint and f' ({hint})'}"
        told: PointsmanError
        if status == 429:
            told = OverloadedError(whole, _retry_after(error.response.headers))
        elif status in {400, 413, 422}:
            told = InvalidRequestError("messages", whole, logged=f"{self._name} answered {status}")
        elif status in _HINTS:
            told = BackendDownError(whole, permanent=True)
        else:
            told = BackendDownError(whole, retry_after_s=_retry_after(error.response.headers))
        told.said = said
        if not self._ours:
            told.public = f"{self._name} {_REFUSALS.get(status, 'failed')} ({status})"
        return told


async def _before(_: httpx2.Request) -> None:
    sending = _sending.get()
    if sending is None:
        return
    sending.sent += 1
    if sending.sent > 1 and sending.again is not None:
        await sending.again()
    sending.at = asyncio.get_running_loop().time()


def _says(delta: ChoiceDelta | None) -> bool:
    """Return whether a piece brings an answer on: by text, or by thoughts, which have no field of their own."""
    if delta is None:
        return False
    return bool(delta.content or delta.refusal or delta.tool_calls or any((delta.model_extra or {}).values()))


def _usage(chunk: ChatCompletionChunk) -> Usage | None:
    if chunk.usage is None:
        return None
    details = chunk.usage.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details else 0
    return Usage(chunk.usage.prompt_tokens, chunk.usage.completion_tokens, cached)


def _logprob(choice: Any) -> float | None:
    if choice.logprobs is None or not choice.logprobs.content:
        return None
    # One piece of text may join several tokens; its logarithm is their sum. Null is an engine's way of
    # saying that a probability was not a number: no confidence at all.
    values = [entry.logprob for entry in choice.logprobs.content]
    return sum(values) if all(value is not None for value in values) else float("-inf")


def _message(body: object) -> str:
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        if isinstance(inner, Mapping) and inner.get("message"):
            return str(inner["message"])[:_MOST_SAID]
    return "no reason given"  # what has another shape may quote the prompt


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        seconds = float(headers.get("retry-after", _DEFAULT_RETRY_S))
    except ValueError:  # an HTTP date; not worth a parser
        return _DEFAULT_RETRY_S
    return min(max(0.0, seconds), _LONGEST_RETRY_S) if math.isfinite(seconds) else _DEFAULT_RETRY_S
