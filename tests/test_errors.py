"""Errors to statuses, and values to protobuf numbers: both tables are total."""

from dataclasses import replace
from typing import TypeVar

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message as ProtobufMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from builders import make_intent, make_specialist
from pointsman import errors
from pointsman.errors import (
    BackendDownError,
    CatalogError,
    DeadlineError,
    InvalidRequestError,
    NoRouteError,
    OverloadedError,
    PointsmanError,
    PreconditionError,
    QuotaError,
    UnknownNameError,
    for_callers,
    for_log,
    unwrap,
)
from pointsman.service import convert, convert_catalog
from pointsman.service.errors import CODES, DOMAIN, INTERNAL_MESSAGE, code_of, status_of
from pointsman.v1 import catalog_pb2, router_pb2
from pointsman.values.catalog import (
    Adapter,
    Artifact,
    Catalog,
    EngineState,
    FewShot,
    Intent,
    Problem,
    Specialist,
)
from pointsman.values.decision import Decision, Evidence, IntentScore, Neighbor, Reason, Routed, RouteTimings
from pointsman.values.events import (
    Cost,
    Done,
    Escalation,
    FinishReason,
    GenerateTimings,
    Token,
    Usage,
)
from pointsman.values.request import Constraints, Message, Role, Tier

SECRET = "password of the database"
D = TypeVar("D", bound=ProtobufMessage)


def subclasses(cls: type) -> set[type]:
    return {sub for direct in cls.__subclasses__() for sub in {direct, *subclasses(direct)}}


def detail(status: status_pb2.Status, kind: type[D]) -> D | None:
    for packed in status.details:
        found = kind()
        if AnyMessage.Is(packed, found.DESCRIPTOR):
            packed.Unpack(found)
            return found
    return None


# The table


def test_every_error_that_is_raised_on_purpose_has_a_code():
    ours = {kind for kind in subclasses(PointsmanError) if kind.__module__.startswith("pointsman.")}
    assert set(CODES) == ours


def test_every_error_says_whose_fault_it_is_in_the_tree():
    assert [cls.__name__ for cls in CODES if cls.__name__ not in (errors.__doc__ or "")] == []


def test_no_error_that_is_raised_on_purpose_is_internal():
    assert grpc.StatusCode.INTERNAL not in CODES.values()


@pytest.mark.parametrize("kind", sorted(CODES, key=lambda kind: kind.__name__))
def test_every_error_has_a_status_with_its_code_domain_and_reason(kind):
    status = status_of(EXAMPLES.get(kind) or kind("what went wrong"))
    assert status.code == getattr(code_pb2, CODES[kind].name)
    info = detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.domain == DOMAIN
    assert info.reason == info.reason.upper()
    assert status.message


