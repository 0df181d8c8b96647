"""The most similar rows: against a sort in NumPy."""

import numpy as np
import pytest

from invariance_propagation.evaluation.retrieval import QUERIES_AT_ONCE, most_similar


@pytest.mark.parametrize("num_queries", [3, QUERIES_AT_ONCE + 5])
def test_are_those_of_a_sort(num_queries: int) -> None:
    random = np.random.default_rng(0)
    bank = random.normal(size=(50, 6)) * random.uniform(0.1, 9, (50, 1))
    queries = random.normal(size=(num_queries, 6)) * 3
    unit, other = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)
    )
    expected = other @ unit.T
    order = np.argsort(-expected, axis=1)[:, :7]
    similarities, rows = most_similar(
        bank.astype("f"), queries.astype("f"), num_neighbors=7
    )
    np.testing.assert_array_equal(rows, order)
    np.testing.assert_allclose(
        similarities, np.take_along_axis(expected, order, axis=1), atol=1e-6
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_like_nothing(value: float) -> None:
    random = np.random.default_rng(1)
    bank, queries = random.normal(size=(9, 6)), random.normal(size=(4, 6))
    expected = most_similar(bank, queries, num_neighbors=9)
    bank = np.concatenate([bank, np.full((1, 6), value)])
    similarities, rows = map(np.asarray, most_similar(bank, queries, num_neighbors=10))
    np.testing.assert_array_equal(rows[:, :9], expected[1])
    np.testing.assert_allclose(similarities[:, :9], expected[0], atol=1e-6)
    assert (rows[:, 9] == 9).all() and (similarities[:, 9] == -np.inf).all()


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_the_scale_does_not_matter(scale: float) -> None:
    random = np.random.default_rng(2)
    bank, queries = random.normal(size=(9, 6)), random.normal(size=(4, 6))
    expected = most_similar(bank, queries, num_neighbors=9)
    found = most_similar(scale * bank, scale * queries, num_neighbors=9)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
