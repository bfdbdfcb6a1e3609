"""Exemplars to the score from which an intent is accepted: held out, never in-sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from builders import clustered_rows, normalised, unit_rows
from pointsman.decision.calibrate import (
    FIXED_THRESHOLD,
    SURE,
    Calibration,
    Curve,
    calibrate,
    calibrate_held_out,
)
from pointsman.decision.cross_fit import (
    ABSENT,
    FOLDS,
    CrossFitted,
    cross_fit,
    cross_fit_strays,
    folds_of,
    gap_of,
)
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex


def domain(
    classes: int = 6, each: int = 15, d: int = 24, spread: float = 1.0
) -> tuple[Rows, NDArray[np.int64]]:
    labels = np.repeat(np.arange(classes), each)
    return clustered_rows(np.random.default_rng(3), labels, d, spread), labels


# Folds


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 9))
def test_every_row_is_in_one_of_five_folds(labels, seed):
    folds = folds_of(np.array(labels), seed)
    assert folds.shape == (len(labels),)
    assert set(folds) <= set(range(FOLDS))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 9))
def test_every_class_is_spread_over_the_folds_as_evenly_as_it_can_be(labels, seed):
    labels = np.array(labels)
    folds = folds_of(labels, seed)
    for label in set(labels):
        counts = np.bincount(folds[labels == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80))
def test_folds_are_of_nearly_equal_size(labels):
    counts = np.bincount(folds_of(np.array(labels)), minlength=FOLDS)
    assert counts.max() - counts.min() <= 1


def test_folds_are_the_same_every_time():
    labels = np.repeat(np.arange(4), 9)
    np.testing.assert_array_equal(folds_of(labels), folds_of(labels))


def _copied(each: int, classes: int = 4) -> tuple[Rows, NDArray[np.int64]]:
    """Every exemplar twice, one after the other, with a little noise."""
    generator = np.random.default_rng(5)
    once = np.repeat(unit_rows(generator, each * classes, 24), 2, axis=0)
    rows = normalised(once + 0.03 * generator.normal(size=once.shape))
    return rows, np.repeat(np.arange(classes), 2 * each)


def test_near_copies_share_a_fold():
    rows, labels = _copied(each=10)
    folds = folds_of(labels, rows=rows)
    np.testing.assert_array_equal(folds[::2], folds[1::2])
    assert (folds_of(labels)[::2] != folds_of(labels)[1::2]).any()


def test_without_near_copies_folds_are_what_they_are_without_rows():
    rows, labels = domain()
    np.testing.assert_array_equal(folds_of(labels, rows=rows), folds_of(labels))


def test_copies_of_another_class_may_be_in_another_fold():
    rows, labels = _copied(each=10)
    crossed = labels.copy()
    crossed[1::2] = (crossed[1::2] + 1) % 4
    folds = folds_of(crossed, rows=rows)
    assert (folds[::2] != folds[1::2]).any()


def test_a_class_of_copies_is_spread_all_the_same():
    labels = np.repeat(np.arange(2), 11)
    folds = folds_of(labels, rows=np.repeat(unit_rows(np.random.default_rng(5), 2, 24), 11, axis=0))
    np.testing.assert_array_equal(folds, folds_of(labels))


def test_copies_among_the_exemplars_do_not_raise_the_threshold():
    rows, labels = domain(each=20)
    once = calibrate(rows, labels, 6, 0.05)
    twice = calibrate(np.repeat(rows, 2, axis=0), np.repeat(labels, 2), 6, 0.05)
    assert max(twice.threshold(c) - once.threshold(c) for c in range(6)) < 0.05


@pytest.mark.parametrize(("each", "weight"), [(10, 20), (40, 40)])
def test_the_overall_mean_weighs_as_much_as_twenty_exemplars_or_as_those_of_a_class(each, weight):
    rows, labels = domain(each=each)
    held = cross_fit(rows, labels, 6)
    own = held.scores[np.arange(len(labels)), labels]
    expected = [(own[labels == c].sum() + weight * own.mean()) / (each + weight) for c in range(6)]
    np.testing.assert_allclose(calibrate(rows, labels, 6, 0.05).offsets, expected, atol=1e-5)


# Held out


def test_held_out_scores_are_lower_than_in_sample_ones():
    rows, labels = domain()
    calibration = calibrate(rows, labels, 6, 0.05)
    in_sample = ExemplarIndex(rows, labels, 6).score(rows).scores[np.arange(len(rows)), labels]
    assert calibration.offsets.mean() < in_sample.mean() - 0.05


def test_a_score_held_out_is_one_of_an_index_fitted_without_the_exemplar():
    rows, labels = domain(classes=2, each=10)
    folds = folds_of(labels, rows=rows)
    own = np.empty(len(rows))
    for i in range(len(rows)):
        kept = folds != folds[i]
        own[i] = ExemplarIndex(rows[kept], labels[kept], 2).score(rows[i][None, :]).scores[0, labels[i]]
    expected = [(own[labels == c].sum() + 20 * own.mean()) / (10 + 20) for c in range(2)]
    np.testing.assert_allclose(calibrate(rows, labels, 2, 0.05).offsets, expected, atol=1e-5)


def test_an_outlier_among_exemplars_looks_uncertain():
    rows, labels = domain(spread=0.3)
    rows[0] = -rows[0]  # its own index would give it a perfect score
    best = np.sort(cross_fit(rows, labels, 6).best)
    assert best[0] < best[1] - 0.1


def test_labels_that_mean_nothing_lower_the_threshold():
    rows, labels = domain(spread=0.5)
    shuffled = np.random.default_rng(0).permutation(labels)
    meaningful, meaningless = calibrate(rows, labels, 6, 0.05), calibrate(rows, shuffled, 6, 0.05)
    assert np.mean([meaningless.threshold(c) for c in range(6)]) < np.mean(
        [meaningful.threshold(c) for c in range(6)]
    )


def test_offsets_of_small_classes_are_drawn_to_the_mean():
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(3), [60, 60, 5])
    centres = unit_rows(generator, 3, 24)
    spread = np.where(labels == 0, 0.1, 1.2)[:, None] / np.sqrt(24)
    calibration = calibrate(
        normalised(centres[labels] + generator.normal(size=(125, 24)) * spread), labels, 3, 0.05
    )
    tight, loose, small = calibration.offsets
    assert loose < small < tight


# The threshold


@pytest.mark.parametrize("rejection", [0.02, 0.05, 0.2, 0.5])
def test_about_the_nominal_share_of_held_out_margins_is_rejected(rejection):
    rows, labels = domain(each=50)
    calibration, held = calibrate(rows, labels, 6, rejection), cross_fit(rows, labels, 6)
    margins = held.best - calibration.offsets[held.predicted]
    assert len(margins) == 300
    assert np.mean(margins < calibration.margin) == pytest.approx(rejection, abs=1 / 300)


@pytest.mark.parametrize("exemplars", [20, 40, 300])
def test_as_many_new_prompts_are_rejected_however_few_exemplars_there_are(exemplars):
    generator, labels = np.random.default_rng(6), np.zeros(exemplars, np.int64)
    known, gap = np.ones(exemplars, np.bool_), np.ones(exemplars, np.float32)
    rejected = []  # of new prompts whose scores are spread evenly over [0, 1), as those of the exemplars
    for _ in range(1000):
        scores = generator.uniform(size=(exemplars, 1)).astype(np.float32)
        held = CrossFitted(scores, labels, gap, known, second_head=False)
        rejected.append(calibrate_held_out(held, labels, 0.05, None, 0.0).threshold(0))
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.005)


def test_prompts_like_the_exemplars_are_rejected_about_as_often_as_asked():
    generator = np.random.default_rng(5)
    labels = np.repeat(np.arange(6), 60)
    rows = clustered_rows(generator, labels, 24, 1.0)
    fitted, fresh = rows[::2], rows[1::2]
    calibration = calibrate(fitted, labels[::2], 6, 0.1)
    found = ExemplarIndex(fitted, labels[::2], 6, second_head=calibration.second_head).score(fresh)
    best = found.choice.argmax(axis=1)
    accepted = [row[b] >= calibration.threshold(b) for row, b in zip(found.scores, best, strict=True)]
    assert 0.02 < 1 - np.mean(accepted) < 0.2


def test_prompts_unlike_all_exemplars_are_mostly_rejected():
    rows, labels = domain(spread=0.5, each=30)
    calibration = calibrate(rows, labels, 6, 0.05)
    scores = ExemplarIndex(rows, labels, 6).score(unit_rows(np.random.default_rng(9), 200, 24)).scores
    best = scores.argmax(axis=1)
    accepted = [s >= calibration.threshold(b) for s, b in zip(scores.max(axis=1), best, strict=True)]
    assert np.mean(accepted) < 0.1


def test_more_rejection_raises_every_threshold():
    rows, labels = domain()
    careful, generous = calibrate(rows, labels, 6, 0.2), calibrate(rows, labels, 6, 0.02)
    assert all(careful.threshold(c) > generous.threshold(c) for c in range(6))


# Few exemplars


@pytest.mark.parametrize(("classes", "each"), [(1, 1), (1, 5), (1, 9), (3, 3), (4, 2), (2, 1), (40, 1)])
def test_fewer_than_ten_held_out_scores_give_the_fixed_threshold(classes, each):
    rows, labels = domain(classes, each)
    calibration = calibrate(rows, labels, classes, 0.05)
    assert [calibration.threshold(c) for c in range(classes)] == [FIXED_THRESHOLD] * classes
    assert 0.5 < calibration.confidence(0, 0.9, 0.1) < 1


@pytest.mark.parametrize(("classes", "each"), [(1, 10), (2, 5), (5, 2)])
def test_ten_held_out_scores_are_enough_to_calibrate(classes, each):
    rows, labels = domain(classes, each)
    assert cross_fit(rows, labels, classes).known.sum() == 10
    assert calibrate(rows, labels, classes, 0.05).margin != FIXED_THRESHOLD


def test_a_class_of_one_exemplar_gets_the_mean_offset():
    rows, labels = domain(3, 12)
    rows = np.vstack([rows, unit_rows(np.random.default_rng(8), 1, 24)])
    calibration = calibrate(rows, np.append(labels, 3), 4, 0.05)
    assert cross_fit(rows, np.append(labels, 3), 4).known.sum() == 36
    assert calibration.offsets[3] == pytest.approx(np.average(calibration.offsets[:3]), abs=1e-9)


def test_exemplars_that_are_all_the_same_are_calibrated_without_a_warning():
    rows = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 20, axis=0)
    calibration = calibrate(rows, np.repeat(np.arange(2), 10), 2, 0.05)
    assert np.isfinite(calibration.threshold(0))


def test_a_thousand_intents_of_two_exemplars_are_calibrated():
    labels = np.repeat(np.arange(1000), 2)
    rows = clustered_rows(np.random.default_rng(1), labels, 64, 0.5)
    calibration = calibrate(rows, labels, 1000, 0.05)
    assert np.all(np.isfinite(calibration.offsets))


# The second head


@pytest.mark.parametrize(("seed", "wins"), [(8, True), (0, False), (1, False)])
def test_the_second_head_is_on_exactly_where_it_is_right_more_often(seed, wins):
    labels = np.repeat(np.arange(6), 40)
    rows = clustered_rows(np.random.default_rng(seed), labels, 24, 2.5)
    right = {False: 0, True: 0}
    folds = folds_of(labels)
    for fold in range(FOLDS):
        held = folds == fold
        for on in right:
            index = ExemplarIndex(rows[~held], labels[~held], 6, second_head=on)
            right[on] += (index.score(rows[held]).choice.argmax(axis=1) == labels[held]).sum()
    assert (right[True] > right[False]) == wins
    held_out = cross_fit(rows, labels, 6)
    assert held_out.second_head == wins
    assert held_out.right(labels) == max(right.values())
    assert calibrate(rows, labels, 6, 0.05).second_head == wins


def test_the_second_head_is_off_where_it_gains_nothing():
    rows, labels = domain(spread=0.2)
    held = cross_fit(rows, labels, 6)
    assert held.right(labels) == len(labels)
    assert not held.second_head


def test_the_second_head_leaves_scores_as_they_are():
    rows, labels = domain()
    one, two = (ExemplarIndex(rows, labels, 6, second_head=on).score(rows) for on in (False, True))
    np.testing.assert_array_equal(one.scores, two.scores)
    np.testing.assert_array_equal(one.choice, one.scores)
    assert not np.array_equal(two.choice, two.scores)


def test_what_the_second_head_adds_favours_no_class():
    rows, labels = domain()
    index = ExemplarIndex(rows, labels, 6, second_head=True)
    added = index.score(rows).choice - index.score(rows).scores
    np.testing.assert_allclose(added.mean(axis=1), 0, atol=1e-5)


# Left-out classes


def test_strays_are_scored_without_their_class():
    rows, labels = domain()
    held = cross_fit(rows, labels, 6)
    strays = cross_fit_strays(rows, labels, 6, held)
    assert len(strays.predicted) == len(rows)
    assert not strays.known.any()
    assert strays.best.mean() < held.best.mean()


def test_enough_strays_are_enough():
    rows, labels = domain(classes=10, each=20)
    strays = cross_fit_strays(rows, labels, 10, cross_fit(rows, labels, 10), enough=30)
    assert len(strays.predicted) == 40  # one fold: two classes


def test_a_class_that_was_left_out_has_no_score():
    rows, labels = domain(classes=3, each=1)
    held = cross_fit(rows, labels, 3)
    assert np.all(held.scores[np.arange(3), labels] == ABSENT)
    assert not held.known.any()


def test_the_gap_is_that_between_the_best_two():
    choice = np.array([[0.1, 0.7, 0.4], [0.5, 0.5, -np.inf], [0.2, -np.inf, -np.inf]], np.float32)
    np.testing.assert_allclose(gap_of(choice), [0.3, 0.0, 1.2], atol=1e-6)
    np.testing.assert_allclose(gap_of(choice[:, :1]), 1.0)


# Confidence

numbers = st.floats(-1, 1)
calibrations = st.builds(
    Calibration,
    st.lists(numbers, min_size=3, max_size=3).map(np.array),
    numbers,
    st.builds(Curve, st.floats(-5, 5), st.floats(0, 50), st.floats(0, 50)),
    st.booleans(),
)


@given(calibrations, st.integers(0, 2), numbers, numbers, st.floats(0, 1), st.floats(0, 1))
def test_confidence_is_a_probability_and_grows_with_score_and_gap(calibration, label, a, b, g, h):
    (low, high), (near, far) = sorted([a, b]), sorted([g, h])
    assert 0 <= calibration.confidence(label, low, near) <= calibration.confidence(label, high, near) <= SURE
    assert calibration.confidence(label, low, near) <= calibration.confidence(label, low, far)


def test_confidence_is_about_the_share_that_is_right():
    generator = np.random.default_rng(5)
    labels = np.repeat(np.arange(6), 120)
    rows = clustered_rows(generator, labels, 24, 2.2)
    fitted, fresh = rows[::2], rows[1::2]
    calibration = calibrate(fitted, labels[::2], 6, 0.05, out_of_scope=0)
    index = ExemplarIndex(fitted, labels[::2], 6, second_head=calibration.second_head)
    found = index.score(fresh)
    best, gaps = found.choice.argmax(axis=1), gap_of(found.choice)
    sure = np.array(
        [calibration.confidence(b, r[b], g) for b, r, g in zip(best, found.scores, gaps, strict=True)]
    )
    right = best == labels[1::2]
    assert 0.5 < right.mean() < 0.98
    assert sure.mean() == pytest.approx(right.mean(), abs=0.06)
    assert right[sure > np.median(sure)].mean() > right[sure <= np.median(sure)].mean()


def test_expecting_more_strays_lowers_confidence():
    rows, labels = domain()
    few, many = (calibrate(rows, labels, 6, 0.05, share) for share in (0.05, 0.4))
    assert many.confidence(0, 0.5, 0.1) < few.confidence(0, 0.5, 0.1)
