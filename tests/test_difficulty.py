"""Difficulty, against its formulas written again in plain NumPy, and its promise, against the truth."""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import unit_rows
from outcome_builders import HASH, D, outcomes_of
from pointsman.decision.difficulty import ALL_CLOUD, Difficulty, QualityPromise, fit, safe_threshold
from pointsman.decision.estimator import estimate
from pointsman.decision.outcomes import calibration_cut, in_calibration, make_outcomes
from pointsman.decision.ridge import PENALTIES, choose_alpha, no_moments, text_features
from pointsman.index.outcome_index import NEAREST, OutcomeIndex
from pointsman.review.difficulty import measure, review


@pytest.fixture(scope="module")
def fitted() -> Difficulty:
    return fit(outcomes_of(900, 1), outcomes_of(500, 2), QualityPromise(0.9, 0.9), HASH, 0.25)


# Text features


def test_text_features_are_the_five_that_the_docs_name():
    found = text_features(["In 1999,\n 12 apples cost 3.50\n"])[0]
    expected = [math.log(30), math.log(1 + 6), 9 / 30, math.log(1 + 4), math.log(1 + 2)]
    np.testing.assert_allclose(found, expected)


@given(st.text())
def test_text_features_of_any_text_are_finite(text):
    assert np.isfinite(text_features([text])).all()


# Ridge regression


def standardised(rows, features):
    spread = features.std(axis=0)
    return np.hstack(
        [rows, 0.2 * (features - features.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)]
    )


def ridge_by_least_squares(x, y, alpha):
    """Return intercept and weights; the intercept is not penalised."""
    n, p = x.shape
    stacked = np.vstack(
        [np.hstack([np.ones((n, 1)), x]), np.hstack([np.zeros((p, 1)), alpha**0.5 * np.eye(p)])]
    )
    return np.linalg.lstsq(stacked, np.append(y, np.zeros(p)), rcond=None)[0]


@pytest.mark.parametrize("alpha", [0.01, 1.0, 300.0])
def test_the_weights_are_those_of_penalised_least_squares(alpha):
    labels = outcomes_of(80)
    ridge = no_moments(D).add(labels.rows, labels.features, labels.gains).solve(alpha)
    x = standardised(labels.rows.astype(float), labels.features)
    solution = ridge_by_least_squares(x, labels.gains, alpha)
    expected = solution[0] + x @ solution[1:]
    np.testing.assert_allclose(ridge.predict(labels.rows, labels.features), expected, atol=1e-8)


def test_alpha_has_the_least_error_over_prompts_left_out_one_by_one():
    labels = outcomes_of(40, 3)
    moments = no_moments(D).add(labels.rows, labels.features, labels.gains)
    x, y = standardised(labels.rows.astype(float), labels.features), labels.gains
    errors = np.zeros(len(PENALTIES))
    for i in range(len(y)):
        kept = np.arange(len(y)) != i
        for j, alpha in enumerate(PENALTIES):
            solution = ridge_by_least_squares(x[kept], y[kept], alpha)
            errors[j] += (y[i] - solution[0] - x[i] @ solution[1:]) ** 2
    assert choose_alpha(moments, labels.rows, labels.features, y) == PENALTIES[errors.argmin()]
    assert 0 < errors.argmin() < len(PENALTIES) - 1, "an end of the grid would prove little"


def test_a_text_feature_that_never_varies_weighs_nothing():
    labels = outcomes_of(60)
    labels.features[:, 2] = 0.1 + 0.2
    ridge = no_moments(D).add(labels.rows, labels.features, labels.gains).solve(1.0)
    assert ridge.weights[D + 2] == 0
    assert np.isfinite(ridge.weights).all()


@given(st.lists(st.integers(0, 120), max_size=4))
def test_sums_that_grew_are_the_sums_over_everything(ends):
    labels = outcomes_of(120)
    bounds = [0, *sorted(ends), 120]
    grown = no_moments(D)
    for start, end in pairwise(bounds):
        part = labels.take(np.arange(start, end))
        grown = grown.add(part.rows, part.features, part.gains)
    whole = no_moments(D).add(labels.rows, labels.features, labels.gains)
    np.testing.assert_allclose(grown.solve(1.0).weights, whole.solve(1.0).weights, atol=1e-9)


