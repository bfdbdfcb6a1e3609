"""Rules of the rules file: what each asks for, their order, what a request vetoes, and what decisions say of them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_intent, make_specialist
from pointsman.decision.decide import Setup, decide
from pointsman.errors import InvalidRequestError, NoRouteError
from pointsman.policy.conditions import describe, facts_of, holds
from pointsman.policy.rules import rule
from pointsman.values.catalog import CLOUD, Bounds, Catalog, Mid, Rule
from pointsman.values.decision import Decision, Evidence, Reason
from pointsman.values.request import Constraints, Message, Request, Role, Tier

CATALOG = Catalog(
    intents=(make_intent(),),
    specialists=(make_specialist("general"), make_specialist("slots", ("extraction",)), make_specialist()),
)
SETUP = Setup(CATALOG, "v1", "big-model", "general", True, True, Mid(model="middling-model"))
MID_ON_THIS_MACHINE = Mid(specialist="slots")
NEAR = Evidence(intent="refund", target="support", score=0.8, threshold=0.6, confidence=0.7)
FAR = replace(NEAR, score=0.1)


def asked(text: str = "hello", *, budget_ms: float | None = None, caller: str = "", **constraints: object):
    return Request(
        (Message(Role.USER, text),),
        Constraints(**constraints),  # type: ignore[arg-type]
        caller=caller,
        budget_s=None if budget_ms is None else budget_ms / 1e3,
    )


def route(request: Request, *rules: Rule, evidence: Evidence = NEAR, setup: Setup = SETUP) -> Decision:
    setup = replace(setup, catalog=replace(setup.catalog, rules=rules))
    ruling = rule(request, setup.catalog, ("reasoning",), setup.mid)
    return decide(ruling, evidence if ruling.needs_similarity else Evidence(), setup)


# Conditions


@pytest.mark.parametrize(
    ("conditions", "meets", "fails"),
    [
        ({"task_types": ("extraction", "sums")}, {"task_type": "extraction"}, {"task_type": "other"}),
        ({"task_types": ("extraction",)}, {"task_type": "extraction"}, {}),
        ({"callers": ("nightly-batch", "reports")}, {"caller": "reports"}, {"caller": "report"}),
        ({"callers": ("reports",)}, {"caller": "reports"}, {}),
        ({"tokens": Bounds(over=2)}, {"text": "x" * 9}, {"text": "x" * 8}),
        ({"tokens": Bounds(under=3)}, {"text": "x" * 8}, {"text": "x" * 9}),
        ({"output_tokens": Bounds(over=1000)}, {"output_tokens": 1001}, {"output_tokens": 1000}),
        ({"output_tokens": Bounds(under=10)}, {"output_tokens": 9}, {"output_tokens": 0}),
        ({"budget_ms": Bounds(under=800)}, {"budget_ms": 799.9}, {"budget_ms": 800.0}),
        ({"budget_ms": Bounds(under=800)}, {"budget_ms": 0.0}, {}),
        ({"budget_ms": Bounds(over=100, under=800)}, {"budget_ms": 101.0}, {"budget_ms": 100.0}),
    ],
)
def test_a_condition_holds_of_what_it_asks_for_and_of_nothing_else(conditions, meets, fails):
    some = Rule("some", CLOUD, **conditions)
    assert holds(some, facts_of(asked(**meets)))
    assert not holds(some, facts_of(asked(**fails)))


def test_all_conditions_of_a_rule_must_hold():
    both = Rule("both", CLOUD, callers=("reports",), output_tokens=Bounds(over=10))
    assert holds(both, facts_of(asked(caller="reports", output_tokens=11)))
    assert not holds(both, facts_of(asked(caller="reports", output_tokens=10)))
    assert not holds(both, facts_of(asked(caller="other", output_tokens=11)))


def test_a_rule_without_conditions_always_holds():
    assert holds(Rule("always", CLOUD), facts_of(asked()))


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_tokens_are_the_bytes_of_the_whole_conversation_over_four(texts):
    request = Request(tuple(Message(Role.USER, text) for text in texts))
    assert facts_of(request).tokens == math.ceil(len("".join(texts).encode()) / 4)


@given(st.integers(0, 100), st.none() | st.integers(0, 100), st.none() | st.integers(0, 100))
def test_bounds_are_open_ends(number, over, under):
    expected = number in range(-1 if over is None else over + 1, 1000 if under is None else under)
    assert Bounds(over, under).hold(number) == expected


def test_a_rule_says_which_facts_it_asked_for_and_no_others():
    some = Rule("some", CLOUD, callers=("reports",), budget_ms=Bounds(under=800))
    said = describe(some, facts_of(asked(caller="reports", budget_ms=512.6, task_type="extraction")))
    assert said == "Rule 'some' holds (caller 'reports', 513 ms left)."


# Where rules lead


@pytest.mark.parametrize(
    ("to", "evidence", "tier", "specialist", "model"),
    [
        ("cloud", NEAR, Tier.CLOUD, None, "big-model"),
        ("mid", NEAR, Tier.MID, None, "middling-model"),
        ("specialist:slots", NEAR, Tier.LOCAL, "slots", "file:base.gguf"),
        ("local", NEAR, Tier.LOCAL, "support", "file:base.gguf"),
        ("local", FAR, Tier.LOCAL, "general", "file:base.gguf"),
        ("local", replace(NEAR, target=CLOUD), Tier.LOCAL, "general", "file:base.gguf"),
        ("local", Evidence(), Tier.LOCAL, "general", "file:base.gguf"),
    ],
)
def test_a_rule_leads_where_it_says_and_is_named_as_the_reason(to, evidence, tier, specialist, model):
    decision = route(asked(), Rule("some", to), evidence=evidence)
    assert (decision.tier, decision.specialist, decision.model) == (tier, specialist, model)
    assert (decision.reason, decision.rule) == (Reason.RULE, "some")
    assert decision.explanation.startswith("Rule 'some' holds")


def test_a_mid_tier_may_be_a_specialist():
    decision = route(asked(), Rule("some", "mid"), setup=replace(SETUP, mid=MID_ON_THIS_MACHINE))
    assert (decision.tier, decision.specialist) == (Tier.MID, "slots")


def test_the_first_rule_that_holds_wins():
    first, second = Rule("first", "cloud", callers=("a",)), Rule("second", "mid", callers=("a", "b"))
    assert route(asked(caller="a"), first, second).rule == "first"
    assert route(asked(caller="b"), first, second).rule == "second"
    assert route(asked(caller="a"), second, first).rule == "second"
    assert route(asked(caller="c"), first, second).rule == ""


def test_no_rule_leaves_it_to_similarity():
    decision = route(asked(), Rule("other", "cloud", callers=("reports",)))
    assert (decision.reason, decision.rule, decision.specialist) == (Reason.INTENT_MATCH, "", "support")


def test_a_rule_for_a_cloud_that_is_not_configured_is_named_where_the_generalist_answers():
    decision = route(asked(), Rule("some", "cloud"), setup=replace(SETUP, cloud_model=None))
    assert (decision.reason, decision.specialist, decision.rule) == (Reason.NO_CLOUD, "general", "some")


def test_a_rule_for_the_local_tier_without_a_generalist_says_what_to_set():
    with pytest.raises(NoRouteError, match=r"Rule 'some' holds.*set routing\.general_specialist"):
        route(asked(), Rule("some", "local"), evidence=FAR, setup=replace(SETUP, general_specialist=None))


# Constraints of the request come first


@pytest.mark.parametrize(
    ("constraints", "reason"),
    [
        ({"specialist": "support"}, Reason.EXPLICIT_SPECIALIST),
        ({"tier": Tier.CLOUD}, Reason.EXPLICIT_TIER),
        ({"tier": Tier.MID}, Reason.EXPLICIT_TIER),
    ],
)
def test_who_names_the_answerer_is_not_asked_for_rules(constraints, reason):
    decision = route(asked(**constraints), Rule("some", "specialist:slots"))
    assert (decision.reason, decision.rule) == (reason, "")
    assert decision.specialist != "slots"


@pytest.mark.parametrize(
    ("to", "constraints", "mid", "said"),
    [
        ("cloud", {"local_only": True}, SETUP.mid, "the request forbids the cloud"),
        ("cloud", {"tier": Tier.LOCAL}, SETUP.mid, "the request forbids the cloud"),
        ("mid", {"local_only": True}, SETUP.mid, "the request forbids the mid tier"),
        ("mid", {"tier": Tier.LOCAL}, SETUP.mid, "the request forbids the mid tier"),
        ("mid", {"tier": Tier.LOCAL}, MID_ON_THIS_MACHINE, "the request forbids the mid tier"),
    ],
)
def test_a_rule_that_the_request_vetoes_is_skipped_and_said_to_be(to, constraints, mid, said):
    decision = route(asked(**constraints), Rule("some", to), setup=replace(SETUP, mid=mid))
    assert (decision.tier, decision.specialist, decision.rule) == (Tier.LOCAL, "support", "")
    assert decision.explanation.startswith(f"Rule 'some' is skipped: {said}.")


def test_the_rules_after_a_vetoed_one_still_hold():
    rules = (Rule("far", "cloud"), Rule("farther", "mid"), Rule("here", "specialist:slots"))
    decision = route(asked(local_only=True), *rules)
    assert (decision.rule, decision.specialist) == ("here", "slots")
    for said in ("Rule 'far' is skipped", "Rule 'farther' is skipped", "Rule 'here' holds"):
        assert said in decision.explanation


def test_a_request_that_stays_local_may_go_to_a_mid_tier_on_this_machine():
    decision = route(
        asked(local_only=True), Rule("some", "mid"), setup=replace(SETUP, mid=MID_ON_THIS_MACHINE)
    )
    assert (decision.tier, decision.specialist, decision.rule) == (Tier.MID, "slots", "some")


# Task types


def test_a_task_type_that_only_a_rule_names_is_known():
    by_type = Rule("by_type", "mid", task_types=("translation",))
    assert route(asked(task_type="translation"), by_type).rule == "by_type"
    with pytest.raises(InvalidRequestError, match="'poems'; known: extraction, reasoning, translation"):
        route(asked(task_type="poems"), by_type)


def test_a_rule_by_task_type_comes_before_the_specialist_that_declares_it_and_before_the_cloud():
    rules = (Rule("by_type", "specialist:support", task_types=("extraction", "reasoning")),)
    assert route(asked(task_type="extraction")).specialist == "slots"
    assert route(asked(task_type="reasoning")).tier is Tier.CLOUD
    for task_type in ("extraction", "reasoning"):
        decision = route(asked(task_type=task_type), *rules)
        assert (decision.specialist, decision.reason) == ("support", Reason.RULE)


def test_a_task_type_whose_rule_does_not_hold_is_left_to_similarity_and_said_to_be():
    picky = Rule("picky", "cloud", task_types=("translation",), tokens=Bounds(over=1000))
    decision = route(asked(task_type="translation"), picky)
    assert (decision.reason, decision.specialist) == (Reason.INTENT_MATCH, "support")
    assert decision.explanation.startswith("No rule takes task type 'translation' here.")


def test_a_task_type_whose_rule_is_vetoed_stays_local():
    decision = route(
        asked(task_type="translation", local_only=True),
        Rule("some", "cloud", task_types=("translation",)),
        evidence=FAR,
    )
    assert (decision.reason, decision.specialist) == (Reason.LOCAL_ONLY, "general")
    assert "Rule 'some' is skipped" in decision.explanation