PROBLEMS = [
    Problem("intents/a.yaml", 4, "target", "nobody", "no such specialist"),
    Problem("request", 0, "name", "A", "not a name"),
]
EXAMPLES: dict[type[PointsmanError], PointsmanError] = {
    InvalidRequestError: InvalidRequestError("messages[0].content", "the prompt is empty"),
    UnknownNameError: UnknownNameError("specialist", "nobody", ["general"]),
    CatalogError: CatalogError(PROBLEMS),
    OverloadedError: OverloadedError("the queue is full", 1.5),
    QuotaError: QuotaError("slower", 2.5),
    DeadlineError: DeadlineError("4.0 s are needed, 1.0 s are left", 3.0),
    BackendDownError: BackendDownError("the engine is down", retry_after_s=0.25),
}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (InvalidRequestError, "INVALID_REQUEST"),
        (UnknownNameError, "UNKNOWN_NAME"),
        (OverloadedError, "OVERLOADED"),
        (BackendDownError, "BACKEND_DOWN"),
    ],
)
def test_a_reason_is_the_name_of_the_error(kind, reason):
    info = detail(status_of(EXAMPLES[kind]), error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.reason == reason


def test_callers_are_told_nothing_of_files_and_the_log_nothing_that_was_quoted():
    down = BackendDownError("engine of x is down: /srv/models/x.gguf is gone", public="engine of x is down")
    assert status_of(down).message == for_callers(down) == "engine of x is down"
    assert for_log(down) == str(down)
    refused = InvalidRequestError("messages", "the cloud answered 400: 'my secret'", logged="answered 400")
    assert for_log(refused) == "answered 400"
    assert status_of(refused).message == str(refused)


# Details


@pytest.mark.parametrize(("kind", "seconds"), [(OverloadedError, 1.5), (BackendDownError, 0.25)])
def test_what_passes_by_itself_says_when_to_try_again(kind, seconds):
    info = detail(status_of(EXAMPLES[kind]), error_details_pb2.RetryInfo)
    assert info is not None
    assert info.retry_delay.ToTimedelta().total_seconds() == seconds


@pytest.mark.parametrize(
    "error", [BackendDownError("a key was refused", permanent=True), NoRouteError("set x")]
)
def test_what_does_not_pass_by_itself_does_not_say_to_try_again(error):
    assert detail(status_of(error), error_details_pb2.RetryInfo) is None


def test_a_bad_request_names_its_field():
    found = detail(status_of(EXAMPLES[InvalidRequestError]), error_details_pb2.BadRequest)
    assert found is not None
    assert [(v.field, v.description) for v in found.field_violations] == [
        ("messages[0].content", "the prompt is empty")
    ]


def test_a_refused_catalog_names_every_field():
    found = detail(status_of(EXAMPLES[CatalogError]), error_details_pb2.BadRequest)
    assert found is not None
    assert [(v.field, v.description) for v in found.field_violations] == [
        ("target", "intents/a.yaml:4: target: no such specialist (got nobody)"),
        ("name", "request: name: not a name (got A)"),
    ]


def test_an_unknown_name_is_told_with_its_kind():
    status = status_of(EXAMPLES[UnknownNameError])
    found = detail(status, error_details_pb2.ResourceInfo)
    assert found is not None
    assert (found.resource_type, found.resource_name) == ("specialist", "nobody")
    assert status.message == "unknown specialist 'nobody'; known: general"


def test_an_error_on_purpose_keeps_its_words():
    assert status_of(PreconditionError("still the target of refund")).message == "still the target of refund"


# What nobody raised on purpose


@pytest.mark.parametrize(
    "error",
    [ValueError(SECRET), KeyError(SECRET), OSError(5, SECRET), ExceptionGroup(SECRET, [ValueError(SECRET)])],
)
def test_an_unknown_error_is_internal_and_keeps_its_words_to_itself(error):
    status = status_of(error)
    assert code_of(error) is grpc.StatusCode.INTERNAL
    assert (status.code, status.message) == (code_pb2.INTERNAL, INTERNAL_MESSAGE)
    assert not status.details
    assert SECRET.encode() not in status.SerializeToString()


def test_a_single_error_is_taken_out_of_its_groups():
    error = OverloadedError("full", 1)
    assert unwrap(ExceptionGroup("outer", [ExceptionGroup("inner", [error])])) is error


def test_of_several_errors_the_first_one_on_purpose_is_taken():
    meant = NoRouteError("set cloud.model")
    assert unwrap(ExceptionGroup("two", [ValueError("a"), ExceptionGroup("in", [meant])])) is meant
    first = ValueError("a")
    assert unwrap(ExceptionGroup("two", [first, ValueError("b")])) is first


def test_unknown_names_say_when_there_are_none():
    assert str(UnknownNameError("intent", "a", [])) == "unknown intent 'a'; known: none are registered"


# Enums


def numbers(enum: EnumTypeWrapper) -> set[str]:
    """Return the names of an enum's values, without the unspecified one."""
    return {name for name, number in enum.items() if number != 0}


def test_every_reason_has_its_number_and_the_other_way_round():
    assert set(convert.REASONS) == set(Reason)
    assert set(convert.REASONS.values()) == numbers(router_pb2.DecisionReason)


def test_every_finish_reason_has_its_number_and_the_other_way_round():
    assert set(convert.FINISHES) == set(FinishReason)
    assert set(convert.FINISHES.values()) == numbers(router_pb2.FinishReason)


def test_every_engine_state_has_its_number_and_the_other_way_round():
    assert set(convert_catalog.ENGINE_STATES) == set(EngineState)
    assert set(convert_catalog.ENGINE_STATES.values()) == numbers(catalog_pb2.EngineState)


def test_every_tier_has_its_number_both_ways():
    assert set(convert.TIERS) == set(Tier)
    assert {router_pb2.Tier.Name(number) for number in convert.TIERS.values()} == numbers(router_pb2.Tier)
    limits = convert.Limits(1000, 10)
    for tier, number in convert.TIERS.items():
        assert request(limits, tier=number).constraints == Constraints(tier=tier)


def test_every_role_has_its_number_and_the_other_way_round():
    said = [(name, router_pb2.Role.Value(name)) for name in sorted(numbers(router_pb2.Role))]
    messages = [router_pb2.Message(role=number, content=name) for name, number in said]
    messages.append(router_pb2.Message(role=router_pb2.ROLE_USER, content="last"))
    found = convert.request_of(router_pb2.RouteRequest(messages=messages), convert.Limits(1000, 10), "id")
    assert {message.role for message in found.messages} == set(Role)
    assert found.messages[:-1] == tuple(Message(Role[name.removeprefix("ROLE_")], name) for name, _ in said)


def request(limits: convert.Limits, **constraints: object):
    message = router_pb2.RouteRequest(
        messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content="hi")],
        constraints=router_pb2.Constraints(**constraints),  # type: ignore[arg-type]
    )
    return convert.request_of(message, limits, "id")


