"""Constraints to rulings, rulings and evidence to routes. Both rooms are pure, so all of it can be tried."""

from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from builders import make_intent, make_specialist
from pointsman.decision.decide import Setup, decide, without_cloud
from pointsman.errors import InvalidRequestError, NoRouteError, PointsmanError, UnknownNameError
from pointsman.policy.rules import Ruling, rule
from pointsman.values.catalog import CLOUD, MID, Bounds, Catalog, Mid, Rule
from pointsman.values.decision import Decision, Evidence, Hardness, Reason
from pointsman.values.request import Constraints, Message, Request, Role, Tier

CATALOG = Catalog(
    intents=(make_intent(), make_intent("law", CLOUD)),
    specialists=(
        make_specialist("general"),
        make_specialist("sums", ("arithmetic", "shared")),
        make_specialist("support", ("shared",)),
    ),
)
CLOUD_TASKS = ("reasoning", "shared")
SETUP = Setup(
    catalog=CATALOG,
    version="v1",
    cloud_model="big-model",
    general_specialist="general",
    general_without_cloud=True,
    general_when_cloud_down=True,
)
NEAR = Evidence(intent="refund", target="support", similarity=0.9, score=0.8, threshold=0.6, confidence=0.7)
FAR = replace(NEAR, similarity=0.2, score=0.3, confidence=0)
NEAR_CLOUD = replace(NEAR, intent="law", target=CLOUD)
NOTHING = Evidence()
NO_CLOUD = replace(SETUP, cloud_model=None)
LOCAL_MID = replace(SETUP, mid=Mid(specialist="sums"))
CLOUD_MID = replace(SETUP, mid=Mid(model="middling-model"))
HARD = replace(NEAR, hardness=Hardness(0.5, 0.2))
UNSURE = replace(NEAR, required_confidence=0.84)
PROMPT = "What is 2 + 2?"


def ruled(constraints: Constraints, catalog: Catalog, mid: Mid | None = None) -> Ruling:
    """Rule on a request of one short message."""
    request = Request((Message(Role.USER, PROMPT),), constraints, caller="batch", budget_s=0.5)
    return rule(request, catalog, CLOUD_TASKS, mid)


def route(constraints: Constraints, evidence: Evidence, setup: Setup = SETUP) -> Decision:
    """Decide as the router does: evidence is looked for only where the ruling needs it."""
    ruling = ruled(constraints, setup.catalog, setup.mid)
    return decide(ruling, evidence if ruling.needs_similarity else NOTHING, setup)


constraints_of_all_kinds = st.builds(
    Constraints,
    specialist=st.sampled_from([None, "support", "sums", "nobody"]),
    tier=st.sampled_from([None, *Tier]),
    task_type=st.sampled_from([None, "arithmetic", "shared", "reasoning", "ruled", "unheard_of"]),
    local_only=st.booleans(),
)
evidence_of_all_kinds = st.just(NOTHING) | st.builds(
    Evidence,
    intent=st.just("refund"),
    target=st.sampled_from(["support", "sums", "general", CLOUD, MID]),
    similarity=st.floats(-1, 1),
    score=st.floats(-1, 1),
    threshold=st.floats(-1, 1),
    confidence=st.floats(0, 1),
    required_confidence=st.floats(0, 1),
    hardness=st.none() | st.builds(Hardness, st.floats(-1, 1), st.none() | st.floats(-1, 1)),
    follow_up=st.booleans(),
)
rules_of_all_kinds = st.builds(
    Rule,
    name=st.just("some_rule"),
    to=st.sampled_from(["cloud", "mid", "local", "specialist:sums"]),
    task_types=st.sampled_from([(), ("ruled",), ("shared", "reasoning")]),
    callers=st.sampled_from([(), ("batch",), ("nobody",)]),
    tokens=st.sampled_from([None, Bounds(over=1), Bounds(over=1000)]),
)
setups_of_all_kinds = st.builds(
    Setup,
    catalog=st.lists(rules_of_all_kinds, max_size=3).map(lambda rules: replace(CATALOG, rules=tuple(rules))),
    version=st.just("v1"),
    cloud_model=st.sampled_from([None, "big-model"]),
    general_specialist=st.sampled_from([None, "general", "not_registered"]),
    general_without_cloud=st.booleans(),
    general_when_cloud_down=st.booleans(),
    mid=st.sampled_from([None, LOCAL_MID.mid, CLOUD_MID.mid, Mid(specialist="not_registered")]),
)
everything = given(constraints_of_all_kinds, evidence_of_all_kinds, setups_of_all_kinds)


