"""k-means against rounds written with loops."""

import jax
import numpy as np
import pytest

from invariance_propagation.core import kmeans as module
from invariance_propagation.core.kmeans import kmeans, means_of


def groups(num_groups: int, each: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = 10 * random.normal(size=(num_groups, 6))
    rows = np.repeat(centres, each, axis=0) + random.normal(size=(num_groups * each, 6))
    return rows[random.permutation(len(rows))].astype(np.float32)


def slow(rows: np.ndarray, centroids: np.ndarray, num_rounds: int) -> np.ndarray:
    """Returns labels after the rounds; no cluster may become empty."""
    for number in range(num_rounds + 1):
        away = [[((row - c) ** 2).sum() for c in centroids] for row in rows]
        labels = np.argmin(away, axis=1)
        if number < num_rounds:
            centroids = np.stack(
                [rows[labels == c].mean(axis=0) for c in range(len(centroids))]
            )
    return labels


@pytest.mark.parametrize("rows_at_once", [7, 2048])
@pytest.mark.parametrize("num_rounds", [1, 4])
def test_rounds_are_those_of_loops(
    monkeypatch: pytest.MonkeyPatch, num_rounds: int, rows_at_once: int
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    rows, key = groups(4, 12), jax.random.key(3)
    chosen = np.asarray(jax.random.choice(key, len(rows), (5,), replace=False))
    labels, centroids = kmeans(rows, 5, key=key, num_rounds=num_rounds)
    expected = slow(rows.astype(np.float64), rows[chosen].astype(float), num_rounds)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int32 and centroids.dtype == np.float32
    for cluster in range(5):
        mean = rows[expected == cluster].mean(axis=0)
        np.testing.assert_allclose(centroids[cluster], mean, rtol=1e-5, atol=1e-5)


def test_groups_are_found() -> None:
    rows = groups(5, 40)
    labels, _ = kmeans(rows, 10, key=jax.random.key(0))
    # No cluster holds rows of two groups, which lie far apart.
    for cluster in range(10):
        own = rows[labels == cluster]
        assert len(own) and np.abs(own - own.mean(axis=0)).max() < 8


def test_no_cluster_stays_empty() -> None:
    # Equal rows: all but one of the clusters that start from them become empty.
    rows = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    for count in (4, 9, 40):
        labels, centroids = kmeans(rows, count, key=jax.random.key(1))
        assert np.bincount(labels, minlength=count).min() >= 1
        assert np.isfinite(centroids).all()
        np.testing.assert_allclose(centroids, means_of(rows, labels, count))
    with pytest.raises(ValueError, match="num_clusters=41: set it from 1 to N = 40"):
        kmeans(rows, 41, key=jax.random.key(1))