@pytest.mark.parametrize("stop", [["x" * 65], [""], ["x"] * 17, ["x", "y" * (1 << 20)]])
def test_stop_strings_are_as_short_and_few_as_a_manifest_may_state(stop):
    message = router_pb2.GenerateRequest(
        messages=[router_pb2.Message(role=router_pb2.ROLE_USER, content="hi")],
        sampling=router_pb2.Sampling(stop=stop),
    )
    with pytest.raises(InvalidRequestError, match="at most 16 stop strings, none of them empty or over 64"):
        convert.request_of(message, convert.Limits(1000, 10), "id")
    message.sampling.stop[:] = ["x" * 64] * 16
    assert convert.request_of(message, convert.Limits(1000, 10), "id").sampling.stop == ("x" * 64,) * 16


@pytest.mark.parametrize("field", ["specialist", "task_type"])
def test_what_names_something_is_no_longer_than_a_name(field):
    with pytest.raises(InvalidRequestError, match="257 characters; the limit is 256") as caught:
        request(convert.Limits(1000, 10), **{field: "x" * 257})
    assert caught.value.field == f"constraints.{field}"


# Values to messages

EVIDENCE = Evidence(
    "refund",
    "support",
    0.5,
    0.25,
    0.125,
    0.75,
    (Neighbor("refund/0", "refund", 0.5, "x"),),
    (IntentScore("refund", 0.25),),
)
DECISION = Decision(Tier.LOCAL, "support", Reason.INTENT_MATCH, "Because.", EVIDENCE, "v1", "m.gguf")


@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize(("tier", "specialist"), [(Tier.LOCAL, "support"), (Tier.CLOUD, None)])
def test_every_decision_has_a_message(reason, tier, specialist):
    found = convert.decision_message(replace(DECISION, reason=reason, tier=tier, specialist=specialist))
    assert router_pb2.DecisionReason.Name(found.reason).endswith(reason.name)
    assert router_pb2.Tier.Name(found.tier).endswith(tier.name)
    assert found.specialist == (specialist or "")


def test_a_decision_message_says_all_that_the_decision_says():
    found = convert.decision_message(DECISION)
    assert (found.intent, found.similarity, found.confidence) == ("refund", 0.5, 0.75)
    assert (found.score, found.threshold, found.explanation) == (0.25, 0.125, "Because.")
    assert (found.catalog_version, found.model) == ("v1", "m.gguf")
    assert [(n.exemplar_id, n.intent, n.similarity, n.text) for n in found.neighbors] == [
        ("refund/0", "refund", 0.5, "x")
    ]
    assert [(s.intent, s.score) for s in found.scores] == [("refund", 0.25)]


