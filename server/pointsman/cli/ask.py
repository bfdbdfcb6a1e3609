"""`route` and `generate`: the same question, asked of a running server or of this process."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict

from pointsman.client import AsyncClient, constraints, messages
from pointsman.errors import InvalidRequestError
from pointsman.v1 import router_pb2 as pb


class _Asker(Protocol):
    async def route(self, conversation: str, rules: pb.Constraints) -> pb.RouteResponse: ...

    def generate(
        self, conversation: str, rules: pb.Constraints, sampling: pb.Sampling
    ) -> AsyncGenerator[pb.GenerateResponse, None]: ...


class _InProcess:
    """Answers from a core in this process, in the words of the wire."""

    def __init__(self, core: Any, limits: Any) -> None:
        self._core = core
        self._limits = limits

    async def route(self, conversation: str, rules: pb.Constraints) -> pb.RouteResponse:
        from pointsman.service.convert import request_of, route_message

        request = pb.RouteRequest(messages=messages(conversation), constraints=rules)
        return route_message(await self._core.answers.route(request_of(request, self._limits, "cli")))

    async def generate(
        self, conversation: str, rules: pb.Constraints, sampling: pb.Sampling
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        from pointsman.service.convert import event_message, request_of

        request = pb.GenerateRequest(messages=messages(conversation), constraints=rules, sampling=sampling)
        asked = request_of(request, self._limits, "cli")
        async with aclosing(self._core.answers.generate(asked)) as events:
            async for event in events:
                yield event_message(event)


def rules_of(specialist: str, tier: str, task_type: str, local_only: bool) -> pb.Constraints:
    """Return the rules of the command line.

    Raises:
        InvalidRequestError: a tier that does not exist.

    """
    try:
        return constraints(specialist=specialist, tier=tier, task_type=task_type, local_only=local_only)
    except ValueError:
        raise InvalidRequestError("tier", f"--tier is local or cloud (got {tier!r})") from None


def sampling_of(max_tokens: int | None, temperature: float | None, seed: int | None) -> pb.Sampling:
    """Return the sampling of the command line."""
    return pb.Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)


async def print_route(
    text: str, rules: pb.Constraints, address: str, config: Path | None, *, as_json: bool
) -> None:
    """Print where a prompt goes, and why."""
    async with _open(address, config, engines=False) as asker:
        response = await asker.route(text, rules)
    if as_json:
        print(json.dumps(_plain(response), indent=2, ensure_ascii=False))
        return
    decision = response.decision
    print(_headline(decision))
    print(f"  {decision.explanation}")
    for neighbor in decision.neighbors:
        print(f"  {neighbor.similarity:6.3f}  {neighbor.exemplar_id:28} {neighbor.text}")
    timings = response.timings
    print(f"  {timings.total_ms:.1f} ms (embed {timings.embed_ms:.1f}, search {timings.search_ms:.1f})")


async def print_answer(
    text: str,
    rules: pb.Constraints,
    sampling: pb.Sampling,
    address: str,
    config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print an answer as it comes."""
    async with (
        _open(address, config, engines=True) as asker,
        aclosing(asker.generate(text, rules, sampling)) as events,
    ):
        async for event in events:
            if as_json:
                print(json.dumps(_plain(event), ensure_ascii=False), flush=True)
            else:
                _print_event(event)


def _print_event(event: pb.GenerateResponse) -> None:
    match event.WhichOneof("event"):
        case "decision":
            print(f"{_headline(event.decision)}\n{event.decision.explanation}", file=sys.stderr)
        case "escalation":
            print(f"{_headline(event.escalation.decision)}\n{event.escalation.explanation}", file=sys.stderr)
        case "token":
            print(event.token.text, end="", flush=True)
        case "done":
            print(flush=True)
            done = event.done
            seconds = max(1e-9, (done.timings.total_ms - done.timings.ttft_ms) / 1e3)
            rate = max(0, done.usage.completion_tokens - 1) / seconds
            print(
                f"{done.usage.completion_tokens} tokens, first after {done.timings.ttft_ms:.0f} ms, "
                f"then {rate:.0f} tokens/s; {done.usage.prompt_tokens} prompt tokens, "
                f"{done.usage.cached_tokens} cached",
                file=sys.stderr,
            )


def _headline(decision: pb.Decision) -> str:
    tier = pb.Tier.Name(decision.tier).removeprefix("TIER_").lower()
    who = decision.specialist or decision.model
    reason = pb.DecisionReason.Name(decision.reason).removeprefix("DECISION_REASON_").lower()
    return (
        f"{tier}: {who} ({reason}, intent {decision.intent or 'none'}, similarity {decision.similarity:.3f})"
    )


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@asynccontextmanager
async def _open(address: str, config: Path | None, *, engines: bool) -> AsyncGenerator[_Asker, None]:
    if address:
        async with AsyncClient(address) as client:
            yield client
        return
    from pointsman.host.logs import configure_logs
    from pointsman.host.progress import fetch_progress
    from pointsman.host.serve import open_core
    from pointsman.service.convert import Limits
    from pointsman.settings import load

    settings = load(config)
    configure_logs(settings.log.model_copy(update={"level": "error"}))
    with fetch_progress() as progress:
        async with open_core(settings, progress, engines=engines) as core:
            yield _InProcess(core, Limits(settings.server.max_prompt_bytes, settings.server.max_messages))
