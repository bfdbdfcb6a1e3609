"""`route` and `generate`: the same question, asked of a running server or of this process."""

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict

from pointsman.client import Access, AsyncClient, constraints, messages
from pointsman.errors import ConfigError, InvalidRequestError
from pointsman.v1 import router_pb2 as pb


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, by whom, and within which conversation."""

    text: str
    rules: pb.Constraints
    session: str = ""
    caller: str = ""
    hold_back: bool = False


class _Asker(Protocol):
    async def route(
        self, conversation: str, rules: pb.Constraints, *, session_id: str
    ) -> pb.RouteResponse: ...

    def generate(
        self,
        conversation: str,
        rules: pb.Constraints,
        sampling: pb.Sampling,
        *,
        session_id: str,
        hold_back: bool,
    ) -> AsyncGenerator[pb.GenerateResponse, None]: ...


class _InProcess:
    """Answers from a core in this process, in the words of the wire."""

    def __init__(self, core: Any, limits: Any, caller: str) -> None:
        self._core = core
        self._limits = limits
        self._caller = caller

    async def route(self, conversation: str, rules: pb.Constraints, *, session_id: str) -> pb.RouteResponse:
        from pointsman.service.convert import request_of, route_message

        request = pb.RouteRequest(messages=messages(conversation), constraints=rules, session_id=session_id)
        asked = request_of(request, self._limits, "cli", caller=self._caller)
        return route_message(await self._core.answers.route(asked))

    async def generate(
        self,
        conversation: str,
        rules: pb.Constraints,
        sampling: pb.Sampling,
        *,
        session_id: str,
        hold_back: bool,
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        from pointsman.service.convert import event_message, request_of

        request = pb.GenerateRequest(
            messages=messages(conversation),
            constraints=rules,
            sampling=sampling,
            session_id=session_id,
            hold_back=hold_back,
        )
        asked = request_of(request, self._limits, "cli", caller=self._caller)
        async with aclosing(self._core.answers.generate(asked)) as events:
            async for event in events:
                yield event_message(event)


def rules_of(
    specialist: str, tier: str, task_type: str, local_only: bool, output_tokens: int
) -> pb.Constraints:
    """Return the rules of the command line.

    Raises:
        InvalidRequestError: a tier that does not exist.

    """
    try:
        return constraints(
            specialist=specialist,
            tier=tier,
            task_type=task_type,
            local_only=local_only,
            output_tokens=output_tokens,
        )
    except UnicodeError:  # of any option; it has its own line
        raise
    except ValueError:
        message = f"--tier is local, mid or cloud (got {tier!r})"
        raise InvalidRequestError("tier", message) from None


def sampling_of(max_tokens: int | None, temperature: float | None, seed: int | None) -> pb.Sampling:
    """Return the sampling of the command line."""
    return pb.Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)


async def print_route(question: Question, address: str, config: Path | None, *, as_json: bool) -> None:
    """Print where a prompt goes, and why."""
    async with _open(address, config, question.caller, engines=False) as asker:
        response = await asker.route(question.text, question.rules, session_id=question.session)
    if as_json:
        print(json.dumps(_plain(response), indent=2, ensure_ascii=False))
        return
    decision = response.decision
    print(_headline(decision))
    print(f"  {decision.explanation}")
    if decision.HasField("difficulty"):
        print(f"  {_difficulty(decision.difficulty)}")
    for neighbor in decision.neighbors:
        print(f"  {neighbor.similarity:6.3f}  {neighbor.exemplar_id:28} {neighbor.text}")
    timings = response.timings
    print(f"  {timings.total_ms:.1f} ms (embed {timings.embed_ms:.1f}, search {timings.search_ms:.1f})")


async def print_answer(
    question: Question, sampling: pb.Sampling, address: str, config: Path | None, *, as_json: bool
) -> None:
    """Print an answer as it comes."""
    async with (
        _open(address, config, question.caller, engines=True) as asker,
        aclosing(
            asker.generate(
                question.text,
                question.rules,
                sampling,
                session_id=question.session,
                hold_back=question.hold_back,
            )
        ) as events,
    ):
        said = ""
        async for event in events:
            if as_json:
                print(json.dumps(_plain(event), ensure_ascii=False), flush=True)
            else:
                said = _print_event(event, said)


def _print_event(event: pb.GenerateResponse, said: str) -> str:
    """Print an event after the text `said`; returns the text that stands.

    What is printed cannot be taken back: where some of it is retracted, what stands is printed anew on a line
    of its own.
    """
    match event.WhichOneof("event"):
        case "decision":
            print(f"{_headline(event.decision)}\n{event.decision.explanation}", file=sys.stderr)
        case "escalation":
            escalation = event.escalation
            stands = said[: escalation.retract_from]
            if len(stands) < len(said):
                print(flush=True)
                print(f"-- retracted {len(said) - len(stands)} characters", file=sys.stderr)
            print(f"{_headline(escalation.decision)}\n{escalation.explanation}", file=sys.stderr, flush=True)
            if len(stands) < len(said):
                print(stands, end="", flush=True)
            return stands
        case "token":
            print(event.token.text, end="", flush=True)
            return said + event.token.text
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
            if done.HasField("confidence") or done.low_confidence:
                sure = f"confidence {done.confidence:.3f}" if done.HasField("confidence") else "not judged"
                print(sure + (", low: use with care" if done.low_confidence else ""), file=sys.stderr)
    return said


def _headline(decision: pb.Decision) -> str:
    tier = pb.Tier.Name(decision.tier).removeprefix("TIER_").lower()
    who = decision.specialist or decision.model
    reason = pb.DecisionReason.Name(decision.reason).removeprefix("DECISION_REASON_").lower()
    because = [] if decision.reason == pb.DECISION_REASON_RULE else [reason]
    because += [f"rule {decision.rule}"] if decision.rule else []
    because += [f"intent {decision.intent or 'none'}", f"similarity {decision.similarity:.3f}"]
    return f"{tier}: {who} ({', '.join(because)})"


def _difficulty(difficulty: pb.Difficulty) -> str:
    if not difficulty.HasField("threshold"):
        return f"difficulty {difficulty.score:.3f}, not calibrated for this topic"
    return f"difficulty {difficulty.score:.3f}, local up to {difficulty.threshold:.3f}"


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


@asynccontextmanager
async def _open(
    address: str, config: Path | None, caller: str, *, engines: bool
) -> AsyncGenerator[_Asker, None]:
    if address:
        async with _client(address, caller) as client:
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
            limits = Limits(settings.server.max_prompt_bytes, settings.server.max_messages)
            yield _InProcess(core, limits, caller)


def _client(address: str, caller: str) -> AsyncClient:
    try:
        return AsyncClient(address, caller=caller, access=Access.from_environment())
    except ValueError as error:
        raise InvalidRequestError("caller", f"--caller: {error}") from None
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from None