# Index


@given(st.integers(0, 130), st.integers(0, 130), st.integers(0, 9))
def test_appended_rows_are_found_as_if_they_had_always_been_there(before, after, seed):
    generator = np.random.default_rng(seed)
    rows, queries = unit_rows(generator, before + after, D), unit_rows(generator, 5, D)
    found = OutcomeIndex(rows[:before]).append(rows[before:]).nearest(queries)
    assert found.shape == (5, min(NEAREST, before + after))
    similarities = queries @ rows.T
    expected = -np.sort(-similarities, axis=1)[:, : found.shape[1]]
    np.testing.assert_allclose(np.take_along_axis(similarities, found, axis=1), expected, atol=1e-6)


def test_an_index_that_was_appended_to_stays_as_it_was():
    generator = np.random.default_rng(0)
    rows, query = unit_rows(generator, 60, D), unit_rows(generator, 1, D)
    index = OutcomeIndex(rows)
    before = index.nearest(query)
    longer = index.append(query)
    assert longer.nearest(query)[0, 0] == 60
    assert len(index) == 60
    np.testing.assert_array_equal(index.nearest(query), before)


# Estimator


def test_the_estimate_by_neighbours_is_shrunk_twice():
    labels, queries = outcomes_of(400, 1), outcomes_of(30, 2)
    moments = no_moments(D).add(labels.rows, labels.features, labels.gains)
    estimator = estimate(labels, moments, 1.0, OutcomeIndex(labels.rows))
    topics = (*queries.topics[:-1], "never seen")
    for row, topic, found in zip(
        queries.rows, topics, estimator.score_by_neighbours(queries.rows, topics), strict=True
    ):
        nearest = np.argsort(-(labels.rows @ row))[:50]
        mean = labels.gains.mean()
        own = labels.gains[[other == topic for other in labels.topics]]
        rate = (own.sum() + 10 * mean) / (len(own) + 10)
        assert found == pytest.approx((labels.gains[nearest].sum() + 50 * rate) / 100, abs=1e-12)


def test_the_score_is_the_average_of_both_estimates(fitted):
    queries = outcomes_of(300, 4)
    near = fitted.estimator.score_by_neighbours(queries.rows, queries.topics)
    ridge = fitted.estimator.ridge.predict(queries.rows, queries.features)
    np.testing.assert_allclose(fitted.score(queries), (near + ridge) / 2, atol=1e-12)


# Threshold


