"""The purity of propagated positives, against sets built by hand."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import init_graph
from invariance_propagation.methods.invariance_propagation.purity import (
    ANCHORS_AT_ONCE,
    hop_purity,
)


def slow_purity(
    graph: np.ndarray, labels: np.ndarray, indices: np.ndarray, *, num_hops: int
) -> list[float]:
    """Computes purity by its definition, from the set of images first reached at each hop."""
    same, reached = [0] * num_hops, [0] * num_hops
    for anchor in indices:
        seen = ring = {int(anchor)}
        for hop in range(num_hops):
            ring = {int(other) for node in ring for other in graph[node]} - seen
            seen = seen | ring
            reached[hop] += len(ring)
            same[hop] += sum(labels[other] == labels[anchor] for other in ring)
    pairs = [*zip(same, reached, strict=True), (sum(same), sum(reached))]
    return [a / b if b else math.nan for a, b in pairs]


def assert_purity(graph, labels, indices, expected: list[float]) -> None:
    values = hop_purity(graph, labels, indices, num_hops=len(expected) - 1)
    assert values.shape == (len(expected),)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "num_neighbors, num_hops", [(4, 1), (4, 2), (4, 3), (2, 4), (1, 3)]
)
def test_is_the_oracle(make_problem, num_neighbors: int, num_hops: int) -> None:
    # Few images and many slots: hops meet, and return to the anchor.
    problem = make_problem(
        num_hops, num_examples=30, batch=11, num_neighbors=num_neighbors
    )
    labels = np.random.default_rng(num_hops).integers(3, size=30)
    expected = slow_purity(problem.graph, labels, problem.indices, num_hops=num_hops)
    assert_purity(problem.graph, labels, problem.indices, expected)


def test_three_hops_by_default(make_problem) -> None:
    problem = make_problem(0)
    labels = np.arange(40) % 4
    np.testing.assert_array_equal(
        hop_purity(problem.graph, labels, problem.indices),
        hop_purity(problem.graph, labels, problem.indices, num_hops=3),
    )


# From 0: 1 and 2, then 3 and 4, then 5. Every row also points back.
GRAPH = np.array([[1, 2], [0, 3], [1, 4], [1, 5], [0, 3], [2, 0]])


def test_each_image_counts_at_the_hop_that_reaches_it_first() -> None:
    labels = np.array([7, 7, 0, 7, 0, 7])
    assert_purity(GRAPH, labels, np.array([0]), [1 / 2, 1 / 2, 1, 3 / 5])
    # Image 1 alone has the label; later hops reach it again, and that counts neither
    # for it nor against the others.
    labels = np.array([7, 7, 0, 0, 0, 0])
    assert_purity(GRAPH, labels, np.array([0]), [1 / 2, 0, 0, 1 / 5])


def test_the_anchor_is_no_positive_of_its_own() -> None:
    # No other image has its label, although hops 2 and 3 come back to it.
    labels = np.array([7, 0, 0, 0, 0, 0])
    assert_purity(GRAPH, labels, np.array([0]), [0, 0, 0, 0])
    # It does not count if it is its neighbour either.
    graph = np.array([[0, 1], [1, 0]])
    assert_purity(graph, np.array([5, 6]), np.array([0]), [0, 0])
    assert_purity(graph, np.array([5, 5]), np.array([0]), [1, 1])


def test_positives_count_alike_whatever_their_anchor() -> None:
    # Anchor 0 has three positives, none of its class; anchor 4 has one, which is.
    # Their mean would be 1 / 2.
    graph = np.array([[1, 2, 3], [1, 1, 1], [2, 2, 2], [3, 3, 3], [5, 5, 5], [5, 5, 5]])
    labels = np.array([0, 1, 1, 1, 2, 2])
    assert_purity(graph, labels, np.array([0, 4]), [1 / 4, 1 / 4])


def test_nan_where_nothing_is_reached() -> None:
    # A fresh graph: every image points at itself.
    labels = np.array([0, 0, 1, 1])
    assert_purity(init_graph(4, 2), labels, np.arange(4), [math.nan] * 4)
    # Two images that are only each other's neighbours: everything is reached at hop 1.
    pairs = np.array([[1], [0], [3], [2]])
    assert_purity(pairs, labels, np.arange(4), [1, math.nan, math.nan, 1])


def test_one_label_is_pure(make_problem) -> None:
    problem = make_problem(1)
    labels = np.full(40, 3)
    assert_purity(problem.graph, labels, problem.indices, [1, 1, 1, 1])
    labels = np.arange(40)
    assert_purity(problem.graph, labels, problem.indices, [0, 0, 0, 0])


def test_anchors_beyond_one_chunk() -> None:
    # More anchors than one chunk holds, and not a multiple of it.
    count = 2 * ANCHORS_AT_ONCE + 51
    rng = np.random.default_rng(2)
    graph = rng.integers(0, count, size=(count, 2))
    labels = rng.integers(3, size=count)
    # Purity differs between the chunks, so that to lose one or to count its padding
    # would show.
    labels[ANCHORS_AT_ONCE : 2 * ANCHORS_AT_ONCE] = 3
    graph[-51:] = rng.integers(count - 51, count, size=(51, 2))
    labels[-51:] = 4
    expected = slow_purity(graph, labels, np.arange(count), num_hops=2)
    assert_purity(graph, labels, np.arange(count), expected)


def test_numpy_and_jax_arrays_of_any_whole_type(make_problem) -> None:
    problem = make_problem(3)
    labels = np.random.default_rng(3).integers(3, size=40)
    expected = slow_purity(problem.graph, labels, problem.indices, num_hops=3)
    for kind in (np.int64, np.int32, np.uint8):
        assert_purity(
            problem.graph, labels.astype(kind), problem.indices.astype(kind), expected
        )
    arrays = map(jnp.asarray, (problem.graph, labels, problem.indices))
    assert_purity(*arrays, expected)
