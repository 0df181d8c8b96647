"""The most similar rows: against a sort in NumPy."""

import numpy as np
import pytest

from invariance_propagation.evaluation.retrieval import (
    QUERIES_AT_ONCE,
    Found,
    look_through,
    most_similar,
    nothing_found,
)


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


def in_blocks(queries: np.ndarray, vectors: np.ndarray, size: int, k: int) -> Found:
    found, rows = nothing_found(len(queries)), np.arange(len(vectors)) + 100
    for start in range(0, len(vectors), size):
        part = slice(start, start + size)
        found = look_through(found, queries, vectors[part], rows[part], num_neighbors=k)
    return found


@pytest.mark.parametrize("size", [1, 7, 40, 400])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_blocks_give_what_a_sort_gives(size: int, spread: float) -> None:
    # Features of a network that has learnt little are all nearly the same.
    random = np.random.default_rng(1)
    middle = 3 * np.abs(random.normal(size=64))
    vectors, queries = (
        (middle + spread * random.normal(size=(n, 64))).astype("f") for n in (90, 5)
    )
    vectors[60], queries[0] = vectors[20], vectors[20]
    unit, other = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (vectors.astype(np.float64), queries.astype(np.float64))
    )
    expected = other @ unit.T
    order = np.argsort(-expected, axis=1, kind="stable")[:, :6]
    found = in_blocks(queries, vectors, size, 6)
    np.testing.assert_array_equal(found.rows, order + 100)
    assert found.rows[0, :2].tolist() == [120, 160]
    np.testing.assert_allclose(
        found.similarities, np.take_along_axis(expected, order, axis=1), atol=1e-12
    )


def test_fewer_rows_than_wanted() -> None:
    random = np.random.default_rng(2)
    vectors, queries = (random.normal(size=(n, 4)).astype("f") for n in (3, 2))
    found = in_blocks(queries, vectors, 2, 8)
    assert found.rows.shape == (2, 3)
    assert np.sort(found.rows).tolist() == [[100, 101, 102]] * 2
    assert (np.diff(found.similarities) <= 0).all()


def test_a_row_of_zeros_is_like_nothing() -> None:
    vectors = np.array([[0, 0], [1, 0]], np.float32)
    found = in_blocks(vectors, vectors, 2, 2)
    assert found.similarities.tolist() == [[0, 0], [1, 0]]


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