def drawn(seed: int, n: int, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores with ties, and qualities that grow apart with them, (n,) each; `levels` of each."""
    generator = np.random.default_rng(seed)
    scores, cloud, luck = (np.round(generator.random(n) * levels) / levels for _ in range(3))
    return scores, np.clip(cloud - scores * luck * generator.random(), 0, 1), cloud


qualities = st.builds(drawn, st.integers(0, 999), st.integers(200, 400), st.sampled_from([1, 2, 10, 1000]))


def bound(scores, local, cloud, promise, threshold):
    d = (1 - promise.target) * cloud + np.where(scores <= threshold, local - cloud, 0)
    return d.mean() - NormalDist().inv_cdf(promise.confidence) * d.std(ddof=1) / len(d) ** 0.5


@given(qualities, st.floats(0.5, 1), st.floats(0.5, 0.99))
def test_every_quantile_up_to_the_threshold_passes_and_the_next_does_not(values, target, confidence):
    scores, promise = values[0], QualityPromise(target, confidence)
    threshold = safe_threshold(*values, promise)
    steps = np.unique(np.quantile(scores, np.arange(1, 61) / 60, method="inverted_cdf"))
    for step in steps[steps <= threshold]:
        assert bound(*values, promise, step) >= 0
    beyond = steps[steps > threshold]
    if len(beyond):
        assert bound(*values, promise, beyond[0]) < 0


@given(qualities, st.floats(0.5, 1), st.floats(0.5, 0.99), st.floats(0.5, 0.99))
def test_more_confidence_never_leaves_more_local(values, target, one, other):
    low, high = sorted([one, other])
    surer = safe_threshold(*values, QualityPromise(target, high))
    assert surer <= safe_threshold(*values, QualityPromise(target, low))


def test_a_higher_target_never_leaves_more_local():
    labels = outcomes_of(800, 5)
    scores = np.random.default_rng(0).normal(size=800) + labels.gains
    found = [
        safe_threshold(scores, labels.local, labels.cloud, QualityPromise(target))
        for target in np.linspace(0.5, 1, 26)
    ]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) > 5


def test_a_local_side_as_good_as_the_cloud_keeps_everything():
    scores, cloud = np.linspace(-1, 1, 300), np.tile([1.0, 0.5], 150)
    assert safe_threshold(scores, cloud, cloud, QualityPromise(1.0, 0.99)) == 1.0


def test_a_local_side_that_always_fails_keeps_nothing():
    scores = np.linspace(-1, 1, 300)
    assert safe_threshold(scores, np.zeros(300), np.ones(300), QualityPromise(0.99)) == ALL_CLOUD


def test_a_threshold_beyond_one_that_fails_is_never_reached():
    # All-local would beat the cloud, but the prompts that look easiest are those that the local side fails.
    scores, easiest = np.linspace(-1, 1, 300), np.arange(300) < 60
    local, cloud = np.where(easiest, 0.0, 1.0), np.where(easiest, 1.0, 0.2)
    assert bound(scores, local, cloud, QualityPromise(), 1.0) > 0
    assert safe_threshold(scores, local, cloud, QualityPromise()) == ALL_CLOUD


def test_too_few_calibration_scores_keep_nothing():
    ones = np.ones(199)
    assert safe_threshold(ones, ones, ones, QualityPromise()) == ALL_CLOUD


def test_the_promise_is_kept_as_often_as_it_says():
    # The score is the chance that local fails where the cloud does not, so the truth is an integral.
    generator = np.random.default_rng(7)
    promise, repeats, kept = QualityPromise(0.95, 0.9), 600, 0
    for _ in range(repeats):
        scores = generator.random(500)
        cloud = np.ones(500)
        local = (generator.random(500) >= scores * 0.6).astype(float)
        threshold = max(0.0, safe_threshold(scores, local, cloud, promise))
        kept += 1 - 0.6 * threshold**2 / 2 >= promise.target
    assert kept / repeats >= 0.9 - 2.33 * (0.9 * 0.1 / repeats) ** 0.5


@pytest.mark.parametrize(
    ("target", "confidence"), [(0, 0.9), (1.01, 0.9), (math.nan, 0.9), (0.95, 0.49), (0.95, 1.0)]
)
def test_promises_that_nobody_can_keep_are_refused(target, confidence):
    with pytest.raises(ValueError, match="must be"):
        QualityPromise(target, confidence)


# Verdicts


def test_a_prompt_is_local_if_and_only_if_its_score_is_at_most_the_threshold(fitted):
    queries = outcomes_of(200, 6)
    scores, local = fitted.score(queries), fitted.stays_local(queries)
    assert 20 < local.sum() < 180
    np.testing.assert_array_equal(local, scores <= fitted.threshold)


def test_one_prompt_is_judged_as_many_are(fitted):
    texts = [f"word 7 {'and more ' * i}" for i in range(30)]
    rows = unit_rows(np.random.default_rng(5), 30, D)
    queries = make_outcomes(rows, texts, ["law"] * 30, [0] * 30, [1] * 30)
    for i, text in enumerate(texts):
        verdict = fitted.judge(rows[i], text, "law")
        assert verdict.score == pytest.approx(fitted.score(queries)[i], abs=1e-6)
        assert verdict.local == (verdict.score <= verdict.threshold == fitted.threshold)
        assert ("is at most" if verdict.local else "is above") in verdict.reason


def test_a_score_that_equals_the_threshold_is_local(fitted):
    row = outcomes_of(1, 3).rows[0]
    score = fitted.judge(row, "word", "law").score
    assert replace(fitted, threshold=score).judge(row, "word", "law").local
    assert not replace(fitted, threshold=np.nextafter(score, -1)).judge(row, "word", "law").local


def test_a_topic_without_calibration_labels_goes_to_the_cloud():
    calibration = outcomes_of(500, 2, topics=("refunds", "physics", None))
    made = fit(outcomes_of(900, 1), calibration, QualityPromise(0.5))
    assert made.threshold > ALL_CLOUD
    queries = outcomes_of(300, 3)
    law = np.array([topic == "law" for topic in queries.topics])
    assert not made.stays_local(queries)[law].any()
    assert made.stays_local(queries)[~law].any()
    verdict = made.judge(queries.rows[0], "short", "law")
    assert not verdict.local
    assert "'law'" in verdict.reason
    assert not made.judge(queries.rows[0], "short", "a topic that no label names").local


def test_prompts_without_a_topic_need_calibration_labels_of_their_own():
    named = ("refunds", "physics")
    made = fit(outcomes_of(900, 1, named), outcomes_of(500, 2, named), QualityPromise(0.5))
    verdict = made.judge(outcomes_of(1, 3).rows[0], "short", None)
    assert not verdict.local
    assert "without a topic" in verdict.reason


def test_labels_that_name_no_topic_at_all_count_for_every_topic():
    made = fit(outcomes_of(900, 1, (None,)), outcomes_of(500, 2, (None,)), QualityPromise(0.5))
    queries = outcomes_of(200, 3)
    assert made.stays_local(queries)[[topic == "law" for topic in queries.topics]].any()


@pytest.mark.parametrize(
    ("training", "calibration", "on"), [(300, 200, True), (299, 200, False), (300, 199, False), (0, 0, False)]
)
def test_it_is_off_below_300_training_and_200_calibration_labels(training, calibration, on):
    made = fit(outcomes_of(training, 1), outcomes_of(calibration, 2), QualityPromise(0.5))
    assert made.on == on
    verdict = made.judge(outcomes_of(1, 3).rows[0], "short", "refunds")
    assert verdict.local <= on
    if not on:
        assert f"has {training} and {calibration}" in verdict.reason
        assert made.threshold == ALL_CLOUD
        assert not made.stays_local(outcomes_of(50, 4)).any()


def test_labels_that_support_no_threshold_send_everything_to_the_cloud():
    calibration = outcomes_of(300, 2)
    useless = replace(calibration, local=np.zeros(300), cloud=np.ones(300))
    made = fit(outcomes_of(400, 1), useless, QualityPromise(0.99))
    verdict = made.judge(calibration.rows[0], "short", "refunds")
    assert made.on
    assert not verdict.local
    assert "support no threshold" in verdict.reason


def test_training_prompts_that_are_calibrated_on_are_left_out():
    training, calibration = outcomes_of(500, 1), outcomes_of(300, 2)
    made = fit(training.plus(calibration.take(np.arange(100))), calibration)
    assert len(made.training) == 500
    assert made.score(calibration).tolist() == fit(training, calibration).score(calibration).tolist()


@pytest.mark.parametrize("quality", [-0.1, 1.1, math.nan, math.inf])
def test_qualities_outside_of_0_to_1_are_refused(quality):
    with pytest.raises(ValueError, match="a quality must be in"):
        make_outcomes(unit_rows(np.random.default_rng(0), 1, D), ["a"], [None], [quality], [1.0])


def test_labels_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        make_outcomes(unit_rows(np.random.default_rng(0), 2, D), ["a", "b"], [None], [1, 1], [1, 1])


# Appended labels


@settings(max_examples=15)
@given(st.integers(300, 640), st.integers(200, 330), st.integers(0, 99))
def test_labels_that_were_appended_count_as_labels_that_were_fitted(training, calibration, seed):
    taught, tested, queries = (
        outcomes_of(640, seed),
        outcomes_of(330, seed + 100),
        outcomes_of(40, seed + 200),
    )
    begun = fit(taught.take(np.arange(training)), tested.take(np.arange(calibration)))
    grown = begun.append(taught.take(np.arange(training, 640)), tested.take(np.arange(calibration, 330)))
    moments = no_moments(D).add(taught.rows, taught.features, taught.gains)
    whole = estimate(taught, moments, begun.alpha, OutcomeIndex(taught.rows))
    expected = whole.score(tested.rows, tested.features, tested.topics)
    np.testing.assert_allclose(grown.score(tested), expected, atol=1e-9)
    threshold = safe_threshold(expected, tested.local, tested.cloud, grown.promise)
    assert grown.threshold == pytest.approx(threshold, abs=1e-9)
    np.testing.assert_allclose(
        grown.score(queries), whole.score(queries.rows, queries.features, queries.topics), atol=1e-9
    )


def test_labels_appended_to_one_that_is_off_turn_it_on():
    training, calibration = outcomes_of(600, 1), outcomes_of(300, 2)
    begun = fit(training.take(np.arange(200)), calibration.take(np.arange(250)))
    assert not begun.on
    grown = begun.append(training.take(np.arange(200, 600)), calibration.take(np.arange(250, 300)))
    whole = fit(training, calibration)
    assert grown.alpha == whole.alpha
    assert grown.threshold == whole.threshold


def test_appending_leaves_the_old_one_as_it_was(fitted):
    queries = outcomes_of(50, 5)
    before, threshold = fitted.score(queries), fitted.threshold
    fitted.append(outcomes_of(200, 8), outcomes_of(50, 9))
    np.testing.assert_array_equal(fitted.score(queries), before)
    assert fitted.threshold == threshold


def test_appended_prompts_that_are_on_the_other_side_are_left_out(fitted):
    grown = fitted.append(fitted.calibration, fitted.training)
    assert len(grown.training) == len(fitted.training)
    assert len(grown.calibration) == len(fitted.calibration)


def test_an_appended_topic_is_left_local_only_once_it_is_calibrated(fitted):
    new = outcomes_of(400, 11, topics=("cooking",))
    easy = replace(new, local=np.ones(400), cloud=np.ones(400))
    trained = fitted.append(easy.take(np.arange(300)))
    assert not trained.stays_local(easy).any()
    assert (
        trained.append(trained.training.take(np.zeros(0, np.int64)), easy.take(np.arange(300, 400)))
        .stays_local(easy)
        .any()
    )


# Which side a prompt is on


@given(st.lists(st.text(), min_size=1, max_size=50), st.floats(0, 1))
def test_a_text_is_on_the_same_side_every_time(texts, cut):
    sides = in_calibration(texts + texts, cut)
    np.testing.assert_array_equal(sides[: len(texts)], sides[len(texts) :])


@pytest.mark.parametrize(
    ("prompts", "share", "aside"),
    [
        (500, 0.2, 200),
        (600, 0.2, 200),
        (1000, 0.2, 200),
        (5000, 0.2, 1000),
        (5000, 0.5, 2500),
        (100, 0.2, 40),
    ],
)
def test_calibration_gets_its_share_and_at_least_what_it_needs(prompts, share, aside):
    texts = [f"prompt {i}" for i in range(prompts)]
    assert in_calibration(texts, calibration_cut(texts, share)).sum() == aside


# Review


def test_the_quality_kept_is_a_ratio_of_means_with_its_standard_error():
    labels = outcomes_of(4000, 3)
    stays = np.arange(4000) % 2 == 0
    found = measure(labels, stays)
    answered = np.where(stays, labels.local, labels.cloud)
    assert found.quality == answered.mean() / labels.cloud.mean()
    generator = np.random.default_rng(0)
    draws = generator.integers(0, 4000, (1000, 4000))
    bootstrap = answered[draws].mean(axis=1) / labels.cloud[draws].mean(axis=1)
    assert found.error == pytest.approx(bootstrap.std(), rel=0.1)


def test_a_cloud_that_is_worth_nothing_has_no_quality_to_keep():
    labels = replace(outcomes_of(300, 3), cloud=np.zeros(300))
    assert measure(labels, np.ones(300, np.bool_)).quality is None


def test_a_review_counts_every_topic_and_what_of_it_stays_local(fitted):
    found = review(fitted)
    assert sum(row.training for row in found.topics) == len(fitted.training)
    assert sum(row.calibration for row in found.topics) == len(fitted.calibration)
    local = sum(row.local_share * row.calibration for row in found.topics)
    assert local == pytest.approx(found.kept.local_share * len(fitted.calibration))
    assert found.local_shares[0.9] == found.kept.local_share
    assert list(found.local_shares.values()) == sorted(found.local_shares.values(), reverse=True)
