"""The class score against its formula (docs/routing.md), written again in plain NumPy and float64."""

import threading
from collections.abc import Callable

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from builders import clustered_rows, normalised, unit_rows
from pointsman.embedding.encoder import Rows
from pointsman.index.exemplar_index import HITS, ExemplarIndex
from pointsman.index.head import fit_head
from pointsman.index.outcome_index import OutcomeIndex
from pointsman.index.transform import fit_transform

TOLERANCE = 2e-5  # float32 against float64


class Formula:
    """The score of docs/routing.md, one exemplar and one class at a time. Shares no code with the index."""

    def __init__(self, rows: Rows, labels: NDArray[np.int64], classes: int) -> None:
        self.rows, self.labels, self.classes = rows.astype(np.float64), labels, classes
        n, d = rows.shape
        means = [self.rows[labels == c].mean(axis=0) for c in range(classes)]
        scatter = np.zeros((d, d))
        for x, label in zip(self.rows, labels, strict=True):
            scatter += np.outer(x - means[label], x - means[label])
        scatter /= max(1, n - classes)
        sigma = 0.5 * scatter + 0.5 * np.trace(scatter) / d * np.eye(d)
        values, vectors = np.linalg.eigh(sigma)
        self.whiten = vectors @ np.diag(values**-0.5) @ vectors.T
        self.centre = np.mean(means, axis=0)
        # U D Vᵀ by the eigenvectors of V D² Vᵀ; only the space that V spans matters to inner products.
        between = np.array([m - self.centre for m in means]) @ self.whiten
        _, v = np.linalg.eigh(between.T @ between)
        self.directions = v[:, ::-1][:, : min(classes - 1, d)]
        self.share = min(0.5, 0.5 * self.directions.shape[1] / 25)

    def vector(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        z = self.directions.T @ self.whiten @ (x - self.centre)
        return np.concatenate([np.sqrt(self.share) * z / np.linalg.norm(z), np.sqrt(1 - self.share) * x])

    def scores(self, query: Rows) -> NDArray[np.float64]:
        v = self.vector(query.astype(np.float64))
        vectors = np.array([self.vector(x) for x in self.rows])
        similarities = vectors @ v
        hits = set(np.argsort(-similarities)[:50])
        scores = np.empty(self.classes)
        for c in range(self.classes):
            members = np.flatnonzero(self.labels == c)
            mean = vectors[members].mean(axis=0)
            centroid = v @ (mean / np.linalg.norm(mean))
            found = [similarities[i] for i in members if i in hits]
            scores[c] = (max(found) + centroid) / 2 if found else (centroid - 1) / 2
        return scores


@st.composite
def exemplar_sets(draw: st.DrawFn) -> tuple[Rows, NDArray[np.int64], int, Rows]:
    """Draw exemplars (n, d) of 2 to 6 classes, in any order, and queries (3, d)."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes = draw(st.integers(2, 6))
    counts = draw(
        st.lists(st.integers(1, 25), min_size=classes, max_size=classes).filter(lambda c: max(c) > 1)
    )
    d = draw(st.integers(8, 24))
    labels = generator.permutation(np.repeat(np.arange(classes), counts))
    rows = clustered_rows(generator, labels, d, spread=draw(st.floats(0.2, 2)))
    return rows, labels, classes, unit_rows(generator, 3, d)


@settings(max_examples=60)
@given(exemplar_sets())
def test_the_score_is_that_of_the_formula(drawn):
    rows, labels, classes, queries = drawn
    formula = Formula(rows, labels, classes)
    found = ExemplarIndex(rows, labels, classes).score(queries).scores
    expected = np.array([formula.scores(query) for query in queries])
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@settings(max_examples=30)
@given(exemplar_sets())
def test_scores_lie_within_minus_one_and_one(drawn):
    rows, labels, classes, queries = drawn
    scores = ExemplarIndex(rows, labels, classes).score(queries).scores
    assert scores.shape == (3, classes)
    assert np.all(np.abs(scores) <= 1 + TOLERANCE)


@settings(max_examples=30)
@given(exemplar_sets(), st.randoms(use_true_random=False))
def test_the_order_of_exemplars_does_not_matter(drawn, random):
    rows, labels, classes, queries = drawn
    order = np.array(random.sample(range(len(rows)), len(rows)))
    shuffled = ExemplarIndex(rows[order], labels[order], classes).score(queries).scores
    np.testing.assert_allclose(
        shuffled, ExemplarIndex(rows, labels, classes).score(queries).scores, atol=TOLERANCE
    )


@settings(max_examples=30)
@given(exemplar_sets())
def test_a_query_is_scored_alike_alone_and_among_others(drawn):
    rows, labels, classes, queries = drawn
    index = ExemplarIndex(rows, labels, classes)
    together = index.score(queries).scores
    alone = np.vstack([index.score(query[None, :]).scores for query in queries])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)


@settings(max_examples=30)
@given(exemplar_sets())
def test_hits_are_the_nearest_exemplars_best_first(drawn):
    rows, labels, classes, queries = drawn
    index = ExemplarIndex(rows, labels, classes)
    hits = index.score(queries).hits
    similarities = index.transform.apply(queries) @ index.transform.apply(rows).T
    for row, found in zip(similarities, hits, strict=True):
        assert len(set(found)) == len(found) == min(HITS, len(rows))
        np.testing.assert_allclose(row[found], np.sort(row)[::-1][: len(found)], atol=TOLERANCE)


@pytest.mark.parametrize(("classes", "d", "k"), [(2, 8, 1), (5, 8, 4), (9, 8, 8), (20, 8, 8)])
def test_the_projection_has_a_column_less_than_classes_and_at_most_d(classes, d, k):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 4)
    transform = fit_transform(clustered_rows(generator, labels, d), labels, classes)
    assert transform.projection.shape == (d, k)
    assert transform.mean.shape == (d,)
    vectors = transform.apply(unit_rows(generator, 7, d))
    assert vectors.shape == (7, k + d)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(("classes", "share"), [(2, 0.02), (4, 0.06), (25, 0.48), (26, 0.5), (33, 0.5)])
def test_transformed_rows_have_length_one_and_end_in_the_embedding(classes, share):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 5)
    rows = clustered_rows(generator, labels, 40)
    vectors = fit_transform(rows, labels, classes).apply(rows)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=TOLERANCE)
    np.testing.assert_allclose(vectors[:, -40:], np.sqrt(1 - share) * rows, atol=TOLERANCE)


def test_the_transform_sets_classes_apart_that_share_a_dominant_direction():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 60)
    noise = np.zeros((180, 16))
    noise[:, :4] = generator.normal(size=(180, 4))  # what varies most says nothing of the class
    signal = np.zeros((180, 16))
    signal[np.arange(180), 8 + labels] = 0.4
    rows = normalised(noise + signal)
    kept, asked = slice(None, None, 2), slice(1, None, 2)
    index = ExemplarIndex(rows[kept], labels[kept], 3)
    transformed = index.score(rows[asked]).scores.argmax(axis=1) == labels[asked]
    plain = labels[kept][(rows[asked] @ rows[kept].T).argmax(axis=1)] == labels[asked]
    assert transformed.mean() > plain.mean() + 0.05


def test_one_class_leaves_the_embedding_as_it_is():
    generator = np.random.default_rng(0)
    rows, query = unit_rows(generator, 6, 8), unit_rows(generator, 1, 8)
    index = ExemplarIndex(rows, np.zeros(6, np.int64), 1)
    np.testing.assert_array_equal(index.transform.apply(query), query)
    mean = rows.mean(axis=0) / np.linalg.norm(rows.mean(axis=0))
    expected = 0.5 * (rows @ query[0]).max() + 0.5 * mean @ query[0]
    np.testing.assert_allclose(index.score(query).scores, [[expected]], atol=TOLERANCE)


def test_one_exemplar_scores_its_cosine():
    rows, query = unit_rows(np.random.default_rng(0), 1, 8), unit_rows(np.random.default_rng(1), 1, 8)
    found = ExemplarIndex(rows, np.zeros(1, np.int64), 1).score(query)
    np.testing.assert_allclose(found.scores, rows @ query.T, atol=TOLERANCE)
    np.testing.assert_array_equal(found.hits, [[0]])


def test_one_exemplar_a_class_recognises_each():
    rows = unit_rows(np.random.default_rng(0), 5, 8)
    found = ExemplarIndex(rows, np.arange(5), 5).score(rows)
    np.testing.assert_array_equal(found.scores.argmax(axis=1), np.arange(5))
    np.testing.assert_allclose(found.scores.max(axis=1), 1, atol=TOLERANCE)


def test_exemplars_that_are_all_the_same_are_scored_without_a_warning():
    rows = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 6, axis=0)
    scores = ExemplarIndex(rows, np.repeat(np.arange(2), 3), 2).score(rows[:1]).scores
    assert np.all(np.isfinite(scores))
    assert scores[0, 0] == pytest.approx(scores[0, 1], abs=1e-3)


def test_two_classes_with_the_same_exemplar_are_scored_alike():
    generator = np.random.default_rng(0)
    rows = unit_rows(generator, 2, 8)[[0, 1, 0]]
    scores = ExemplarIndex(rows, np.arange(3), 3).score(rows[:1]).scores[0]
    assert scores[0] == pytest.approx(scores[2], abs=1e-3)
    assert scores[0] > scores[1]


def test_a_class_without_a_hit_gets_its_centroid_less_one_halved():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], [HITS + 10, 5])
    rows = clustered_rows(generator, labels, 16, spread=0.1)
    index = ExemplarIndex(rows, labels, 2)
    found = index.score(rows[:1])
    assert set(labels[found.hits[0]]) == {0}
    vectors = index.transform.apply(rows)
    mean = vectors[labels == 1].mean(axis=0)
    expected = (vectors[0] @ (mean / np.linalg.norm(mean)) - 1) / 2
    assert found.scores[0, 1] == pytest.approx(expected, abs=TOLERANCE)


def with_negatives(negatives: Rows, negative_labels: list[int]) -> tuple[ExemplarIndex, Rows]:
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 6)
    rows = clustered_rows(generator, labels, 16)
    return ExemplarIndex(rows, labels, 3, negatives, np.array(negative_labels, np.int64)), rows


def test_a_query_nearer_to_a_negative_than_to_every_exemplar_excludes_the_class():
    negative = normalised(unit_rows(np.random.default_rng(0), 3, 16)[:1] + 0.15)
    with_it, _ = with_negatives(negative, [0])
    without, _ = with_negatives(np.zeros((0, 16), np.float32), [])
    assert with_it.score(negative).scores[0, 0] == -1
    assert without.score(negative).scores[0, 0] > 0


def test_a_negative_leaves_the_other_classes_as_they_were():
    negative = normalised(unit_rows(np.random.default_rng(0), 3, 16)[:1] + 0.15)
    with_it, rows = with_negatives(negative, [0])
    without, _ = with_negatives(np.zeros((0, 16), np.float32), [])
    queries = np.vstack([rows, negative])
    np.testing.assert_array_equal(with_it.score(queries).scores[:, 1:], without.score(queries).scores[:, 1:])


def test_exemplars_are_never_excluded_by_a_negative_farther_than_themselves():
    index, rows = with_negatives(unit_rows(np.random.default_rng(7), 9, 16), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    scores = index.score(rows).scores
    np.testing.assert_array_equal(scores.argmax(axis=1), index.labels)


def test_an_intent_is_excluded_by_its_nearest_negative_and_exemplar_also_without_a_hit():
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(30), 5)
    rows, names = clustered_rows(generator, labels, 16, 1.0), unit_rows(generator, 30, 16)
    negatives, negative_labels = unit_rows(generator, 40, 16), generator.permutation(np.arange(40) % 20)
    queries = np.concatenate([names, unit_rows(generator, 70, 16)])
    index = ExemplarIndex(rows, labels, 30, negatives, negative_labels, names=names)
    found = index.score(queries)
    vectors, exemplars, unlike = map(index.transform.apply, (queries, rows, negatives))

    def nearest(to: Rows, owners) -> Rows:
        near = [(vectors @ to[owners == label].T).max(axis=1, initial=-1.0) for label in range(30)]
        return np.stack(near, axis=1)

    expected = nearest(unlike, negative_labels) > nearest(exemplars, labels)
    without_a_hit = ~(labels[found.hits][:, :, None] == np.arange(30)).any(axis=1)
    assert (expected & without_a_hit).any()
    assert (expected & ~without_a_hit).any()
    np.testing.assert_array_equal(np.isinf(found.choice), expected)
    np.testing.assert_array_equal(found.scores == -1, expected)


# Names


def test_to_be_near_a_name_helps_to_be_chosen_and_not_to_be_accepted():
    generator = np.random.default_rng(2)
    labels = np.repeat(np.arange(4), 6)
    rows, names = clustered_rows(generator, labels, 16, 1.0), unit_rows(generator, 4, 16)
    index = ExemplarIndex(rows, labels, 4, names=names)
    found = index.score(names)
    own = np.arange(4), np.arange(4)
    assert (found.choice[own] > found.scores[own] + 0.05).all()
    others = ~np.eye(4, dtype=bool)
    assert (found.choice[others] >= found.scores[others]).all()
    nearest = (
        (index.transform.apply(rows) @ index.transform.apply(names).T).reshape(4, 6, 4).max(axis=1).T
    )  # (4, 4)
    vectors = index.transform.apply(np.vstack([rows, names]))
    means = normalised(np.stack([vectors[np.append(labels, range(4)) == c].mean(axis=0) for c in range(4)]))
    expected = (nearest + index.transform.apply(names) @ means.T) / 2
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)


def test_names_are_no_hits():
    rows, labels = unit_rows(np.random.default_rng(2), 6, 8), np.repeat([0, 1], 3)
    found = ExemplarIndex(rows, labels, 2, names=-rows[[0, 3]]).score(-rows)
    assert {*found.hits.ravel().tolist()} == set(range(6))


def test_a_name_does_not_outweigh_a_negative():
    generator = np.random.default_rng(2)
    rows, labels = clustered_rows(generator, np.repeat(np.arange(4), 6), 16, 1.0), np.repeat(np.arange(4), 6)
    name = unit_rows(generator, 1, 16)
    names = np.vstack([name, unit_rows(generator, 3, 16)])
    found = ExemplarIndex(rows, labels, 4, name, np.array([0]), names=names).score(name)
    assert found.scores[0, 0] == -1
    assert found.choice[0].argmax() != 0


# The second head


@pytest.mark.parametrize(("classes", "each", "d"), [(2, 40, 8), (6, 40, 24), (40, 4, 16)])
def test_the_second_head_is_the_logistic_regression_of_scikit_learn(classes, each, d):
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    rows, queries = clustered_rows(generator, labels, d, 1.5), unit_rows(generator, 50, d)
    head = fit_head(rows, labels, classes)
    # Of two classes it has weights of the second alone, which count once where ours count as two halves.
    strength = 200 if classes == 2 else 100
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(rows.astype(float), labels)
    logits = reference.decision_function(queries.astype(float))  # centred over the classes
    if classes == 2:
        logits = np.stack([-logits, logits], axis=1) / 2
    assert head is not None
    np.testing.assert_allclose(head(queries), 0.15 * logits, atol=0.02 * np.abs(logits).max() * 0.15)


def test_of_rows_that_are_all_the_same_the_second_head_knows_how_frequent_classes_are():
    rows = np.repeat(unit_rows(np.random.default_rng(0), 1, 8), 30, axis=0)
    head = fit_head(rows, np.repeat(np.arange(2), [10, 20]), 2)
    assert head is not None
    np.testing.assert_allclose(head(rows[:1]), [[-0.075 * np.log(2), 0.075 * np.log(2)]], atol=1e-4)


@pytest.mark.parametrize(
    "search",
    [
        lambda rows: ExemplarIndex(rows, np.arange(len(rows)) % 2, 2).score(rows),
        lambda rows: OutcomeIndex(rows).nearest(rows),
    ],
    ids=["exemplars", "outcomes"],
)
def test_a_search_takes_one_thread_whichever_thread_asks(search: Callable[[Rows], object]) -> None:
    rows, found = unit_rows(np.random.default_rng(0), 8, 4), []

    def ask() -> None:
        faiss.omp_set_num_threads(2)  # where a thread of a machine with two cores begins
        search(rows)
        found.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [1]
