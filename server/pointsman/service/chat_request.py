"""The body of a chat completion to a request. What cannot be honoured is refused, not dropped."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from pointsman.errors import InvalidRequestError, UnknownNameError
from pointsman.service.convert import (
    MAX_NAME,
    MAX_STOP,
    MAX_STOPS,
    Limits,
    check_caller,
    check_count,
    check_messages,
    check_session,
)
from pointsman.values.catalog import Catalog
from pointsman.values.request import Constraints, Message, Request, Role, Sampling, Tier

AUTO = "auto"
_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_MAX_PARTS = 256
_SPARE_VALUES = 1024
_SHOWN = 80

Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
Name = Annotated[str, Field(max_length=MAX_NAME)]


def _unsupported(value: object) -> None:
    """Refuse what says something."""
    if value not in (None, [], {}):
        raise PydanticCustomError("refused", "is not supported here")


Unsupported = Annotated[None, BeforeValidator(_unsupported)]


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    # Of a list, the first fault is told of: a fault costs a kilobyte, and a body has room for a million.
    content: str | Annotated[list[_Part], Field(max_length=_MAX_PARTS, fail_fast=True)]
    tool_calls: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None

    @property
    def text(self) -> str:
        return (
            self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        )


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Format(BaseModel):
    type: Literal["text"]


class _Ours(BaseModel):
    """What chat completions have no field for; `extra_body={"pointsman": {…}}` in the client of OpenAI."""

    session_id: Annotated[str, Field(max_length=128)] = ""
    task_type: Name | None = None
    tier: Tier | None = None
    local_only: bool = False
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class _Body(BaseModel):
    """Fields that are read. Others are refused, but for those that say nothing of the answer."""

    model: Name = AUTO
    messages: Annotated[list[_Message], Field(fail_fast=True)]  # their number is a setting: see `_body`
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    logprobs: bool | None = False
    top_logprobs: Literal[0] | None = None
    n: Literal[1] | None = 1
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    response_format: _Format | None = None
    pointsman: _Ours = _Ours()


_REFUSED = (
    "tools", "tool_choice", "functions", "function_call", "logit_bias", "audio", "modalities", "prediction",
    "web_search_options", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity", "store",
    "moderation",
)  # fmt: skip
"""Fields of chat completions that would change the answer or what becomes of it, and are not supported."""
_IGNORED = (
    "user", "safety_identifier", "metadata", "service_tier", "parallel_tool_calls", "prompt_cache_key",
    "prompt_cache_retention", "prompt_cache_options",
)  # fmt: skip
"""Fields of chat completions that say nothing of the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and how it is to be answered."""

    request: Request
    stream: bool
    include_usage: bool


def asked_of(
    content: bytes,
    catalog: Catalog,
    cloud_models: Sequence[str],
    limits: Limits,
    request_id: str,
    caller: str,
) -> Asked:
    """Check a body and return what it asks.

    `model` is `auto`, a specialist's name, or the name of a model of the cloud.

    Raises:
        InvalidRequestError: names the field and the value.
        UnknownNameError: no such model.

    """
    body = _body(_fields(content, limits), limits)
    messages = tuple(Message(_ROLES[message.role], message.text) for message in body.messages)
    check_messages(messages, limits)
    check_caller(caller)
    ours = body.pointsman
    check_session(ours.session_id)
    sampling = Sampling(
        temperature=body.temperature,
        top_p=body.top_p,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        logprobs=bool(body.logprobs),
    )
    specialist, tier = _model(body.model, catalog, cloud_models)
    constraints = Constraints(
        specialist=specialist,
        tier=ours.tier or tier,
        task_type=ours.task_type,
        local_only=ours.local_only,
        output_tokens=sampling.max_tokens or 0,
    )
    request = Request(
        messages=messages,
        constraints=constraints,
        sampling=sampling,
        request_id=request_id,
        session_id=ours.session_id,
        caller=caller,
        budget_s=ours.deadline_s,
        hold_back=bool(body.stream),
        hold_all=True,
    )
    include = body.stream_options is not None and body.stream_options.include_usage
    return Asked(request, bool(body.stream), include)


def _model(name: str, catalog: Catalog, cloud_models: Sequence[str]) -> tuple[str | None, Tier | None]:
    if name == AUTO:
        return None, None
    if catalog.specialist(name) is not None:
        return name, None
    if name in cloud_models:
        return None, Tier.CLOUD if name == cloud_models[0] else Tier.MID
    raise UnknownNameError("model", name, [AUTO, *(s.name for s in catalog.specialists), *cloud_models])


def _fields(content: bytes, limits: Limits) -> dict[str, Any]:
    # Each value of JSON takes a hundred bytes of memory, and two of the body. A conversation within its limits has
    # no more of these signs than bytes; what has more is not parsed.
    if sum(map(content.count, b"{[,")) > limits.prompt_bytes + _SPARE_VALUES:
        text = f"more values than a conversation of {limits.prompt_bytes} bytes has (server.max_prompt_bytes)"
        raise InvalidRequestError("", f"the body holds {text}")
    try:
        fields: Any = json.loads(content)
        json.dumps(fields, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidRequestError("", "a text of the body is not Unicode: half of a surrogate pair") from None
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequestError("", f"the body is not JSON: {reason}") from None
    if not isinstance(fields, dict):
        raise InvalidRequestError("", f"the body must be a JSON object (got {type(fields).__name__})")
    return fields


def _body(fields: dict[str, Any], limits: Limits) -> _Body:
    if isinstance(messages := fields.get("messages"), list):
        check_count(len(messages), limits)
    for name in _REFUSED:
        if fields.pop(name, None) not in (None, 0, [], {}, "none", ["text"]):
            raise InvalidRequestError(name, "is not supported here")
    for name in (
        *_Ours.model_fields,
        "constraints",
    ):  # what keeps a conversation here must not be passed over
        if name in fields:
            raise InvalidRequestError(name, f"belongs under 'pointsman': {{'pointsman': {{{name!r}: …}}}}")
    _ensure_known(fields, {*_Body.model_fields, *_IGNORED}, "")
    if isinstance(ours := fields.get("pointsman"), dict):
        _ensure_known(ours, set(_Ours.model_fields), "pointsman.")
    try:
        return _Body.model_validate(fields)
    except ValidationError as error:
        # Of a text or a list, both kinds are told of: the fault that lies deepest, or is none of kind, was meant.
        first = max(
            error.errors(include_url=False), key=lambda i: (len(i["loc"]), not i["type"].endswith("_type"))
        )
        field = re.sub(r"\.(str|constrained-str|list\[.*?\])(?=\.|$)", "", ".".join(map(str, first["loc"])))
        raise InvalidRequestError(field, f"{first['msg']}{_shown(first)}") from None


def _ensure_known(fields: dict[str, Any], known: set[str], path: str) -> None:
    """Refuse the first field that is not known. Said here, not by the models, which would tell of a million."""
    unknown = next((name for name in fields if name not in known), None)
    if unknown is not None:
        raise InvalidRequestError(f"{path}{unknown[:_SHOWN]}", "is no field that is known here")


def _shown(item: ErrorDetails) -> str:
    """Return a value that may be told: never what could be a part of the conversation."""
    told = item["loc"][0] != "messages" or item["loc"][-1] in {"role", "type"}
    if item["type"] == "missing" or not told:
        return ""
    return f" (got {str(item['input'])[:_SHOWN]!r})"