def test_every_event_has_a_message():
    timings = GenerateTimings(RouteTimings(1, 2, 3, 4), 5, 6, 7)
    done = Done(FinishReason.LENGTH, Usage(3, 2, 1), timings, Cost("EUR", 0.5))
    events = {
        "decision": Routed(DECISION, RouteTimings()),
        "token": Token("a", -0.5),
        "escalation": Escalation(DECISION, 3, "Better."),
        "done": done,
    }
    messages = {name: convert.event_message(event) for name, event in events.items()}
    assert {name: message.WhichOneof("event") for name, message in messages.items()} == {n: n for n in events}
    assert (messages["done"].done.cost.currency, messages["done"].done.timings.ttft_ms) == ("EUR", 6)
    assert messages["escalation"].escalation.retract_from == 3


def test_a_token_without_a_log_probability_has_none_in_its_message():
    assert not convert.event_message(Token("a")).token.HasField("logprob")
    assert convert.event_message(Token("a", 0.0)).token.HasField("logprob")


def test_an_answer_without_a_price_has_no_cost_in_its_message():
    done = Done(FinishReason.STOP, Usage(), GenerateTimings(RouteTimings()))
    assert not convert.event_message(done).done.HasField("cost")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# As a person writes them: the wire has float32, and the service rounds to six digits.
decimals = st.integers(0, 1000).map(lambda n: n / 1000)
artifacts = st.builds(Artifact, texts, texts)
intents = st.builds(
    Intent, texts, texts, st.lists(texts).map(tuple), texts, st.lists(texts).map(tuple), st.none() | decimals
)
specialists = st.builds(
    Specialist,
    name=texts,
    base=artifacts,
    description=texts,
    adapter=st.none() | st.builds(Adapter, artifacts, decimals),
    system_prompt=texts,
    few_shot=st.lists(st.builds(FewShot, texts, texts)).map(tuple),
    context_tokens=st.integers(0, 2**20),
    max_output_tokens=st.integers(0, 2**20),
    temperature=decimals,
    top_p=decimals,
    stop=st.lists(texts).map(tuple),
    engine=texts.filter(bool),
    task_types=st.lists(texts).map(tuple),
)


@given(intents)
def test_an_intent_survives_the_wire(intent):
    wire = convert_catalog.intent_message(intent).SerializeToString()
    assert convert_catalog.intent_of(catalog_pb2.Intent.FromString(wire)) == intent


@given(specialists)
def test_a_specialist_survives_the_wire(specialist):
    wire = convert_catalog.specialist_message(specialist).SerializeToString()
    assert convert_catalog.specialist_of(catalog_pb2.Specialist.FromString(wire)) == specialist


def test_what_a_message_leaves_out_is_the_default():
    message = catalog_pb2.Specialist(name="support", base=catalog_pb2.Artifact(uri="file:base.gguf"))
    expected = replace(make_specialist(), base=Artifact("file:base.gguf", ""))
    assert convert_catalog.specialist_of(message) == expected


def test_the_health_of_a_catalog_has_every_problem():
    catalog = Catalog((make_intent(),), (make_specialist(),), tuple(PROBLEMS))
    found = convert_catalog.health_message(catalog, "v1")
    assert (found.version, found.intents, found.exemplars, found.specialists) == ("v1", 1, 2, 1)
    assert [(p.file, p.line, p.field, p.value, p.message) for p in found.problems] == [
        (p.file, p.line, p.field, p.value, p.message) for p in PROBLEMS
    ]


@pytest.mark.parametrize("seconds", [0.0, 1e-12, -1.0])
def test_nobody_is_told_to_come_back_at_once(seconds: float) -> None:
    info = error_details_pb2.RetryInfo()
    details = status_of(OverloadedError("full", retry_after_s=seconds)).details
    assert any(detail.Unpack(info) for detail in details)
    assert info.retry_delay.ToMilliseconds() == 100
