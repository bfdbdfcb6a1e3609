"""The cascade within one answer: a local engine that is told what to say, and a real cloud on loopback."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from builders import make_specialist
from harness import Cloud as Endpoint
from pointsman.catalog.output_format import format_of
from pointsman.decision.decide import Setup
from pointsman.errors import BackendDownError, DeadlineError
from pointsman.generation.backend import Question
from pointsman.generation.cloud import Cloud
from pointsman.generation.generator import Generator
from pointsman.generation.shadows import Shadows
from pointsman.generation.trials import Given, Trials
from pointsman.ledger.metrics import Metrics
from pointsman.ledger.recorder import Recorder
from pointsman.ledger.shortfalls import Shortfalls
from pointsman.policy.gate import Gate
from pointsman.router.router import Route
from pointsman.router.snapshot import Snapshot
from pointsman.sections import Cascade as CascadeSettings
from pointsman.sections import Cloud as CloudSettings
from pointsman.values.cascade import AnswerCurve, AnswerModel, Cascade
from pointsman.values.catalog import FREE_TEXT, Catalog, FewShot, Output, Rule, Specialist
from pointsman.values.decision import Decision, Evidence, Reason, Routed, RouteTimings
from pointsman.values.events import (
    Done,
    Escalation,
    Event,
    Finished,
    FinishReason,
    Shortfall,
    Token,
    Usage,
)
from pointsman.values.policy import Action, Policy, Span
from pointsman.values.request import Constraints, Message, Request, Role, Sampling, Tier

SURE, UNSURE = -0.01, -9.0
SETTINGS = CascadeSettings()


class Engine:
    """A local engine that says what it is told: one script an answer, the last one stays."""

    def __init__(self, *scripts: list[tuple[str, float | None]] | Exception) -> None:
        self.scripts = list(scripts)
        self.questions: list[Question] = []
        self.held = 0
        self.adapters = None

    @asynccontextmanager
    async def lease(
        self, specialist: Specialist, budget_s: float | None = None
    ) -> AsyncGenerator["Engine", None]:
        yield self

    @asynccontextmanager
    async def place(
        self, tokens: int = 0, budget_s: float | None = None, prompt_tokens: int = 0
    ) -> AsyncGenerator[float, None]:
        script = self.scripts[0]
        if isinstance(script, DeadlineError):
            raise script
        self.held += 1
        try:
            yield 0.0
        finally:
            self.held -= 1

    async def stream(self, question: Question) -> AsyncGenerator[Token | Finished, None]:
        self.questions.append(question)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        if isinstance(script, Exception):
            raise script
        for text, logprob in script:
            yield Token(text, logprob)
        yield Finished(FinishReason.STOP, Usage(10, len(script), 0))


class Router:
    def __init__(self, route: Route) -> None:
        self._route = route
        self.gate = Gate()

    async def route(self, request: Request) -> Route:
        return replace(self._route, request=request)


class _Snapshot(Snapshot):
    """A snapshot without an index that still knows a cascade."""

    learned: Cascade | None = None

    @property
    def cascade(self) -> Cascade | None:
        return type(self).learned


def model(specialist: Specialist, threshold: float = 0.5) -> AnswerModel:
    """Confidence is σ(4 + lowest log-probability - 10 ln(1 + names left out) - 10 if it was repaired)."""
    features, nothing = ("lowest", "unnamed", "repaired"), (0.0, 0.0, 0.0)
    curve = AnswerCurve(features, nothing, (1.0, 1.0, 1.0), (1.0, -10.0, -10.0), 4.0)
    return AnswerModel(
        specialist.name,
        specialist.answers_hash,
        curve,
        False,
        100,
        100,
        90,
        threshold,
        1,
        0.04,
        0.9,
        None,
        0.9,
    )


async def generator(
    local: Engine,
    endpoint: Endpoint | None,
    *,
    output: Output = FREE_TEXT,
    fitted: bool = True,
    threshold: float = 0.5,
    settings: CascadeSettings = SETTINGS,
    rules: tuple[Rule, ...] = (),
    reason: Reason = Reason.INTENT_MATCH,
    shadows: Callable[[Cloud], Shadows] | None = None,
    gate: Gate | None = None,
    **fields: Any,
) -> Generator:
    specialist = make_specialist(
        "support",
        output=output,
        system_prompt="Classify.",
        few_shot=(FewShot("hi", "A"),),
        **fields,
    )
    catalog = Catalog(specialists=(specialist,), rules=rules)
    learned = Cascade(datetime.now(UTC), 0.05, 0.95, (model(specialist, threshold),) if fitted else ())
    snapshot_type = type("Fitted", (_Snapshot,), {"learned": learned, "__slots__": ()})
    setup = Setup(catalog, "v", "big-model" if endpoint else None, None, True, False)
    snapshot = snapshot_type(setup, (), None)
    decision = Decision(Tier.LOCAL, "support", reason, "Near.", Evidence(), "v", "m")
    router: Any = Router(Route(Routed(decision, RouteTimings()), snapshot, Request(())))
    router.gate = gate or router.gate
    pool: Any = local
    cloud = None
    if endpoint:  # reads the CA files
        cloud = await asyncio.to_thread(Cloud, CloudSettings(**(endpoint.settings | {"max_retries": 0})))
    beside = shadows(cloud) if shadows and cloud else None
    return Generator(router, pool, cloud, settings, shadows=beside)


def asked(text: str = "my parcel is lost", *, hold_back: bool = False, **constraints: Any) -> Request:
    return Request(
        (Message(Role.USER, text),),
        Constraints(**constraints),
        Sampling(),
        request_id="r",
        hold_back=hold_back,
    )


async def events_of(source: Generator | Recorder, request: Request) -> list[Event]:
    async with aclosing(source.generate(request)) as events:
        return [event async for event in events]


def text_of(events: list[Event]) -> str:
    """Return what stands in the end, as a caller joins it."""
    text = ""
    for event in events:
        if isinstance(event, Token):
            text += event.text
        elif isinstance(event, Escalation):
            text = text[: event.retract_from]
    return text


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def done_of(events: list[Event]) -> Done:
    last = events[-1]
    assert isinstance(last, Done)
    return last


def escalations(events: list[Event]) -> list[Escalation]:
    return [event for event in events if isinstance(event, Escalation)]


GOOD = [("The", SURE), (" parcel", SURE), (" is", SURE), (" lost", SURE)]
BAD = [("The", SURE), (" ship", UNSURE), (" is", SURE), (" here", SURE)]


async def test_a_sure_answer_stands_with_its_confidence_and_never_asks_the_cloud() -> None:
    with Endpoint() as endpoint:
        engine = Engine(GOOD)
        events = await events_of(await generator(engine, endpoint), asked())
    assert kinds(events) == ["Routed", "Token", "Token", "Token", "Token", "Done"]
    assert text_of(events) == "The parcel is lost"
    done = done_of(events)
    assert done.confidence == pytest.approx(0.98, abs=0.01)
    assert done.shortfall is None
    assert endpoint.requests == []
    assert engine.questions[0].logprobs
    assert all(event.logprob is None for event in events if isinstance(event, Token))  # nobody asked


async def test_an_answer_is_held_against_the_last_message_and_only_once_it_is_whole() -> None:
    earlier = (Message(Role.USER, "say hello to Bob"), Message(Role.ASSISTANT, "Hello, Bob."))
    request = asked("and where is the parcel of Ann?")
    request = replace(request, messages=(*earlier, *request.messages))
    named = [("Lost.", SURE), ("\n", SURE), ("So", SURE), (" is", SURE), (" Ann's", SURE)]
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(GOOD), endpoint), request)
        assert text_of(events) == "from the cloud"
        events = await events_of(await generator(Engine(named), endpoint), request)
    assert text_of(events) == "Lost.\nSo is Ann's"
    assert done_of(events).shortfall is None
    assert len(endpoint.requests) == 1


async def test_an_unsure_answer_is_retracted_and_the_cloud_goes_on_with_the_draft_as_context() -> None:
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(BAD), endpoint), asked())
    (moved,) = escalations(events)
    assert (moved.retract_from, moved.shortfall) == (0, Shortfall.LOW_CONFIDENCE)
    assert (moved.decision.tier, moved.decision.specialist) == (Tier.CLOUD, None)
    assert (moved.decision.reason, moved.decision.model) == (Reason.ESCALATED, "big-model")
    assert "probability 0.01" in moved.explanation
    assert text_of(events) == "from the cloud"
    assert done_of(events).confidence is None
    assert done_of(events).shortfall is None
    messages = endpoint.requests[0]["messages"]
    assert messages[0] == {"role": "system", "content": "Classify."}
    assert messages[1:3] == [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "A"}]
    assert messages[3:5] == [
        {"role": "user", "content": "my parcel is lost"},
        {"role": "assistant", "content": "The ship is here"},
    ]
    assert "draft" in messages[5]["content"]


async def test_who_holds_back_is_shown_nothing_of_an_answer_that_escalates() -> None:
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(BAD), endpoint), asked(hold_back=True))
    assert kinds(events) == ["Routed", "Escalation", "Token", "Token", "Token", "Done"]


async def test_who_holds_back_is_shown_a_sure_answer_from_the_commit_point_on() -> None:
    long = [(f" w{i}", SURE) for i in range(40)]
    events = await events_of(await generator(Engine(long), None), asked(hold_back=True))
    tokens = [event for event in events if isinstance(event, Token)]
    assert tokens[0].text.split() == [f"w{i}" for i in range(32)]
    assert len(tokens) == 9
    short = await events_of(await generator(Engine(GOOD), None), asked(hold_back=True))
    assert [e.text for e in short if isinstance(e, Token)] == ["The parcel is lost"]


async def test_an_unsure_beginning_escalates_at_the_commit_point_before_the_answer_ends() -> None:
    long = [(f" w{i}", UNSURE if i == 3 else SURE) for i in range(200)]
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(long), endpoint), asked(hold_back=True))
    assert kinds(events)[1] == "Escalation"
    assert "w31" in endpoint.requests[0]["messages"][-2]["content"]
    assert "w32" not in endpoint.requests[0]["messages"][-2]["content"]


@pytest.mark.parametrize(
    ("constraints", "rules", "fields"),
    [
        ({"local_only": True}, (), {}),
        ({"tier": Tier.LOCAL}, (), {}),
        ({"specialist": "support"}, (), {}),
        ({}, (Rule("near", "local"),), {}),
        ({}, (), {"reason": Reason.CLOUD_DOWN}),
    ],
)
async def test_what_must_stay_local_never_escalates_and_ends_flagged(
    constraints: dict[str, Any], rules: tuple[Rule, ...], fields: dict[str, Any]
) -> None:
    with Endpoint() as endpoint:
        source = await generator(Engine(BAD), endpoint, rules=rules, **fields)
        events = await events_of(source, asked(**constraints))
    assert endpoint.requests == []
    assert escalations(events) == []
    assert text_of(events) == "The ship is here"
    assert done_of(events).shortfall is Shortfall.LOW_CONFIDENCE
    assert done_of(events).confidence == pytest.approx(0.007, abs=0.001)


async def test_without_a_cloud_an_unsure_answer_ends_flagged() -> None:
    events = await events_of(await generator(Engine(BAD), None), asked())
    assert done_of(events).shortfall is Shortfall.LOW_CONFIDENCE


@pytest.mark.parametrize("settings", [CascadeSettings(enabled=False), SETTINGS])
async def test_a_cascade_that_is_off_judges_nothing(settings: CascadeSettings) -> None:
    with Endpoint() as endpoint:
        engine = Engine(BAD)
        off = await generator(engine, endpoint, settings=settings, cascade=not settings.enabled)
        events = await events_of(off, asked())
    assert endpoint.requests == []
    assert (done_of(events).confidence, done_of(events).shortfall) == (None, None)
    assert not engine.questions[0].logprobs


async def test_a_stale_model_judges_nothing() -> None:
    source = await generator(Engine(BAD), None)
    learned = source._router._route.snapshot.cascade  # type: ignore[attr-defined]
    old = make_specialist("support", system_prompt="Another prompt.")
    assert learned.model("support", old.answers_hash) is None
    assert learned.named("support") is not None


async def test_a_model_without_a_promise_escalates_everything() -> None:
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(GOOD), endpoint, threshold=1.0), asked())
    assert text_of(events) == "from the cloud"
    assert "no label shows" in escalations(events)[0].explanation


async def test_a_circle_escalates_at_once_and_what_is_before_it_stands() -> None:
    script = [("Look", SURE), (" up", SURE)] + [(" and", SURE), (" then", SURE), (" again", SURE)] * 60
    engine = Engine(script)
    with Endpoint() as endpoint:
        events = await events_of(await generator(engine, endpoint), asked())
    (moved,) = escalations(events)
    assert moved.shortfall is Shortfall.REPETITION
    assert text_of(events) == "Look up and then again from the cloud"
    messages = endpoint.requests[0]["messages"]
    assert messages[-2] == {"role": "assistant", "content": "Look up and then again"}
    assert "broke off" in messages[-1]["content"]
    assert len([e for e in events if isinstance(e, Token)]) < 40
    assert engine.held == 0


async def test_a_refusal_escalates_at_once() -> None:
    script = [("I'm", SURE), (" sorry,", SURE), (" but", SURE), (" I", SURE), (" cannot", SURE)]
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(script), endpoint), asked())
    assert escalations(events)[0].shortfall is Shortfall.REFUSAL
    assert text_of(events) == "from the cloud"


# Free text that nothing is fitted for.

CIRCLE = [("Look", None)] + [(" and", None), (" then", None), (" again", None)] * 60
DECLINED: list[tuple[str, float | None]] = [("I'm", None), (" sorry,", None), (" but", None), (" no", None)]


@pytest.mark.parametrize("hold_back", [False, True])
@pytest.mark.parametrize(("script", "why"), [(CIRCLE, Shortfall.REPETITION), (DECLINED, Shortfall.REFUSAL)])
async def test_free_text_that_nothing_is_fitted_for_escalates_on_circles_and_refusals(
    script: list[tuple[str, float | None]], why: Shortfall, hold_back: bool
) -> None:
    with Endpoint() as endpoint:
        engine = Engine(script)
        source = await generator(engine, endpoint, fitted=False)
        events = await events_of(source, asked(hold_back=hold_back))
    assert [moved.shortfall for moved in escalations(events)] == [why]
    assert text_of(events).endswith("from the cloud")
    assert done_of(events).shortfall is None
    assert not engine.questions[0].logprobs
    assert engine.held == 0
    if hold_back and why is Shortfall.REFUSAL:
        assert kinds(events)[1] == "Escalation"  # nothing of the refusal was shown


@pytest.mark.parametrize("hold_back", [False, True])
@pytest.mark.parametrize(("script", "why"), [(CIRCLE, Shortfall.REPETITION), (DECLINED, Shortfall.REFUSAL)])
async def test_free_text_that_nothing_is_fitted_for_ends_flagged_where_there_is_no_cloud(
    script: list[tuple[str, float | None]], why: Shortfall, hold_back: bool
) -> None:
    source = await generator(Engine(script), None, fitted=False)
    events = await events_of(source, asked(hold_back=hold_back))
    assert escalations(events) == []
    assert text_of(events) == "".join(text for text, _ in script)
    assert (done_of(events).shortfall, done_of(events).confidence) == (why, None)


async def test_who_holds_back_waits_for_the_commit_point_of_free_text_that_nothing_is_fitted_for() -> None:
    long: list[tuple[str, float | None]] = [(f" w{i}", None) for i in range(40)]
    source = await generator(Engine(long), None, fitted=False)
    tokens = [e for e in await events_of(source, asked(hold_back=True)) if isinstance(e, Token)]
    assert tokens[0].text.split() == [f"w{i}" for i in range(32)]
    at_once = [e for e in await events_of(source, asked()) if isinstance(e, Token)]
    assert len(at_once) == 40


async def test_who_can_take_nothing_back_waits_for_no_more_than_a_refusal_of_free_text_without_labels() -> (
    None
):
    request = replace(asked(hold_back=True), hold_all=True)
    with Endpoint() as endpoint:
        events = await events_of(await generator(Engine(CIRCLE), endpoint, fitted=False), request)
        assert endpoint.requests == []  # a circle that shows later is flagged, not replaced
        declined = await events_of(await generator(Engine(DECLINED), endpoint, fitted=False), request)
    tokens = [event.text for event in events if isinstance(event, Token)]
    assert 64 < len(tokens[0]) < 80
    assert len(tokens) > 100
    assert done_of(events).shortfall is Shortfall.REPETITION
    assert text_of(declined) == "from the cloud"


# New versions on trial.


class Noted(Trials):
    """Trials that only write down what they are told."""

    def __init__(self, candidate: Specialist | None = None) -> None:
        self.candidate = candidate
        self.noted: list[bool] = []
        self.given: list[Given] = []
        self.asking: list[Any] = []

    def pick(self, catalog: Catalog, live: Specialist, request: Request) -> Specialist:
        return live

    def note(self, catalog: Catalog, name: str, version: Specialist, *, success: bool) -> None:
        self.noted.append(success)

    def shadow(self, catalog: Catalog, name: str, request: Request, ask: Any, given: Given) -> None:
        self.given.append(given)
        self.asking.append(ask(request, self.candidate or version_of(catalog)))


def version_of(catalog: Catalog) -> Specialist:
    return replace(catalog.specialists[0], name="support@next")


async def on_trial(local: Engine, endpoint: Endpoint | None, **options: Any) -> tuple[Noted, Generator]:
    source = await generator(local, endpoint, **options)
    noted = Noted()
    source._trials = noted
    return noted, source


@pytest.mark.parametrize(
    ("script", "options", "success", "said"),
    [
        (GOOD, {}, True, "The parcel is lost"),
        (BAD, {}, True, "from the cloud"),  # unsure, which a candidate is never judged by
        (DECLINED, {"fitted": False}, False, "from the cloud"),
        ([], {"fitted": False}, False, "from the cloud"),
        ([("meh", SURE)], {"fitted": False, "output": Output("regex", pattern="A")}, False, None),
    ],
)
async def test_both_versions_are_judged_alike_and_by_what_either_can_have(
    script: list[tuple[str, float | None]], options: dict[str, Any], success: bool, said: str | None
) -> None:
    with Endpoint() as endpoint:
        noted, source = await on_trial(Engine(script), endpoint, **options)
        await events_of(source, asked())
        assert noted.noted == [success]
        (given,) = noted.given
        assert (given.said, given.success) == (said, success)
        (asking,) = noted.asking
        assert await asking == ("".join(text for text, _ in script), success)


async def test_a_candidate_is_repaired_before_it_is_judged_as_the_live_version_is() -> None:
    engine = Engine([("meh", SURE)], [("positive", SURE)], [("meh", SURE)], [("negative", SURE)])
    noted, source = await on_trial(engine, None, output=CHOICE, fitted=False)
    await events_of(source, asked())
    assert noted.noted == [True]
    assert await noted.asking[0] == ("negative", True)


async def test_a_deadline_that_cannot_be_met_is_no_versions_failure() -> None:
    with Endpoint() as endpoint:
        noted, source = await on_trial(Engine(DeadlineError("late", 1.0)), endpoint)
        assert text_of(await events_of(source, asked())) == "from the cloud"
    assert (noted.noted, noted.given) == ([], [])


# What the cloud does to an escalation.


@pytest.mark.parametrize("behaviour", [500, 401, 400, 429, "silent", "garbage"])
@pytest.mark.parametrize("hold_back", [False, True])
async def test_a_cloud_that_fails_before_its_first_token_retracts_nothing(
    behaviour: int | str, hold_back: bool
) -> None:
    with Endpoint(behaviour) as endpoint:
        events = await events_of(await generator(Engine(BAD), endpoint), asked(hold_back=hold_back))
    assert len(endpoint.requests) == 1
    assert escalations(events) == []
    assert text_of(events) == "The ship is here"
    done = done_of(events)
    assert done.shortfall is Shortfall.LOW_CONFIDENCE
    assert done.usage.completion_tokens == 4
    assert done.cost is None


@pytest.mark.parametrize("behaviour", ["half", "filtered"])
async def test_a_cloud_that_dies_within_its_answer_gives_way_to_what_was_said_locally(behaviour: str) -> None:
    with Endpoint(behaviour) as endpoint:
        events = await events_of(await generator(Engine(BAD), endpoint), asked())
    there, back = escalations(events)
    assert there.decision.reason is Reason.ESCALATED
    assert (back.decision.reason, back.decision.specialist) == (Reason.DRAFT_STANDS, "support")
    assert text_of(events) == "The ship is here"
    assert done_of(events).shortfall is Shortfall.LOW_CONFIDENCE
    assert done_of(events).confidence is not None


async def test_a_cloud_that_fails_while_the_local_answer_is_made_lets_it_be_finished() -> None:
    script = [("I'm", SURE), (" sorry,", SURE), (" but", SURE), (" it", SURE), (" is", SURE), (" lost", SURE)]
    with Endpoint(500) as endpoint:
        events = await events_of(await generator(Engine(script), endpoint), asked())
    assert len(endpoint.requests) == 1
    assert text_of(events) == "I'm sorry, but it is lost"
    assert done_of(events).shortfall is Shortfall.REFUSAL


async def test_an_engine_that_dies_is_an_error_as_before() -> None:
    with Endpoint() as endpoint, pytest.raises(BackendDownError, match="gone"):
        await events_of(await generator(Engine(BackendDownError("gone")), endpoint), asked())
    assert endpoint.requests == []


# Deadlines.


async def test_a_deadline_that_cannot_be_met_locally_goes_to_the_cloud_at_once() -> None:
    with Endpoint() as endpoint:
        source = await generator(Engine(DeadlineError("4.0 s are needed", 1.0)), endpoint)
        events = await events_of(source, asked())
    assert kinds(events) == ["Routed", "Escalation", "Token", "Token", "Token", "Done"]
    (moved,) = escalations(events)
    assert (moved.shortfall, moved.decision.reason) == (Shortfall.DEADLINE, Reason.ESCALATED)
    assert "4.0 s are needed" in moved.explanation
    assert endpoint.requests[0]["messages"][-1]["content"] == "my parcel is lost"


async def test_a_deadline_that_cannot_be_met_is_refused_where_the_cloud_may_not_answer() -> None:
    with Endpoint() as endpoint:
        source = await generator(Engine(DeadlineError("late", 1.0)), endpoint)
        with pytest.raises(DeadlineError):
            await events_of(source, asked(local_only=True))
    assert endpoint.requests == []


async def test_a_deadline_is_refused_where_the_cloud_fails_too() -> None:
    with Endpoint(500) as endpoint, pytest.raises(DeadlineError):
        await events_of(await generator(Engine(DeadlineError("late", 1.0)), endpoint), asked())


# Stated formats.

CHOICE = Output("choice", choices=("positive", "negative"))
JSON = Output("json", schema=json.dumps({"type": "object", "required": ["a"]}))
format_of(JSON)  # as a catalog does when it is loaded, in a thread


async def test_an_answer_that_breaks_its_format_is_made_anew_held_to_it_before_it_escalates() -> None:
    engine = Engine([("Well", SURE), (",", SURE), (" good", SURE)], [("pos", SURE), ("itive", SURE)])
    with Endpoint() as endpoint:
        events = await events_of(await generator(engine, endpoint, output=CHOICE, fitted=False), asked())
    assert endpoint.requests == []
    assert text_of(events) == "positive"
    assert done_of(events).shortfall is None
    first, second = engine.questions
    assert first.constraint is None
    assert second.constraint is not None
    assert second.constraint.grammar == 'root ::= "positive" | "negative"'
    assert escalations(events) == []  # nothing of the first was shown: it could not become valid at once


async def test_an_answer_that_had_to_be_held_to_its_format_is_judged_as_one() -> None:
    repaired = Engine([("Well", SURE)], [("positive", SURE)])
    events = await events_of(await generator(repaired, None, output=CHOICE), asked())
    assert text_of(events) == "positive"
    assert done_of(events).shortfall is Shortfall.LOW_CONFIDENCE
    events = await events_of(await generator(Engine([("positive", SURE)]), None, output=CHOICE), asked())
    assert done_of(events).shortfall is None


async def test_what_was_shown_before_a_repair_is_retracted_as_far_as_it_differs() -> None:
    engine = Engine([('{"b"', SURE), (": 1}", SURE)], [('{"a"', SURE), (": 1}", SURE)])
    events = await events_of(await generator(engine, None, output=JSON, fitted=False), asked())
    (moved,) = escalations(events)
    assert (moved.decision.reason, moved.decision.specialist) == (Reason.REPAIRED, "support")
    assert moved.retract_from == len('{"')
    assert text_of(events) == '{"a": 1}'
    assert done_of(events).shortfall is None


async def test_a_repair_that_fails_escalates_and_the_cloud_is_told_the_format() -> None:
    engine = Engine([("no", SURE)], BackendDownError("grammar"))
    with Endpoint(words=("posi", "tive")) as endpoint:
        events = await events_of(await generator(engine, endpoint, output=CHOICE, fitted=False), asked())
    assert text_of(events) == "positive"
    assert escalations(events)[0].shortfall is Shortfall.INVALID
    assert "positive, negative" in endpoint.requests[0]["messages"][-1]["content"]


async def test_an_answer_of_the_cloud_that_breaks_the_format_is_flagged() -> None:
    engine = Engine([("no", SURE)])
    with Endpoint() as endpoint:
        events = await events_of(await generator(engine, endpoint, output=CHOICE, fitted=False), asked())
    assert done_of(events).shortfall is Shortfall.INVALID


async def test_an_invalid_answer_that_cannot_be_repaired_or_escalated_stands_flagged() -> None:
    output = Output("choice", choices=("positive", "negative"), constrained="never")
    engine = Engine([("meh", SURE), (" so", SURE)])
    events = await events_of(await generator(engine, None, output=output, fitted=False), asked())
    assert text_of(events) == "meh so"
    assert done_of(events).shortfall is Shortfall.INVALID
    assert len(engine.questions) == 1


async def test_an_engine_without_grammars_is_not_asked_for_a_repair() -> None:
    engine = Engine([("meh", SURE)])
    with Endpoint(words=("positive",)) as endpoint:
        source = await generator(engine, endpoint, output=CHOICE, fitted=False, engine="ctransformers")
        events = await events_of(source, asked())
    assert len(engine.questions) == 1
    assert text_of(events) == "positive"


async def test_a_code_fence_around_json_is_no_breach() -> None:
    engine = Engine([("```", SURE), ("json\n", SURE), ('{"a": 1}', SURE), ("\n```", SURE)])
    events = await events_of(await generator(engine, None, output=JSON, fitted=False), asked())
    assert text_of(events) == '{"a": 1}'
    assert len(engine.questions) == 1


async def test_what_is_put_back_into_json_from_the_cloud_leaves_it_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asks = 'Note what "Ann Lee" said.'

    class Names:
        def find(self, text: str) -> tuple[Span, ...]:
            start = text.find('"Ann Lee"')
            return () if start < 0 else (Span("name", start, start + len('"Ann Lee"')),)

    gate = Gate(Policy({"name": Action.REDACT}), Names())  # type: ignore[arg-type]
    monkeypatch.setitem(globals(), "Gate", lambda: gate)
    with Endpoint(words=('{"a": ', '"[NAME', '_1]"}')) as endpoint:
        source = await generator(Engine([("nope", SURE)]), endpoint, output=JSON, fitted=False)
        events = await events_of(source, Request((Message(Role.USER, asks),)))
    assert json.loads(text_of(events)) == {"a": '"Ann Lee"'}


async def test_held_back_json_is_shown_field_by_field_where_settings_say_so() -> None:
    script = [('{"a"', SURE), (": 1", SURE), (", ", SURE), ('"b": 2', SURE), ("}", SURE)]
    by_field = CascadeSettings(commit="field")
    source = await generator(Engine(script), None, output=JSON, fitted=False, settings=by_field)
    events = await events_of(source, asked(hold_back=True))
    assert [e.text for e in events if isinstance(e, Token)] == ['{"a": 1,', ' "b": 2}']
    whole = await generator(Engine(script), None, output=JSON, fitted=False)
    events = await events_of(whole, asked(hold_back=True))
    assert [e.text for e in events if isinstance(e, Token)] == ['{"a": 1, "b": 2}']


# Log-probabilities, and the ledger.


async def test_log_probabilities_that_were_asked_for_are_sums_over_what_is_shown() -> None:
    request = Request((Message(Role.USER, "hi"),), sampling=Sampling(logprobs=True))
    engine = Engine([(" ", -1.0), ("a", -2.0), ("<|im_end|>", -4.0)])
    events = await events_of(await generator(engine, None, fitted=False), request)
    assert [(e.text, e.logprob) for e in events if isinstance(e, Token)] == [("a", -3.0)]


async def test_shortfalls_become_an_alert_once_and_the_log_says_what_to_do(log_lines: list[Any]) -> None:
    settings = CascadeSettings(alert_window=40, alert_least=20)
    metrics = Metrics()

    async def recorder(engine: Engine, endpoint: Endpoint) -> Recorder:
        source = await generator(engine, endpoint)
        return Recorder(source._router, source, metrics, cascade=settings)

    with Endpoint() as endpoint:
        bad = await recorder(Engine(BAD), endpoint)
        for _ in range(30):
            await events_of(bad, asked())
        alarms = [line for line in log_lines if line["event"] == "specialist.falls_short"]
        assert len(alarms) == 1
        assert alarms[0]["specialist"] == "support"
        assert (alarms[0]["share"], alarms[0]["low_confidence"]) == (1.0, 20)
        assert "cascade fit" in alarms[0]["advice"]
        read = metrics.registry.get_sample_value
        assert read("pointsman_specialist_alert", {"specialist": "support"}) == 1
        assert read("pointsman_specialist_shortfall_share", {"specialist": "support"}) == 1
        outcome = {"specialist": "support", "outcome": "low_confidence"}
        assert read("pointsman_specialist_answers_total", outcome) == 30


def test_an_alert_ends_below_the_rate_it_began_at_and_small_numbers_raise_none(log_lines: list[Any]) -> None:
    shortfalls = Shortfalls(CascadeSettings(alert_rate=0.1, alert_window=50, alert_least=20))
    for _ in range(19):
        shortfalls.note("a", "invalid")
    assert shortfalls.alerts() == {"a": False}
    shortfalls.note("a", "invalid")
    assert shortfalls.alerts() == {"a": True}
    for _ in range(45):
        shortfalls.note("a", "")
    assert shortfalls.share("a") == pytest.approx(0.1)
    assert shortfalls.alerts() == {"a": True}
    for _ in range(2):
        shortfalls.note("a", "")
    assert shortfalls.alerts() == {"a": False}
    assert [line["event"] for line in log_lines] == ["specialist.falls_short", "specialist.does_well_again"]
    assert "output.constrained" in log_lines[0]["advice"]


async def test_answers_that_could_not_be_made_in_time_are_not_held_against_the_specialist() -> None:
    metrics = Metrics()
    with Endpoint() as endpoint:
        source = await generator(Engine(DeadlineError("late", 1.0)), endpoint)
        recorder = Recorder(source._router, source, metrics)
        await events_of(recorder, asked())
    assert metrics.registry.get_sample_value("pointsman_specialist_alert", {"specialist": "support"}) is None
