"""Names of intents as one more exemplar each: in where held-out exemplars say so, and never scored themselves."""

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import clustered_rows, normalised, unit_rows
from pointsman.decision.calibrate import calibrate
from pointsman.decision.cross_fit import ABSENT, cross_fit, cross_fit_strays, folds_of
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import ExemplarIndex


def named_domain(each: int) -> tuple[Rows, NDArray[np.int64], Rows]:
    """Return exemplars with their labels, and a name for each class that is as near to it as they are."""
    labels = np.repeat(np.arange(40), each + 1)
    rows = clustered_rows(np.random.default_rng(4), labels, 64, 2.5)
    is_name = np.arange(len(labels)) % (each + 1) == each
    return rows[~is_name], labels[~is_name], rows[is_name]


@pytest.mark.parametrize("each", [2, 5, 12])
def test_names_that_tell_are_in_the_index_and_names_that_do_not_are_not(each):
    rows, labels, names = named_domain(each)
    assert calibrate(rows, labels, 40, 0.05, names=names).named
    assert not calibrate(rows, labels, 40, 0.05, names=np.roll(names, 1, axis=0)).named
    assert not calibrate(rows, labels, 40, 0.05, names=unit_rows(np.random.default_rng(6), 40, 64)).named
    assert not calibrate(rows, labels, 40, 0.05).named


def test_names_make_more_new_prompts_right():
    rows, labels, names = named_domain(20)
    few = np.arange(len(labels)) % 20 < 2
    right = []
    for some in (None, names):
        index = ExemplarIndex(rows[few], labels[few], 40, names=some)
        right.append((index.score(rows[~few]).choice.argmax(axis=1) == labels[~few]).mean())
    assert right[1] > right[0] + 0.05
    assert cross_fit(rows[few], labels[few], 40, names).named


def test_names_are_never_scored():
    rows, labels, names = named_domain(5)
    held = cross_fit(rows, labels, 40, names)
    assert held.named
    assert held.scores.shape == (len(rows), 40)
    assert held.known.all()


def test_exemplars_that_say_the_name_do_not_switch_names_on():
    rows, labels, names = named_domain(5)
    misleading = np.roll(names, 1, axis=0)
    assert not cross_fit(rows, labels, 40, misleading).named
    copies = rows.copy()
    copies[::5] = misleading
    assert not cross_fit(copies, labels, 40, misleading).named


def test_names_are_in_the_index_of_every_fold():
    rows, labels, names = named_domain(5)
    held = cross_fit(rows, labels, 40, names)
    out = folds_of(labels, rows=rows) == 0
    index = ExemplarIndex(rows[~out], labels[~out], 40, names=names)
    np.testing.assert_array_equal(held.scores[out], index.score(rows[out]).scores)


def test_beside_many_exemplars_names_are_not_tried():
    rows, labels, _ = named_domain(51)
    best = normalised(np.stack([rows[labels == c].mean(axis=0) for c in range(40)]))
    fewer = np.arange(len(labels)) % 51 < 50
    assert cross_fit(rows[fewer], labels[fewer], 40, best).named
    assert not cross_fit(rows, labels, 40, best).named


def test_a_name_leaves_with_its_class():
    rows, labels, names = named_domain(5)
    held = cross_fit(rows, labels, 40, names)
    assert held.named
    strays = cross_fit_strays(rows, labels, 40, held, names)
    assert len(strays.predicted) == len(rows)
    assert (strays.scores[np.arange(len(rows)), labels] == ABSENT).all()
    assert strays.best.mean() < held.best.mean()


def test_one_class_needs_no_name():
    rows = clustered_rows(np.random.default_rng(3), np.zeros(15, np.int64), 24, 1.0)
    assert not calibrate(rows, np.zeros(15, np.int64), 1, 0.05, names=rows[:1]).named