# What holds of every route


@everything
@example(Constraints(local_only=True), FAR, SETUP)
@example(Constraints(local_only=True), NEAR_CLOUD, SETUP)
@example(Constraints(local_only=True), NOTHING, SETUP)
@example(Constraints(local_only=True, task_type="reasoning"), NEAR, SETUP)
@example(Constraints(local_only=True, task_type="shared"), NEAR, SETUP)
@example(Constraints(local_only=True, specialist="support"), NEAR, SETUP)
@example(Constraints(local_only=True), HARD, SETUP)
@example(Constraints(local_only=True), HARD, CLOUD_MID)
@example(Constraints(local_only=True), replace(NEAR, target=MID), CLOUD_MID)
@example(Constraints(local_only=True), UNSURE, SETUP)
def test_a_local_only_request_never_reaches_the_cloud(constraints, evidence, setup):
    local = replace(constraints, local_only=True)
    try:
        decision = route(local, evidence, setup)
    except PointsmanError:
        return
    assert decision.tier is not Tier.CLOUD
    assert decision.specialist is not None


@everything
def test_a_request_for_the_local_tier_never_reaches_the_cloud(constraints, evidence, setup):
    try:
        decision = route(replace(constraints, tier=Tier.LOCAL), evidence, setup)
    except PointsmanError:
        return
    assert decision.tier is Tier.LOCAL


@everything
def test_nothing_reaches_a_cloud_that_is_not_configured(constraints, evidence, setup):
    try:
        decision = route(constraints, evidence, replace(setup, cloud_model=None))
    except PointsmanError:
        return
    assert decision.tier is not Tier.CLOUD


@everything
def test_a_route_is_found_or_refused_for_a_reason_on_purpose(constraints, evidence, setup):
    try:
        decision = route(constraints, evidence, setup)
    except (InvalidRequestError, UnknownNameError, NoRouteError):
        return
    if decision.tier is Tier.MID:
        assert setup.mid is not None
        assert decision.specialist == setup.mid.specialist
    else:
        assert (decision.specialist is None) == (decision.tier is Tier.CLOUD)
    if decision.specialist is None:
        assert decision.model == (setup.mid.model if decision.tier is Tier.MID else setup.cloud_model)
    else:
        assert setup.catalog.specialist(decision.specialist) is not None
        assert decision.model == "file:base.gguf"
    assert decision.catalog_version == setup.version
    assert decision.explanation.endswith(".")


@everything
def test_a_named_specialist_answers_or_nobody_does(constraints, evidence, setup):
    assume(constraints.specialist is not None)
    try:
        decision = route(constraints, evidence, setup)
    except (InvalidRequestError, UnknownNameError):
        return
    assert (decision.specialist, decision.reason) == (constraints.specialist, Reason.EXPLICIT_SPECIALIST)


@everything
def test_a_local_ruling_looks_for_no_cloud_when_the_cloud_is_down(constraints, evidence, setup):
    try:
        decision = route(constraints, evidence, setup)
    except PointsmanError:
        return
    fallback = without_cloud(decision, setup, "The cloud is down")
    assert fallback is None or (fallback.tier, fallback.specialist) == (Tier.LOCAL, "general")


@everything
def test_the_name_of_a_rule_stands_in_the_decision_that_it_made(constraints, evidence, setup):
    try:
        decision = route(constraints, evidence, setup)
    except PointsmanError:
        return
    assert decision.rule in {"", *(rule.name for rule in setup.catalog.rules)}
    assert decision.reason is not Reason.RULE or decision.rule
    if decision.rule:
        assert f"Rule {decision.rule!r} holds" in decision.explanation
        assert decision.reason in {Reason.RULE, Reason.NO_CLOUD}


@everything
def test_only_what_similarity_sent_to_a_specialist_moves_up_for_being_hard(constraints, evidence, setup):
    try:
        decision = route(constraints, evidence, setup)
        at_ease = route(constraints, replace(evidence, hardness=None), setup)
    except PointsmanError:
        return
    if decision.reason is Reason.DIFFICULTY:
        assert at_ease.specialist == evidence.target
        assert decision.specialist != evidence.target
    else:
        assert (decision.specialist, decision.reason) == (at_ease.specialist, at_ease.reason)


