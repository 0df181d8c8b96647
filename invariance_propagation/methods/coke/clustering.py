"""Online constrained k-means: the state of one clustering, and how it moves.

For unit vectors u_i, K centres c_k and labels y_i, k-means with a smallest size is

    max sum_i <u_i, c_y(i)>   such that every cluster has at least gamma N / K images.

A dual rho_k >= 0 rewards a cluster that is too small. Each step sees a batch of B images
(the numbers of the equations are ours):

    y_i    <- argmax_k <u_i, c_k> + rho_k                                       (1)
    rho_k  <- max(0, rho_k - eta (n_k / B - gamma / K)),  n_k images with y = k (2)
    c_k    <- normalize(mean of all u_i with y_i = k in this epoch)             (3)

(3) is a running mean, normalised in every step. The centres that a loss uses stay as they
were at the end of the last epoch. Sum (2) over an epoch of T steps: a cluster gets at least

    gamma T B / K - (B / eta) (rho_k at its end - rho_k at its start)           (4)

images. With gamma = 1 all clusters are to have the same size; rho_k may be negative, and
(4) is an equality.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation.core.bank import normalize


class Clusters(NamedTuple):
    """Holds one clustering into K clusters.

    Attributes:
      fixed: float32 [K, d], centres of the last epoch; the loss uses them.
      moving: float32 [K, d], centres that this epoch makes.
      duals: float32 [K], rho; never reset.
      counts: int32 [K], images of this epoch in `moving`.
      sizes: int32 [K], images in each cluster by their latest labels.
    """

    fixed: jax.Array
    moving: jax.Array
    duals: jax.Array
    counts: jax.Array
    sizes: jax.Array


class Duals(NamedTuple):
    """Holds the options of the dual step.

    Attributes:
      rate: eta.
      least: gamma, the smallest size as a share of N / K.
    """

    rate: float
    least: float


def init_clusters(key: jax.Array, num_clusters: int, dim: int) -> Clusters:
    """Draws random centres of unit length; all clusters are empty."""
    centers = normalize(jax.random.normal(key, (num_clusters, dim), jnp.float32))
    empty = jnp.zeros(num_clusters, jnp.int32)
    duals = jnp.zeros(num_clusters, jnp.float32)
    return Clusters(centers, centers, duals, empty, empty)


def products(features: jax.Array, centers: jax.Array) -> jax.Array:
    """Multiplies float32 [..., b, d] with all centres [K, d], in full precision."""
    return jnp.matmul(features, centers.T, precision=lax.Precision.HIGHEST)


def assign(features: jax.Array, centers: jax.Array, duals: jax.Array) -> jax.Array:
    """Returns the clusters, int32 [b], of float32 [b, d] features (1)."""
    scores = products(features, centers) + duals
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


def nearest(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Returns the nearest centres, int32 [n], of float32 [n, d] features on the host."""
    return np.argmax(features @ centers.T, axis=1).astype(np.int32)


def dual_step(
    duals: jax.Array, hits: jax.Array, batch_size: int, options: Duals
) -> jax.Array:
    """Moves the duals, float32 [K], after a batch with int32 [K] hits (2)."""
    share = hits.astype(jnp.float32) / batch_size
    duals = duals - options.rate * (share - options.least / len(duals))
    return duals if options.least == 1 else jnp.maximum(duals, 0.0)


def running_means(
    clusters: Clusters, features: jax.Array, labels: jax.Array, hits: jax.Array
) -> jax.Array:
    """Adds a batch to the centres of the clusters that it hits.

    The first hit of an epoch discards the centre from before, as its count is 0.

    Returns:
      float32 [K, d], means without normalisation; other centres as they are.
    """
    sums = jax.ops.segment_sum(features, labels, len(hits))
    counts = jnp.maximum(clusters.counts + hits, 1)[:, None].astype(jnp.float32)
    kept = clusters.counts[:, None] / counts
    return jnp.where(
        hits[:, None] > 0, kept * clusters.moving + sums / counts, clusters.moving
    )


def add_batch(
    clusters: Clusters,
    features: jax.Array,
    labels: jax.Array,
    before: jax.Array,
    options: Duals,
) -> Clusters:
    """Takes the dual step and updates the running means without normalising them.

    Args:
      clusters: before the step.
      features: float32 [B, d], of all devices.
      labels: int32 [B], the batch's new clusters.
      before: int32 [B], its clusters until now; -1 if an image had none.
      options: of the dual step.
    """
    none = len(clusters.duals)  # source of images that had no cluster
    hits = jnp.bincount(labels, length=none).astype(jnp.int32)
    left = jnp.bincount(jnp.where(before < 0, none, before), length=none + 1)[:none]
    return clusters._replace(
        moving=running_means(clusters, features, labels, hits),
        duals=dual_step(clusters.duals, hits, len(labels), options),
        counts=clusters.counts + hits,
        sizes=clusters.sizes + hits - left.astype(jnp.int32),
    )


def step(clusters: Clusters, *batch: jax.Array, options: Duals) -> Clusters:
    """Takes the dual step and the centre step; the arguments are those of `add_batch`."""
    moved = add_batch(clusters, *batch, options)
    hit = (moved.counts > clusters.counts)[:, None]
    centers = jnp.where(hit, normalize(moved.moving), moved.moving)  # (3)
    return moved._replace(moving=centers)


def end_epoch(clusters: Clusters) -> Clusters:
    """Hands the centres of this epoch to the loss, and counts from 0 again."""
    return clusters._replace(
        fixed=clusters.moving, counts=jnp.zeros_like(clusters.counts)
    )
