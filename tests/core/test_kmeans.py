"""k-means and 2-means, against loops in float64 and against scikit-learn."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.cluster import KMeans

from invariance_propagation import devices
from invariance_propagation.core import kmeans as module
from invariance_propagation.core.kmeans import Halves, kmeans, two_means
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests.reference import odc as oracle


def blobs(
    seed: int, counts: list[int], dim: int = 5, spread: float = 0.1
) -> np.ndarray:
    """Rows around one random center after the other."""
    random = np.random.default_rng(seed)
    centers = np.repeat(random.normal(size=(len(counts), dim)), counts, axis=0)
    noise = spread * random.normal(size=centers.shape)
    return (centers + noise).astype(np.float32)


@pytest.mark.parametrize(
    "shape", [(5000, 256, 20), (3000, 16, 300), (200_000, 128, 1000)]
)
def test_its_bytes_are_those_of_the_compiled_program(
    shape: tuple[int, int, int], optimized: None
) -> None:
    num_rows, dim, num_clusters = shape
    rows = jax.ShapeDtypeStruct((num_rows, dim), jnp.float32)
    lowered = kmeans.lower(jax.random.key(0), rows, num_clusters=num_clusters)
    found = lowered.compile().memory_analysis()
    held = found.argument_size_in_bytes + found.temp_size_in_bytes
    assert module.kmeans_bytes(*shape) == pytest.approx(held, rel=0.05)


def start_of(key: jax.Array, rows: np.ndarray, num_clusters: int) -> np.ndarray:
    order = jax.random.permutation(key, jnp.arange(len(rows), dtype=jnp.int32))
    return rows[order[:num_clusters]]


@pytest.mark.parametrize(
    "pairs", [1 << 26, 40]
)  # 40: blocks of 8 rows, and 5 left over
def test_it_is_lloyds_algorithm(monkeypatch, pairs: int) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", pairs)
    kmeans.clear_cache()
    rows, key = blobs(0, [13, 20, 9, 11], spread=0.8), jax.random.key(3)
    for iterations in (1, 2, 7):
        labels, centroids = kmeans(key, rows, num_clusters=5, iterations=iterations)
        wanted = oracle.kmeans(rows, start_of(key, rows, 5), iterations)
        np.testing.assert_array_equal(labels, wanted[0])
        np.testing.assert_allclose(centroids, wanted[1], rtol=1e-5, atol=1e-6)
    assert labels.dtype == jnp.int32 and centroids.dtype == jnp.float32
    kmeans.clear_cache()


def test_it_finds_what_scikit_learn_finds_from_the_same_start() -> None:
    rows, key = blobs(1, [200, 150, 90, 60, 40], dim=16, spread=0.5), jax.random.key(0)
    labels, centroids = kmeans(key, rows, num_clusters=5, iterations=30)
    given = {"init": start_of(key, rows, 5), "n_init": 1, "tol": 0, "max_iter": 30}
    theirs = KMeans(5, **given).fit(rows)
    np.testing.assert_array_equal(labels, theirs.labels_)
    np.testing.assert_allclose(centroids, theirs.cluster_centers_, atol=1e-5)


@pytest.mark.parametrize("num_clusters", [1, 4, 17, 30])
def test_no_cluster_is_empty_even_of_equal_rows(num_clusters: int) -> None:
    rows = np.ones((30, 3), np.float32)
    rows[:2] = [[1, 0, 0], [0, 5, 0]]
    labels, centroids = kmeans(jax.random.key(1), rows, num_clusters=num_clusters)
    sizes = np.bincount(labels, minlength=num_clusters)
    assert len(sizes) == num_clusters and sizes.min() >= 1
    means = [rows[labels == c].mean(axis=0) for c in range(num_clusters)]
    np.testing.assert_allclose(centroids, means, rtol=1e-6)


def test_empty_clusters_take_the_farthest_rows_but_never_the_last_one() -> None:
    labels = jnp.array([0, 0, 0, 2, 2, 4], jnp.int32)
    distances = jnp.array([1.0, 0.5, 3.0, 7.0, 7.0, 9.0])
    filled = module.fill_empty(labels, distances, num_clusters=5)
    # 5 is alone, and 3 and 1 are nearest to their centroids: 4 and 2 go.
    assert filled.tolist() == [0, 0, 3, 2, 1, 4]
    same = module.fill_empty(labels, distances, num_clusters=1)
    np.testing.assert_array_equal(same, labels)


def test_pairs_of_rows_and_clusters_never_exist_at_once(monkeypatch, optimized) -> None:
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 1 << 14)
    kmeans.clear_cache()
    rows = jax.ShapeDtypeStruct((20_000, 8), jnp.float32)
    lowered = kmeans.lower(jax.random.key(0), rows, num_clusters=200)
    needed = lowered.compile().memory_analysis().temp_size_in_bytes
    assert needed < 20_000 * 200 * 4 / 4
    kmeans.clear_cache()


def test_it_says_what_does_not_fit() -> None:
    rows = np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match="num_clusters=5, but there are 4 rows"):
        kmeans(jax.random.key(0), rows, num_clusters=5)
    with pytest.raises(ValueError, match="iterations=0"):
        kmeans(jax.random.key(0), rows, num_clusters=2, iterations=0)
    with pytest.raises(ValueError, match="rows is int"):
        kmeans(jax.random.key(0), np.zeros((4, 2), int), num_clusters=2)


# Two halves of a cluster, whose members are somewhere in a bank.


def halves(rows: np.ndarray, members: np.ndarray, num_devices: int, mode: str):
    runner = devices.make_runner(mode, num_devices)
    out = Halves(SHARDED, REPLICATED)
    fn = runner.compile(partial(two_means, axis_name=AXIS), (SHARDED, SHARDED), out)
    # The padding is no member, and must not matter.
    placed = runner.put((rows, members), (SHARDED, SHARDED))
    return runner.fetch(fn(*placed), out, len(rows))


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_halves_are_those_of_a_slow_loop(
    mode: str, num_devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMBERS_AT_ONCE", 5)  # several blocks
    rows = blobs(2, [17, 22, 14], spread=0.7)
    members = np.random.default_rng(5).random(len(rows)) < 0.6
    second, means = halves(rows, members, num_devices, mode)
    assert not np.any(second & ~members)
    wanted = oracle.two_means(rows[members].astype(np.float64))
    assert 5 < wanted.sum() < members.sum() - 5
    np.testing.assert_array_equal(second[members], wanted)
    for mean, half in zip(means, (members & ~second, second), strict=True):
        np.testing.assert_allclose(mean, rows[half].mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_halves_are_scikit_learns_where_there_are_two(seed: int) -> None:
    rows = blobs(seed, [40, 25], dim=8, spread=0.3)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    ours = np.asarray(two_means(rows, jnp.ones(len(rows), bool)).second)
    theirs = KMeans(2, random_state=0, max_iter=20, n_init=10).fit(rows).labels_
    assert (ours == theirs).all() or (ours != theirs).all()


def test_one_row_far_away_does_not_end_up_alone() -> None:
    # Lloyd's algorithm that starts from the farthest pair keeps it alone here.
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 16)).astype(np.float32)
    rows[7] *= 2.5
    second = np.asarray(two_means(rows, jnp.ones(200, bool)).second)
    assert 40 < second.sum() < 160


@pytest.mark.parametrize("value", [0.5, 0.1])  # of 0.1 the mean is not exact
def test_equal_rows_have_no_halves(value: float) -> None:
    members = jnp.arange(9) < 8
    second, _ = two_means(np.full((9, 3), value, np.float32), members)
    assert not second.any() or (second == members).all()
    one, _ = two_means(np.eye(3, dtype=np.float32), jnp.array([False, True, False]))
    assert one.sum() <= 1 and not one[0] and not one[2]