# Rules


def test_no_constraints_leave_it_to_similarity():
    ruling = ruled(Constraints(), CATALOG)
    assert ruling == Ruling()
    assert ruling.needs_similarity


def test_a_named_specialist_is_ruled_without_similarity():
    ruling = ruled(Constraints(specialist="sums"), CATALOG)
    assert (ruling.specialist, ruling.tier, ruling.reason) == ("sums", Tier.LOCAL, Reason.EXPLICIT_SPECIALIST)
    assert "'sums'" in ruling.explanation
    assert not ruling.needs_similarity


def test_an_unknown_specialist_is_told_the_known_ones():
    with pytest.raises(UnknownNameError, match="'nobody'; known: general, sums, support"):
        ruled(Constraints(specialist="nobody"), CATALOG)


def test_a_named_cloud_is_ruled_without_similarity():
    ruling = ruled(Constraints(tier=Tier.CLOUD), CATALOG)
    assert (ruling.tier, ruling.reason) == (Tier.CLOUD, Reason.EXPLICIT_TIER)
    assert not ruling.needs_similarity


def test_a_named_mid_tier_is_ruled_without_similarity():
    ruling = ruled(Constraints(tier=Tier.MID, task_type="arithmetic"), CATALOG)
    assert (ruling.tier, ruling.reason, ruling.specialist) == (Tier.MID, Reason.EXPLICIT_TIER, None)
    assert not ruling.needs_similarity


def test_a_mid_tier_of_the_cloud_contradicts_local_only_and_one_of_a_specialist_does_not():
    constraints = Constraints(tier=Tier.MID, local_only=True)
    assert ruled(constraints, CATALOG, LOCAL_MID.mid).tier is Tier.MID
    with pytest.raises(InvalidRequestError, match=r"'middling-model' answers it \(routing\.mid\)") as caught:
        ruled(constraints, CATALOG, CLOUD_MID.mid)
    assert caught.value.field == "constraints.tier"


def test_a_named_local_tier_still_needs_similarity():
    ruling = ruled(Constraints(tier=Tier.LOCAL), CATALOG)
    assert (ruling.tier, ruling.reason) == (Tier.LOCAL, Reason.EXPLICIT_TIER)
    assert ruling.stays_local
    assert ruling.needs_similarity


def test_local_only_is_a_veto_and_no_reason():
    ruling = ruled(Constraints(local_only=True), CATALOG)
    assert (ruling.stays_local, ruling.reason) == (True, None)


@pytest.mark.parametrize(
    ("constraints", "specialist"),
    [
        (Constraints(task_type="arithmetic"), "sums"),
        (Constraints(task_type="shared"), "sums"),  # the first that declares it, before the cloud
        (Constraints(task_type="shared", tier=Tier.LOCAL), "sums"),
        (Constraints(task_type="reasoning"), None),
    ],
)
def test_a_task_type_names_who_answers(constraints, specialist):
    ruling = ruled(constraints, CATALOG)
    assert (ruling.specialist, ruling.reason) == (specialist, Reason.TASK_TYPE)
    assert ruling.tier is (Tier.CLOUD if specialist is None else Tier.LOCAL)
    assert repr(constraints.task_type) in ruling.explanation


@pytest.mark.parametrize("task_type", ["shared", "reasoning"])
def test_a_task_type_for_the_cloud_beside_the_cloud_itself_is_an_explicit_tier(task_type):
    ruling = ruled(Constraints(task_type=task_type, tier=Tier.CLOUD), CATALOG)
    assert (ruling.specialist, ruling.tier, ruling.reason) == (None, Tier.CLOUD, Reason.EXPLICIT_TIER)


def test_an_unknown_task_type_is_told_the_known_ones():
    with pytest.raises(
        InvalidRequestError, match="'unheard_of'; known: arithmetic, reasoning, shared"
    ) as caught:
        ruled(Constraints(task_type="unheard_of"), CATALOG)
    assert caught.value.field == "constraints.task_type"


