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
