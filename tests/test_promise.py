"""Labelled traffic to a promise that holds."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.catalog.calibration_file import calibration_json, read_calibration
from pointsman.decision.promise import (
    LOGITS,
    Verdicts,
    control_risk,
    expected_calibration_error,
    fit_line,
    sigmoid,
    upper_bound,
)
from pointsman.errors import CatalogError
from pointsman.values.promise import Basis, LabelCounts, Promise


def traffic(n: int, seed: int = 0, wrong_at_zero: float = 0.3) -> Verdicts:
    """Prompts whose risk falls as their logit rises."""
    generator = np.random.default_rng(seed)
    logit = generator.normal(2, 2, n)
    wrong = generator.random(n) < wrong_at_zero * sigmoid(-logit) * 2
    return Verdicts(logit, np.ones(n, np.bool_), wrong, ~wrong)


def promise(**changes: object) -> Promise:
    made = Promise(
        encoder_hash="a" * 64,
        exemplar_hash="b" * 64,
        made_at=datetime(2026, 1, 2, tzinfo=UTC),
        labels=LabelCounts(100, 80, 20, 3),
        risk=0.02,
        confidence=0.95,
        slope=1.5,
        intercept=-0.25,
        required_confidence=0.75,
        wrong=1,
        bound=0.019,
        local_share=0.5,
        labels_missing=0,
        ece=0.01,
        brier=0.05,
        basis=Basis(0.05, 0.1),
    )
    return replace(made, **changes)


# The bound


@pytest.mark.parametrize(
    ("wrong", "n", "expected"),
    [(0, 149, 0.0199), (0, 148, 0.0200), (0, 59, 0.0495), (5, 100, 0.1022), (3, 3, 1.0), (0, 1, 0.95)],
)
def test_the_bound_is_clopper_and_pearsons(wrong, n, expected):
    assert upper_bound(wrong, n, 0.95) == pytest.approx(expected, abs=1e-4)


@given(st.integers(0, 50), st.integers(1, 500), st.floats(0.5, 0.99))
def test_the_bound_is_over_what_was_seen(wrong, n, confidence):
    wrong = min(wrong, n)
    assert wrong / n <= upper_bound(wrong, n, confidence) <= 1


@pytest.mark.parametrize(
    ("wrong", "n", "prompts", "expected"),
    # By hand: that a right label is followed by two wrong prompts comes about in a third of the orders of these three;
    # that 19 right labels are followed by a wrong prompt, in a twentieth of the orders of these twenty.
    [(0, 1, 2, 1.0), (0, 20, 1, 0.0), (0, 19, 1, 0.0), (0, 18, 1, 1.0), (3, 3, 10, 1.0)],
)
def test_the_bound_of_prompts_to_come_counts_them(wrong, n, prompts, expected):
    assert upper_bound(wrong, n, 0.95, prompts) == expected


@given(st.integers(0, 20), st.integers(1, 400), st.integers(1, 3000))
def test_among_few_prompts_to_come_chance_adds_to_the_bound(wrong, n, prompts):
    wrong = min(wrong, n)
    of_all = upper_bound(wrong, n, 0.95)
    if prompts > 20:
        assert upper_bound(wrong, n, 0.95, prompts) >= of_all - 1 / prompts
    assert upper_bound(wrong, n, 0.95, 10_000_000) == pytest.approx(of_all, abs=1e-4)


@pytest.mark.parametrize(("n", "prompts"), [(4, 4), (3, 6), (6, 4)])
@pytest.mark.parametrize("risk", [0.2, 0.34, 0.5])
@pytest.mark.parametrize("confidence", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("nested", [True, False])
def test_of_all_ways_to_split_prompts_into_labels_and_those_to_come_few_break_a_promise(
    n, prompts, risk, confidence, nested
):
    """Nothing is left to chance: every split of every kind of traffic drawn here is counted."""
    generator = np.random.default_rng(0)
    total, steps = n + prompts, len(LOGITS)
    for _ in range(5):
        if nested:  # each is wrong from some step on
            wrong = np.arange(steps)[:, None] >= generator.integers(0, 40, total)
        else:  # a later turn of a conversation may come right again
            wrong = generator.random((steps, total)) < 0.3
            wrong[0] = False
        every = Verdicts(np.zeros(total), np.ones((steps, total), np.bool_), wrong, ~wrong[-1])
        splits = [np.array(labels) for labels in combinations(range(total), n)]
        broken = 0
        for labels in splits:
            bound = control_risk(every.rows(labels), risk, confidence, prompts)
            if bound.logit is not None:
                coming = every.rows(np.setdiff1d(np.arange(total), labels))
                step = int(np.flatnonzero(bound.logit == LOGITS)[0])
                broken += coming.wrong_at(step).sum() > risk * prompts
        assert broken <= (1 - confidence) * len(splits) + 1e-9


# Risk


def test_the_risk_found_is_within_the_promise_on_these_labels():
    verdicts = traffic(2000)
    bound = control_risk(verdicts, 0.05, 0.95)
    taken = verdicts.local & (verdicts.logit >= bound.logit)
    assert bound.wrong == (taken & verdicts.wrong).sum()
    assert bound.upper <= 0.05
    assert bound.local_share == taken.mean() > 0.3


def test_the_promise_is_kept_on_fresh_traffic_about_as_often_as_said():
    fresh = traffic(200_000, seed=999)
    broken = 0
    for seed in range(200):
        bound = control_risk(traffic(400, seed), 0.05, 0.9)
        if bound.logit is not None:
            broken += ((fresh.logit >= bound.logit) & fresh.wrong).mean() > 0.05
    assert broken <= 30  # 10 % of 200 are 20; a promise made at 50 % would break about 100 times


@pytest.mark.parametrize(("prompts", "least", "most"), [(None, 0.11, 0.25), (400, 0.02, 0.10)])
def test_a_promise_about_the_next_prompts_is_kept_among_them(prompts, least, most):
    """One about all to come says less of the next 400: chance breaks it there more often."""
    broken = 0
    for seed in range(1000):
        both = traffic(1000, seed)
        labels, coming = both.rows(slice(600)), both.rows(slice(600, None))
        bound = control_risk(labels, 0.05, 0.9, prompts)
        if bound.logit is not None:
            broken += ((coming.logit >= bound.logit) & coming.wrong).sum() > 20
    assert least < broken / 1000 < most


@settings(deadline=None)
@given(st.integers(0, 30), st.floats(0.01, 0.2), st.floats(0.01, 0.2))
def test_less_risk_takes_no_more_locally(seed, a, b):
    low, high = sorted([a, b])
    verdicts = traffic(500, seed)
    assert control_risk(verdicts, low, 0.95).local_share <= control_risk(verdicts, high, 0.95).local_share


def test_prompts_that_are_not_local_are_no_risk():
    verdicts = traffic(300)
    nowhere = replace(verdicts, local=np.zeros(300, np.bool_))
    bound = control_risk(nowhere, 0.02, 0.95)
    assert bound.logit is None
    assert bound.local_share == 0


def test_too_few_labels_promise_nothing_and_say_how_many_are_missing():
    clean = Verdicts(
        np.full(100, 5.0), np.ones(100, np.bool_), np.zeros(100, np.bool_), np.ones(100, np.bool_)
    )
    bound = control_risk(clean, 0.02, 0.95)
    assert bound.logit is None
    assert bound.labels_missing == 49  # 0 of 149 wrong is the least that shows 2 % at 95 %
    assert control_risk(clean, 0.02, 0.95, 10_000).labels_missing == 49
    assert control_risk(clean, 0.02, 0.95, 1_000).labels_missing == 52
    enough = Verdicts(*(np.repeat(getattr(clean, f)[:1], 149) for f in ("logit", "local", "wrong", "right")))
    assert control_risk(enough, 0.02, 0.95).local_share == 1


def test_labels_that_are_mostly_wrong_say_that_more_will_not_help():
    n = 500
    verdicts = Verdicts(np.full(n, 5.0), np.ones(n, np.bool_), np.ones(n, np.bool_), np.zeros(n, np.bool_))
    bound = control_risk(verdicts, 0.02, 0.95)
    assert bound.logit is None
    assert bound.labels_missing is None


# Confidence


def test_the_line_calibrates_what_was_too_sure():
    generator = np.random.default_rng(0)
    truth = generator.normal(0, 2, 5000)
    right = generator.random(5000) < sigmoid(truth)
    slope, intercept = fit_line(3 * truth + 1, right)
    assert slope == pytest.approx(1 / 3, abs=0.03)
    assert intercept == pytest.approx(-1 / 3, abs=0.1)
    before = expected_calibration_error(sigmoid(3 * truth + 1), right)
    assert expected_calibration_error(sigmoid(slope * (3 * truth + 1) + intercept), right) < before / 3


@pytest.mark.parametrize("right", [np.ones(20, np.bool_), np.zeros(20, np.bool_)])
def test_labels_of_one_outcome_leave_confidence_as_it_is(right):
    assert fit_line(np.linspace(-2, 2, 20), right) == (1.0, 0.0)


def test_a_line_that_would_turn_confidence_round_is_not_used():
    logit = np.linspace(-3, 3, 200)
    assert fit_line(logit, logit < 0) == (1.0, 0.0)


# The file


def test_a_calibration_file_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(calibration_json(promise(prompts=500)))
    assert read_calibration(path) == promise(prompts=500)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("required_confidence", 1.5),
        ("encoder_hash", "short"),
        ("slope", -1),
        ("risk", 0),
        ("made_at", "yesterday"),
        ("version", 2),
        ("labels", {"total": 0}),
        ("surprise", 1),
    ],
)
def test_a_calibration_file_with_a_bad_field_names_file_field_and_value(tmp_path, field, value):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(calibration_json(promise())) | {field: value}))
    with pytest.raises(CatalogError) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_calibration_file_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "calibration.json"
    path.write_text(content)
    with pytest.raises(CatalogError, match=r"calibration\.json"):
        read_calibration(path)


def test_a_promise_that_takes_nothing_does_not_hold():
    assert promise().holds
    assert not promise(required_confidence=1.0).holds


# What it holds for


def test_a_promise_is_stale_with_other_settings_of_thresholds_and_confidences():
    fresh = ("a" * 64, "b" * 64)
    assert promise().stale(*fresh, Basis(0.05, 0.1)) == ""
    assert promise().stale(*fresh, Basis(0.2, 0.1)) == "made with routing.rejection = 0.05, now 0.2"
    assert promise().stale(*fresh, Basis(0.05, 0.0)) == "made with routing.out_of_scope = 0.1, now 0.0"
    assert "routing.mid = '', now 'cloud:m'" in promise().stale(*fresh, Basis(0.05, 0.1, "cloud:m"))
    assert "sets thresholds in another way" in promise().stale(*fresh, Basis(0.05, 0.1, scoring=2))


def test_a_file_that_does_not_note_its_settings_is_read_and_is_stale(tmp_path):
    fields = json.loads(calibration_json(promise()))
    del fields["basis"], fields["labels"]["conversations"]
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(fields))
    read = read_calibration(path)
    assert read == promise(basis=None)
    assert "does not say which routing.rejection" in read.stale("a" * 64, "b" * 64, Basis(0.05, 0.1))


# Routes that depend on more than their own confidence


def test_steps_that_are_given_one_by_one_find_the_same_bound():
    verdicts = traffic(2000)
    steps = range(len(LOGITS))
    spelled = replace(
        verdicts,
        local=np.stack([verdicts.taken(step) for step in steps]),
        wrong=np.stack([verdicts.wrong for _ in steps]),
    )
    assert control_risk(spelled, 0.05, 0.95) == control_risk(verdicts, 0.05, 0.95)
    assert control_risk(spelled, 0.0001, 0.95) == control_risk(verdicts, 0.0001, 0.95)