@pytest.mark.parametrize(
    ("constraints", "field", "message"),
    [
        (Constraints(local_only=True, tier=Tier.CLOUD), "constraints.tier", "contradicts local_only"),
        (
            Constraints(specialist="sums", tier=Tier.CLOUD),
            "constraints.tier",
            "contradicts specialist 'sums'",
        ),
        (
            Constraints(specialist="sums", tier=Tier.MID),
            "constraints.tier",
            "tier mid contradicts specialist 'sums'",
        ),
        (Constraints(task_type="reasoning", local_only=True), "constraints.task_type", "'reasoning'"),
        (Constraints(task_type="reasoning", tier=Tier.LOCAL), "constraints.task_type", "'reasoning'"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(constraints, field, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        ruled(constraints, CATALOG)
    assert caught.value.field == field


def test_a_specialist_comes_before_a_task_type():
    ruling = ruled(Constraints(specialist="support", task_type="arithmetic"), CATALOG)
    assert (ruling.specialist, ruling.reason) == ("support", Reason.EXPLICIT_SPECIALIST)


def test_a_task_type_comes_before_a_tier():
    ruling = ruled(Constraints(task_type="arithmetic", tier=Tier.LOCAL), CATALOG)
    assert (ruling.specialist, ruling.reason) == ("sums", Reason.TASK_TYPE)


# Every reason


@pytest.mark.parametrize(
    ("constraints", "evidence", "setup", "reason", "specialist"),
    [
        (Constraints(), NEAR, SETUP, Reason.INTENT_MATCH, "support"),
        (Constraints(), NEAR_CLOUD, SETUP, Reason.INTENT_MATCH, None),
        (Constraints(), FAR, SETUP, Reason.LOW_SIMILARITY, None),
        (Constraints(), NOTHING, SETUP, Reason.LOW_SIMILARITY, None),
        (Constraints(specialist="sums"), NEAR, SETUP, Reason.EXPLICIT_SPECIALIST, "sums"),
        (Constraints(tier=Tier.CLOUD), NEAR, SETUP, Reason.EXPLICIT_TIER, None),
        (Constraints(tier=Tier.LOCAL), NEAR, SETUP, Reason.EXPLICIT_TIER, "support"),
        (Constraints(tier=Tier.LOCAL), FAR, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(tier=Tier.LOCAL), NEAR_CLOUD, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(task_type="arithmetic"), NEAR, SETUP, Reason.TASK_TYPE, "sums"),
        (Constraints(task_type="reasoning"), NEAR, SETUP, Reason.TASK_TYPE, None),
        (Constraints(task_type="reasoning"), NEAR, NO_CLOUD, Reason.NO_CLOUD, "general"),
        (Constraints(local_only=True), NEAR, SETUP, Reason.INTENT_MATCH, "support"),
        (Constraints(local_only=True), FAR, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(local_only=True), NEAR_CLOUD, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(local_only=True), NOTHING, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(local_only=True), FAR, NO_CLOUD, Reason.LOCAL_ONLY, "general"),
        (Constraints(), NEAR, NO_CLOUD, Reason.INTENT_MATCH, "support"),
        (Constraints(), FAR, NO_CLOUD, Reason.NO_CLOUD, "general"),
        (Constraints(), NEAR_CLOUD, NO_CLOUD, Reason.NO_CLOUD, "general"),
        (Constraints(), NOTHING, NO_CLOUD, Reason.NO_CLOUD, "general"),
        (Constraints(tier=Tier.MID), NOTHING, LOCAL_MID, Reason.EXPLICIT_TIER, "sums"),
        (Constraints(tier=Tier.MID), NOTHING, CLOUD_MID, Reason.EXPLICIT_TIER, None),
        (Constraints(), replace(NEAR, target=MID), LOCAL_MID, Reason.INTENT_MATCH, "sums"),
        (Constraints(), replace(NEAR, target=MID), CLOUD_MID, Reason.INTENT_MATCH, None),
        (Constraints(local_only=True), replace(NEAR, target=MID), LOCAL_MID, Reason.INTENT_MATCH, "sums"),
        (Constraints(local_only=True), replace(NEAR, target=MID), CLOUD_MID, Reason.LOCAL_ONLY, "general"),
        (Constraints(tier=Tier.LOCAL), replace(NEAR, target=MID), LOCAL_MID, Reason.LOCAL_ONLY, "general"),
        (Constraints(), UNSURE, SETUP, Reason.LOW_CONFIDENCE, None),
        (Constraints(), replace(UNSURE, confidence=0.84), SETUP, Reason.INTENT_MATCH, "support"),
        (Constraints(), UNSURE, NO_CLOUD, Reason.NO_CLOUD, "general"),
        (Constraints(local_only=True), UNSURE, SETUP, Reason.LOCAL_ONLY, "general"),
        (Constraints(), replace(FAR, required_confidence=0.84), SETUP, Reason.LOW_SIMILARITY, None),
        (Constraints(), HARD, SETUP, Reason.DIFFICULTY, None),
        (Constraints(), HARD, LOCAL_MID, Reason.DIFFICULTY, "sums"),
        (Constraints(), HARD, CLOUD_MID, Reason.DIFFICULTY, None),
        (Constraints(), HARD, NO_CLOUD, Reason.INTENT_MATCH, "support"),
        (Constraints(), replace(HARD, hardness=Hardness(0.2, 0.2)), SETUP, Reason.INTENT_MATCH, "support"),
        (Constraints(), replace(HARD, hardness=Hardness(-1, None)), SETUP, Reason.DIFFICULTY, None),
        (Constraints(), replace(HARD, target=CLOUD), SETUP, Reason.INTENT_MATCH, None),
        (Constraints(), replace(HARD, target="sums"), LOCAL_MID, Reason.DIFFICULTY, None),
        (Constraints(local_only=True), HARD, SETUP, Reason.INTENT_MATCH, "support"),
        (Constraints(local_only=True), HARD, LOCAL_MID, Reason.DIFFICULTY, "sums"),
        (Constraints(local_only=True), HARD, CLOUD_MID, Reason.INTENT_MATCH, "support"),
        (Constraints(tier=Tier.LOCAL), HARD, LOCAL_MID, Reason.EXPLICIT_TIER, "support"),
        (Constraints(specialist="sums"), HARD, SETUP, Reason.EXPLICIT_SPECIALIST, "sums"),
        (Constraints(), replace(NEAR, follow_up=True), SETUP, Reason.FOLLOW_UP, "support"),
        (Constraints(), replace(NEAR_CLOUD, follow_up=True), SETUP, Reason.FOLLOW_UP, None),
        (Constraints(), replace(FAR, follow_up=True), SETUP, Reason.LOW_SIMILARITY, None),
        (Constraints(), replace(HARD, follow_up=True), SETUP, Reason.DIFFICULTY, None),
    ],
)
def test_a_route_has_its_reason(constraints, evidence, setup, reason, specialist):
    decision = route(constraints, evidence, setup)
    assert (decision.reason, decision.specialist) == (reason, specialist)


def test_a_score_at_the_threshold_is_accepted():
    assert route(Constraints(), replace(NEAR, score=0.6)).specialist == "support"


@pytest.mark.parametrize(("evidence", "verdict"), [(NEAR, "reaches"), (FAR, "is below")])
def test_an_explanation_names_intent_score_and_threshold(evidence, verdict):
    text = route(Constraints(), evidence).explanation
    assert f"'refund': its score {evidence.score:.3f} {verdict} the threshold 0.600" in text


def test_a_hard_prompt_goes_to_the_mid_tier_before_the_cloud():
    decision = route(Constraints(), HARD, CLOUD_MID)
    assert (decision.tier, decision.model) == (Tier.MID, "middling-model")
    assert route(Constraints(), HARD, SETUP).tier is Tier.CLOUD


@pytest.mark.parametrize(
    ("evidence", "setup", "says"),
    [
        (
            UNSURE,
            SETUP,
            "its score 0.800 reaches the threshold 0.600, but confidence 0.700 is below the required 0.840.",
        ),
        (
            replace(UNSURE, confidence=0.9),
            SETUP,
            "reaches the threshold 0.600, and confidence 0.900 reaches the required 0.840.",
        ),
        (HARD, SETUP, "its difficulty 0.500 is above the threshold 0.200. So the cloud answers."),
        (HARD, CLOUD_MID, "above the threshold 0.200. So the mid tier answers."),
        (HARD, NO_CLOUD, "Nothing above the local tier may answer, so it stays."),
        (
            replace(HARD, hardness=Hardness(0.125, None)),
            SETUP,
            "No difficulty threshold is known for it (score 0.125)",
        ),
        (
            replace(NEAR, follow_up=True),
            SETUP,
            "The turn follows up on the one before it, with intent 'refund': its score 0.800 reaches",
        ),
    ],
)
def test_an_explanation_says_by_what_it_was_judged(evidence, setup, says):
    assert says in route(Constraints(), evidence, setup).explanation


def test_an_explanation_says_when_there_are_no_intents():
    assert "no intents" in route(Constraints(), NOTHING).explanation


def test_an_explanation_of_a_local_tier_names_the_rule_and_the_intent():
    text = route(Constraints(tier=Tier.LOCAL), NEAR).explanation
    assert "names the local tier" in text
    assert "'refund'" in text


def test_a_decision_carries_its_evidence_and_the_version():
    decision = route(Constraints(), NEAR)
    assert (decision.evidence, decision.catalog_version) == (NEAR, "v1")


def test_a_model_is_named_by_the_file_of_the_base():
    base = replace(make_specialist().base, uri="pypi:llm==1/dir/tiny.Q4.gguf")
    catalog = replace(CATALOG, specialists=(replace(make_specialist(), base=base),))
    assert route(Constraints(), NEAR, replace(SETUP, catalog=catalog)).model == "tiny.Q4.gguf"


# No route


@pytest.mark.parametrize("evidence", [FAR, NEAR_CLOUD, NOTHING])
def test_without_a_cloud_settings_may_refuse_instead_of_asking_the_generalist(evidence):
    with pytest.raises(NoRouteError, match=r"set cloud\.model, or routing\.on_no_cloud to 'general'"):
        route(Constraints(), evidence, replace(NO_CLOUD, general_without_cloud=False))


@pytest.mark.parametrize("general", [None, "not_registered"])
def test_without_a_cloud_and_a_generalist_the_error_names_what_to_set(general):
    with pytest.raises(NoRouteError, match=r"set cloud\.model, or routing\.general_specialist"):
        route(Constraints(), FAR, replace(NO_CLOUD, general_specialist=general))


@pytest.mark.parametrize("general", [None, "not_registered"])
def test_a_local_request_without_a_generalist_names_what_to_set(general):
    with pytest.raises(NoRouteError, match=r"set routing\.general_specialist"):
        route(Constraints(local_only=True), FAR, replace(SETUP, general_specialist=general))


def test_a_named_cloud_that_is_not_configured_is_no_question_of_settings():
    with pytest.raises(NoRouteError, match=r"names the cloud, but none is configured; set cloud\.model"):
        route(Constraints(tier=Tier.CLOUD), NOTHING, NO_CLOUD)


def test_an_intent_that_is_near_needs_no_cloud_and_no_generalist():
    setup = replace(NO_CLOUD, general_specialist=None, general_without_cloud=False)
    assert route(Constraints(), NEAR, setup).specialist == "support"


def test_a_named_mid_tier_that_is_not_configured_names_the_setting():
    with pytest.raises(NoRouteError, match=r"names the mid tier.*set routing\.mid"):
        route(Constraints(tier=Tier.MID), NOTHING)


def test_a_named_mid_tier_whose_specialist_is_not_registered_names_it_and_the_setting():
    setup = replace(SETUP, mid=Mid(specialist="nobody"))
    with pytest.raises(NoRouteError, match=r"routing\.mid.*'nobody' is not registered"):
        route(Constraints(tier=Tier.MID), NOTHING, setup)
    assert route(Constraints(), HARD, setup).tier is Tier.CLOUD  # it is passed over where it was not named


# The cloud is down


def test_the_generalist_takes_over_from_a_cloud_that_is_down():
    decision = route(Constraints(), FAR)
    fallback = without_cloud(decision, SETUP, "The cloud answered 503")
    assert fallback is not None
    assert (fallback.tier, fallback.specialist, fallback.reason) == (Tier.LOCAL, "general", Reason.CLOUD_DOWN)
    assert fallback.evidence == FAR
    assert "The cloud answered 503; the general specialist answers instead." in fallback.explanation
    assert decision.explanation in fallback.explanation


@pytest.mark.parametrize(
    "setup",
    [
        replace(SETUP, general_when_cloud_down=False),
        replace(SETUP, general_specialist=None),
        replace(SETUP, general_specialist="not_registered"),
    ],
)
def test_nobody_takes_over_where_settings_want_none_or_there_is_none(setup):
    assert without_cloud(route(Constraints(), FAR), setup, "The cloud is down") is None
