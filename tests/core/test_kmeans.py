"""k-means over sharded rows, and cutting a cluster in two."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from invariance_propagation import devices
from invariance_propagation.core.bank import read_rows
from invariance_propagation.core.kmeans import best_dots, halve, kmeans, means_of
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests.reference import odc as oracle

N, DIM, CLUSTERS = 61, 5, 7  # 61 rows: every number of devices but 1 pads them


def rows_of(seed: int, count: int = N, dim: int = DIM) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def on_devices(count: int, mode: str, function: Any, rows: np.ndarray, out: Any) -> Any:
    runner = devices.make_runner(mode, count)
    mapped = runner.compile(partial(function, axis_name=AXIS), (SHARDED,), out)
    return runner.fetch(mapped(runner.put(rows, SHARDED)), out, len(rows))


def cluster(rows: jax.Array, *, axis_name: str | None, iterations: int = 4) -> Any:
    start = read_rows(rows, jnp.arange(CLUSTERS) * 3, axis_name=axis_name)
    return kmeans(
        rows, start, num_examples=N, num_iterations=iterations, axis_name=axis_name
    )


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_it_is_lloyd(iterations: int) -> None:
    rows = rows_of(1)
    labels, means, sizes = cluster(rows, axis_name=None, iterations=iterations)
    wanted, centroids = oracle.lloyd(
        rows, rows[: 3 * CLUSTERS : 3], iterations=iterations
    )
    np.testing.assert_array_equal(labels, wanted)
    np.testing.assert_allclose(means, centroids, atol=1e-6)
    np.testing.assert_array_equal(sizes, np.bincount(wanted, minlength=CLUSTERS))
    assert labels.dtype == sizes.dtype == jnp.int32 and means.dtype == jnp.float32


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_kmeans_is_the_same_on_all_devices(count: int, mode: str) -> None:
    rows = rows_of(2)
    expected = cluster(rows, axis_name=None)
    out = SHARDED, REPLICATED, REPLICATED
    found = on_devices(count, mode, cluster, rows, out)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)
    np.testing.assert_array_equal(found[2], expected[2])


def test_rows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(3)
    expected = cluster(rows, axis_name=None)
    monkeypatch.setattr(
        "invariance_propagation.core.kmeans.SCORES_ON_CPU", 4 * CLUSTERS
    )
    jax.clear_caches()
    program = jax.jit(partial(cluster, axis_name=None))
    np.testing.assert_array_equal(program(rows)[0], expected[0])
    text = program.lower(rows).as_text()
    assert f"tensor<4x{CLUSTERS}xf32>" in text  # 4 rows at once
    assert f"tensor<{N}x{CLUSTERS}xf32>" not in text


def test_a_cluster_without_rows_stays() -> None:
    rows = rows_of(4, 6)
    labels = np.array([0, 0, 2, 2, 2, 9], np.int32)  # 9: no cluster
    before = np.full((4, DIM), 7.0, np.float32)
    means, sizes = means_of(rows, labels, before)
    np.testing.assert_array_equal(sizes, [2, 0, 3, 0])
    np.testing.assert_array_equal(means[1], before[1])
    np.testing.assert_array_equal(means[3], before[3])
    np.testing.assert_allclose(means[2], rows[2:5].mean(axis=0), atol=1e-6)


def test_the_first_of_equal_centroids_is_best() -> None:
    centroids = np.float32([[0, 1], [1, 0], [1, 0]])
    assert int(best_dots(np.float32([2, 1]), centroids)) == 1
    assert int(best_dots(np.float32([2, 1]), centroids, np.float32([2, 0, 0.5]))) == 0


MEMBERS = np.random.default_rng(5).random(N) < 0.6


def cut(rows: jax.Array, *, axis_name: str | None, member: Any = MEMBERS) -> Any:
    """Cuts the members, whose flags every device holds, and takes its own."""
    count = len(rows)
    if axis_name is None:
        here = jnp.asarray(member)
    else:
        missing = count * jax.lax.axis_size(axis_name) - len(member)
        flags = jnp.pad(jnp.asarray(member), (0, missing))
        first = jax.lax.axis_index(axis_name) * count
        here = jax.lax.dynamic_slice_in_dim(flags, first, count)
    return halve(rows, here, num_iterations=5, axis_name=axis_name)


@pytest.mark.parametrize("block", [4, 1024])
def test_halves_are_those_of_the_oracle(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("invariance_propagation.core.kmeans.BLOCK", block)
    rows, members = rows_of(6), np.flatnonzero(MEMBERS)
    first, second = oracle.halves(rows[members].astype(float), iterations=5)
    found = cut(rows, axis_name=None)
    np.testing.assert_array_equal(np.flatnonzero(found.second), members[second])
    np.testing.assert_array_equal(found.sizes, [len(first), len(second)])
    wanted = np.stack([rows[members[half]].mean(axis=0) for half in (first, second)])
    np.testing.assert_allclose(found.centroids, wanted, atol=1e-6)


@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_cut_is_the_same_on_all_devices(count: int, mode: str, equal: bool) -> None:
    rows = np.tile(rows_of(7, 1), (N, 1)) if equal else rows_of(7)
    expected = cut(rows, axis_name=None)
    out = type(expected)(SHARDED, REPLICATED, REPLICATED)
    found = on_devices(count, mode, cut, rows, out)
    np.testing.assert_array_equal(found.second, expected.second)
    np.testing.assert_array_equal(found.sizes, expected.sizes)
    np.testing.assert_allclose(found.centroids, expected.centroids, atol=1e-6)


def test_equal_rows_are_shared_out() -> None:
    rows = np.tile(rows_of(8, 1), (N, 1))
    found, count = cut(rows, axis_name=None), MEMBERS.sum()
    members = np.flatnonzero(MEMBERS)
    np.testing.assert_array_equal(np.flatnonzero(found.second), members[1::2])
    np.testing.assert_array_equal(found.sizes, [count - count // 2, count // 2])


def test_one_far_row_is_not_cut_off_alone() -> None:
    # Two groups, and one stray row: a start from the farthest pair would take it.
    rows = rows_of(9, N, 32) * 0.2
    rows[:30, 0] += 1
    rows[30:60, 1] += 1
    rows[60] = -1.5 * np.eye(32)[2]
    found = halve(rows, np.ones(N, bool), num_iterations=20)
    assert min(found.sizes) > 20


def test_cuts_are_about_as_tight_as_the_best_of_ten() -> None:
    """scikit-learn with k-means++ and ten starts, as in the released code."""
    ours, best = [], []
    for seed in range(10):
        rows = rows_of(20 + seed, 200, 16)
        found = halve(rows, np.ones(200, bool), num_iterations=20)
        nearer = found.centroids[np.asarray(found.second, int)]
        ours.append(np.square(rows - nearer).sum())
        best.append(
            KMeans(2, random_state=0, max_iter=20, n_init=10).fit(rows).inertia_
        )
    # Rows without any structure: the worst case, as all cuts are about equally good.
    assert np.max(np.array(ours) / best) < 1.02
