"""The kNN graph: walking it, marking repeats, replacing rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import distinct, init_graph, propagate, update_graph
from invariance_propagation.core.graph import match_graph, propagate_sharded
from invariance_propagation.parallel import put_rows
from tests.reference import objective as oracle

# The conformance fixture of the specification: two hops over eight images.
GRAPH = np.array([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7], [6, 0]])
INDICES = np.array([0, 3])
SLOTS = np.array([[1, 2, 0, 2, 1, 3], [2, 4, 1, 3, 3, 5]])


def test_fixture_slots() -> None:
    np.testing.assert_array_equal(oracle.propagate(GRAPH, INDICES, num_hops=2), SLOTS)
    np.testing.assert_array_equal(propagate(GRAPH, INDICES, num_hops=2), SLOTS)


def test_fixture_distinct() -> None:
    # Row 0 comes back to itself and repeats 2 and 1; row 3 comes back twice.
    expected = np.array([[1, 1, 0, 0, 0, 1], [1, 1, 1, 0, 0, 1]], bool)
    np.testing.assert_array_equal(oracle.distinct(SLOTS, INDICES), expected)
    np.testing.assert_array_equal(distinct(SLOTS, INDICES), expected)


@pytest.mark.parametrize("num_hops", [1, 2, 3, 4])
@pytest.mark.parametrize("num_neighbors", [1, 2, 4])
def test_propagate_is_the_oracle(
    make_problem, num_neighbors: int, num_hops: int
) -> None:
    problem = make_problem(
        num_hops, num_examples=17, batch=5, num_neighbors=num_neighbors
    )
    slots = propagate(problem.graph, problem.indices, num_hops=num_hops)
    np.testing.assert_array_equal(
        slots, oracle.propagate(problem.graph, problem.indices, num_hops=num_hops)
    )
    assert slots.dtype == jnp.int32
    assert slots.shape == (5, sum(num_neighbors**hop for hop in range(1, num_hops + 1)))
    assert np.all((0 <= np.asarray(slots)) & (np.asarray(slots) < 17))


def test_three_hops_by_default(make_problem) -> None:
    problem = make_problem(0)
    assert propagate(problem.graph, problem.indices).shape == (6, 84)


@pytest.mark.parametrize("num_hops", [1, 2, 3])
@pytest.mark.parametrize("num_neighbors", [1, 3, 4])
def test_distinct_slots_are_the_nodes_within_reach(
    make_problem, num_neighbors: int, num_hops: int
) -> None:
    # Twelve images and up to 84 slots: repeats and returns to the anchor are certain.
    problem = make_problem(7, num_examples=12, batch=9, num_neighbors=num_neighbors)
    slots = np.asarray(propagate(problem.graph, problem.indices, num_hops=num_hops))
    keep = np.asarray(distinct(slots, problem.indices))
    assert keep.dtype == bool
    np.testing.assert_array_equal(keep, oracle.distinct(slots, problem.indices))
    for row, flags, anchor in zip(slots, keep, problem.indices, strict=True):
        kept = row[flags].tolist()
        assert len(kept) == len(set(kept))
        assert set(kept) == oracle.within_reach(problem.graph, anchor, num_hops)


def test_distinct_on_arbitrary_ids() -> None:
    rng = np.random.default_rng(0)
    positives = rng.integers(0, 9, size=(20, 15))
    indices = rng.integers(0, 9, size=20)
    np.testing.assert_array_equal(
        distinct(positives, indices), oracle.distinct(positives, indices)
    )


def test_fresh_graph_has_no_positives() -> None:
    graph = init_graph(11, 4)
    assert graph.dtype == jnp.int32
    np.testing.assert_array_equal(graph, np.repeat(np.arange(11)[:, None], 4, axis=1))
    indices = np.array([10, 0, 4])
    slots = propagate(graph, indices)
    np.testing.assert_array_equal(slots, np.repeat(indices[:, None], 84, axis=1))
    assert not np.any(distinct(slots, indices))


def test_permuting_the_batch_permutes_the_slots(make_problem) -> None:
    problem = make_problem(3)
    order = np.random.default_rng(3).permutation(len(problem.indices))
    slots = np.asarray(propagate(problem.graph, problem.indices))
    np.testing.assert_array_equal(
        propagate(problem.graph, problem.indices[order]), slots[order]
    )


def test_update_graph_replaces_the_batch_and_nothing_else(make_problem) -> None:
    problem = make_problem(4)
    neighbors = np.random.default_rng(4).integers(0, 40, size=(6, 4))
    before = problem.graph.copy()
    graph = update_graph(problem.graph, problem.indices, neighbors)
    assert graph.dtype == jnp.int32
    assert graph.shape == before.shape
    np.testing.assert_array_equal(
        graph, oracle.update_graph(before, problem.indices, neighbors)
    )
    rest = np.setdiff1d(np.arange(40), problem.indices)
    np.testing.assert_array_equal(np.asarray(graph)[rest], before[rest])
    np.testing.assert_array_equal(
        problem.graph, before
    )  # the caller's array is left alone


def test_jit_changes_nothing(make_problem) -> None:
    problem = make_problem(5)

    def walk(graph: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        slots = propagate(graph, indices, num_hops=2)
        return slots, distinct(slots, indices)

    compiled = jax.jit(walk)(problem.graph, problem.indices)
    for got, expected in zip(
        compiled, walk(problem.graph, problem.indices), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("num_hops", [0, -1])
def test_no_hops_is_an_error(num_hops: int) -> None:
    with pytest.raises(ValueError, match="num_hops"):
        propagate(GRAPH, INDICES, num_hops=num_hops)


def test_a_graph_follows_its_images() -> None:
    # 0 is gone, 3 and 1 have changed places, 2 stays, and one is new.
    graph = np.array([[1, 2], [0, 2], [3, 1], [0, 0]], np.int32)
    matched = match_graph(graph, np.array([3, 1, 2, -1], np.int32))
    # A lost neighbour is replaced by the image itself, as before the first visit.
    assert matched.tolist() == [[0, 0], [1, 2], [0, 1], [3, 3]]
    assert matched.dtype == np.int32
    np.testing.assert_array_equal(matched[3], init_graph(4, 2)[3])
    assert not np.any(distinct(propagate(matched, np.array([0, 3])), np.array([0, 3])))


def test_a_graph_of_the_same_images_stays_as_it_is(make_problem) -> None:
    graph = make_problem(3).graph.astype(np.int32)
    np.testing.assert_array_equal(match_graph(graph, np.arange(len(graph))), graph)


# A graph whose rows lie on several devices.


def shards_of(array: np.ndarray, num_devices: int) -> np.ndarray:
    """Cuts rows into equal shards; the last ones are padding that nothing may read."""
    rows = -(-len(array) // num_devices)
    padded = np.full((num_devices * rows, *array.shape[1:]), 10**6, array.dtype)
    padded[: len(array)] = array
    return padded.reshape(num_devices, rows, *array.shape[1:])


@pytest.mark.parametrize("num_hops", [1, 3])
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_a_sharded_graph_is_walked_as_a_whole_one(
    make_problem, num_devices: int, num_hops: int
) -> None:
    problem = make_problem(3, num_examples=21, batch=8, num_neighbors=3)
    walk = partial(propagate_sharded, num_hops=num_hops, axis_name="device")
    graph = shards_of(np.asarray(problem.graph, np.int32), num_devices)
    indices = jnp.asarray(problem.indices, jnp.int32)
    found = jax.vmap(walk, in_axes=(0, None), axis_name="device")(graph, indices)
    expected = oracle.propagate(problem.graph, problem.indices, num_hops=num_hops)
    for own in found:  # the same on every device
        np.testing.assert_array_equal(own, expected)
    alone = propagate_sharded(
        jnp.asarray(problem.graph), indices, num_hops=num_hops, axis_name=None
    )
    np.testing.assert_array_equal(alone, expected)


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_a_sharded_graph_is_written_as_a_whole_one(
    make_problem, num_devices: int
) -> None:
    problem = make_problem(4, num_examples=21, batch=8, num_neighbors=3)
    graph = np.asarray(problem.graph, np.int32)
    indices = np.asarray(problem.indices, np.int32)
    new = np.random.default_rng(5).integers(0, 21, (8, 3)).astype(np.int32)
    write = partial(put_rows, axis_name="device")
    found = jax.vmap(write, axis_name="device")(
        shards_of(graph, num_devices),
        indices.reshape(num_devices, -1),
        new.reshape(num_devices, -1, 3),
    )
    expected = graph.copy()
    expected[indices] = new
    np.testing.assert_array_equal(np.concatenate(found)[:21], expected)
