"""Exemplars to the score from which an intent is accepted: held out, never in-sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from builders import clustered_rows, normalised, unit_rows
from pointsman.decision.calibrate import FIXED_THRESHOLD, FOLDS, Calibration, calibrate, folds_of
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


# Held out


def test_held_out_scores_are_lower_than_in_sample_ones():
    rows, labels = domain()
    calibration = calibrate(rows, labels, 6, 0.05)
    in_sample = ExemplarIndex(rows, labels, 6).score(rows).scores[np.arange(len(rows)), labels]
    assert calibration.offsets.mean() < in_sample.mean() - 0.05


def test_a_score_held_out_is_one_of_an_index_fitted_without_the_exemplar():
    rows, labels = domain(classes=2, each=10)
    folds = folds_of(labels)
    own = np.empty(len(rows))
    for i in range(len(rows)):
        kept = folds != folds[i]
        own[i] = ExemplarIndex(rows[kept], labels[kept], 2).score(rows[i][None, :]).scores[0, labels[i]]
    expected = [(own[labels == c].sum() + 20 * own.mean()) / (10 + 20) for c in range(2)]
    np.testing.assert_allclose(calibrate(rows, labels, 2, 0.05).offsets, expected, atol=1e-5)


def test_an_outlier_among_exemplars_looks_uncertain():
    rows, labels = domain(spread=0.3)
    rows[0] = -rows[0]  # its own index would give it a perfect score
    calibration = calibrate(rows, labels, 6, 0.05)
    assert calibration.held_out[0] < calibration.held_out[1] - 0.1


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
    calibration = calibrate(rows, labels, 6, rejection)
    assert len(calibration.held_out) == 300
    assert np.mean(calibration.held_out < calibration.margin) == pytest.approx(rejection, abs=1 / 300)


def test_prompts_like_the_exemplars_are_rejected_about_as_often_as_asked():
    generator = np.random.default_rng(5)
    labels = np.repeat(np.arange(6), 60)
    rows = clustered_rows(generator, labels, 24, 1.0)
    fitted, fresh = rows[::2], rows[1::2]
    calibration = calibrate(fitted, labels[::2], 6, 0.1)
    scores = ExemplarIndex(fitted, labels[::2], 6).score(fresh).scores
    best = scores.argmax(axis=1)
    accepted = [s >= calibration.threshold(b) for s, b in zip(scores.max(axis=1), best, strict=True)]
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
    assert calibration.confidence(0, 0.9) == 0


@pytest.mark.parametrize(("classes", "each"), [(1, 10), (2, 5), (5, 2)])
def test_ten_held_out_scores_are_enough_to_calibrate(classes, each):
    rows, labels = domain(classes, each)
    assert len(calibrate(rows, labels, classes, 0.05).held_out) == 10


def test_a_class_of_one_exemplar_gets_the_mean_offset():
    rows, labels = domain(3, 12)
    rows = np.vstack([rows, unit_rows(np.random.default_rng(8), 1, 24)])
    calibration = calibrate(rows, np.append(labels, 3), 4, 0.05)
    assert len(calibration.held_out) == 36
    assert calibration.offsets[3] == pytest.approx(np.average(calibration.offsets[:3]), abs=1e-9)


def test_exemplars_that_are_all_the_same_are_calibrated_without_a_warning():
    rows = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 20, axis=0)
    calibration = calibrate(rows, np.repeat(np.arange(2), 10), 2, 0.05)
    assert np.isfinite(calibration.threshold(0))


def test_a_thousand_intents_of_two_exemplars_are_calibrated():
    labels = np.repeat(np.arange(1000), 2)
    rows = clustered_rows(np.random.default_rng(1), labels, 64, 0.5)
    calibration = calibrate(rows, labels, 1000, 0.05)
    assert len(calibration.held_out) == 2000
    assert np.all(np.isfinite(calibration.offsets))


# Confidence

calibrations = st.builds(
    Calibration,
    st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(np.array),
    st.floats(-1, 1),
    st.lists(st.floats(-1, 1), max_size=30).map(sorted).map(np.array),
)


@given(calibrations, st.integers(0, 2), st.floats(-1, 1), st.floats(-1, 1))
def test_confidence_is_a_share_and_grows_with_the_score(calibration, label, a, b):
    low, high = (calibration.confidence(label, score) for score in sorted([a, b]))
    assert 0 <= low <= high <= 1


@settings(max_examples=20)
@given(st.integers(0, 5))
def test_a_prompt_at_the_threshold_has_about_the_rejected_share_as_confidence(label):
    rows, labels = domain()
    calibration = calibrate(rows, labels, 6, 0.1)
    assert calibration.confidence(label, calibration.threshold(label)) == pytest.approx(
        0.1, abs=2 / len(rows)
    )
