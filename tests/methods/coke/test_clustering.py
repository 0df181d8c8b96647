"""Sizes that the dual promises, values checked by hand, and streaming k-means as k-means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.methods.coke import clustering
from invariance_propagation.methods.coke.clustering import Clusters, Duals
from tests.methods.coke.made import unit

EPOCHS, N, B, K, DIM = 6, 480, 24, 10, 8
STEPS = N // B


def test_a_step_by_hand() -> None:
    # Two centres, four features, eta 2, gamma 0.5; coke/builder_double_view.py:70-81.
    clusters = Clusters(
        fixed=jnp.eye(2, dtype=jnp.float32),
        moving=jnp.eye(2, dtype=jnp.float32),
        duals=jnp.array([0.1, 0.0], jnp.float32),
        counts=jnp.array([2, 0], jnp.int32),
        sizes=jnp.array([3, 1], jnp.int32),
    )
    u = jnp.array([[0.8, 0.6], [0.6, 0.8], [0.65, 0.75], [1.0, 0.0]], jnp.float32)
    labels = clustering.assign(u, clusters.moving, clusters.duals)
    # 0.8 + 0.1 > 0.6; 0.6 + 0.1 < 0.8; 0.65 + 0.1 against 0.75, the dual makes a tie or
    # nearly so; 1 + 0.1 > 0.
    assert labels[jnp.array([0, 1, 3])].tolist() == [0, 1, 0]
    labels = jnp.array([0, 1, 0, 0], jnp.int32)
    before = jnp.array([0, -1, 1, 0], jnp.int32)
    moved = clustering.step(
        clusters, u, labels, before, options=Duals(rate=2.0, least=0.5)
    )
    # Duals: 0.1 - 2 (3/4 - 0.5/2) = -0.9, which becomes 0; 0 - 2 (1/4 - 1/4) = 0.
    np.testing.assert_allclose(moved.duals, [0, 0], atol=1e-6)
    # Centre 0: (2 (1, 0) + (2.45, 1.35)) / 5 = (0.89, 0.27), of length 0.930054.
    np.testing.assert_allclose(moved.moving[0], [0.956934, 0.290306], atol=1e-6)
    # Centre 1 has no hit in this epoch before: it forgets (0, 1).
    np.testing.assert_allclose(moved.moving[1], [0.6, 0.8], atol=1e-6)
    assert moved.counts.tolist() == [5, 1]
    assert moved.sizes.tolist() == [4, 1]  # one came from cluster 1, one from nowhere
    np.testing.assert_array_equal(moved.fixed, clusters.fixed)
    # With gamma = 1 the sign is free: 0.1 - 2 (3/4 - 1/2), 0 - 2 (1/4 - 1/2).
    moved = clustering.step(
        clusters, u, labels, before, options=Duals(rate=2.0, least=1.0)
    )
    np.testing.assert_allclose(moved.duals, [-0.4, 0.5], atol=1e-6)


def test_a_centre_without_hits_stays() -> None:
    clusters = clustering.init_clusters(jax.random.key(0), K, DIM)
    features = jnp.asarray(unit(np.random.default_rng(0).normal(size=(B, DIM))))
    labels = jnp.full(B, 3, jnp.int32)
    before = jnp.full(B, -1, jnp.int32)
    moved = clustering.step(clusters, features, labels, before, options=Duals(0.1, 0.4))
    others = np.delete(np.arange(K), 3)
    np.testing.assert_array_equal(
        np.asarray(moved.moving)[others], np.asarray(clusters.moving)[others]
    )
    expected = unit(np.asarray(features).mean(axis=0))
    np.testing.assert_allclose(moved.moving[3], expected, atol=1e-6)
    assert (clustering.end_epoch(moved).fixed == moved.moving).all()
    assert not clustering.end_epoch(moved).counts.any()


def stream(options: Duals, *, spread: float) -> list[tuple[Clusters, Clusters]]:
    """Clusters lopsided data for some epochs; the state before and after each.

    Half of the images lie around one point, so that without duals one cluster is large.
    """
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(4, DIM))[np.maximum(rng.integers(-3, 4, N), 0)]
    features = unit(middle + spread * rng.normal(size=(N, DIM)))

    @jax.jit
    def step(clusters: Clusters, labels: jax.Array, ids: jax.Array) -> tuple:
        batch = jnp.asarray(features)[ids]
        new = clustering.assign(batch, clusters.moving, clusters.duals)
        clusters = clustering.step(clusters, batch, new, labels[ids], options=options)
        return clusters, labels.at[ids].set(new)

    clusters = clustering.init_clusters(jax.random.key(1), K, DIM)
    labels, states = jnp.full(N, -1, jnp.int32), []
    for _ in range(EPOCHS):
        start = clusters
        for ids in rng.permutation(N).reshape(STEPS, B):
            clusters, labels = step(clusters, labels, ids)
        sizes = np.bincount(labels, minlength=K)
        np.testing.assert_array_equal(clusters.sizes, sizes)
        np.testing.assert_array_equal(clusters.counts, sizes)  # all images were seen
        states.append((start, clusters))
        clusters = clustering.end_epoch(clusters)
    return states


@pytest.mark.parametrize("rate", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("least", [0.4, 0.9])
def test_no_cluster_is_smaller_than_the_dual_promises(
    rate: float, least: float
) -> None:
    # Sum rho' >= rho - eta (n / B - gamma / K) over an epoch's T steps:
    # size >= gamma N / K - slack, slack = (B / eta) (rho at its end - rho at its start).
    rounding = 1e-2  # of T sums in float32, times B / eta
    slacks = []
    for start, end in stream(Duals(rate, least), spread=0.4):
        slack = B / rate * (end.duals - start.duals)
        assert (end.sizes >= least * N / K - slack - rounding).all()
        assert (end.duals >= 0).all()
        # A cluster whose dual leads by 2 gets every image, so none leads by more than
        # that and what one step adds.
        lead = np.sort(end.duals)[-1] - np.sort(end.duals)[-2]
        assert lead <= 2 + rate * least / K + 1e-5
        slacks.append(float(slack.max()))
    # Cosines differ by 2 at most; the duals found are as small, and so is the slack.
    assert max(slacks) <= 2 * B / rate
    last = stream(Duals(rate, least), spread=0.4)[-1][1]
    assert last.sizes.min() >= least * N / K - 2 * B / rate


def test_without_duals_a_cluster_may_be_empty() -> None:
    # So that the test above is about data which need the bound.
    sizes = stream(Duals(1e-6, 0.4), spread=0.4)[-1][1].sizes
    assert sizes.min() < 0.4 * N / K and sizes.max() > 2 * N / K


def test_balanced_sizes_are_what_the_dual_says() -> None:
    # With gamma = 1 nothing is clipped, and the sum over an epoch is an equality.
    for start, end in stream(Duals(1.0, 1.0), spread=0.4):
        slack = B * (end.duals - start.duals)
        np.testing.assert_allclose(end.sizes, N / K - slack, atol=1e-2)
    assert (end.duals < 0).any()
    np.testing.assert_allclose(end.duals.sum(), 0, atol=1e-3)  # shares add up to 1
    # No dual moves by more than 1/2 in the last epoch, half a batch.
    assert abs(end.sizes - N / K).max() <= B / 2


def test_a_product_is_in_full_precision() -> None:
    text = str(jax.make_jaxpr(clustering.products)(jnp.ones((2, 3)), jnp.ones((4, 3))))
    assert "HIGHEST" in text
