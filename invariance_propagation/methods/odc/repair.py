"""Keeps the clusters of Online Deep Clustering up to date, and none of them too small.

The numbers are the steps of an iteration, as `method` lists them. All functions give the
same result on every device.
"""

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.kmeans import two_means
from invariance_propagation.methods.odc.options import Clusters, Options

_EXACT = lax.Precision.HIGHEST


def nearest_centroid(
    rows: jax.Array, centroids: jax.Array, *, allowed: jax.Array | bool = True
) -> jax.Array:
    """Finds the centroid that has the largest product with each row.

    Args:
      rows: float32 [m, d].
      centroids: float32 [C, d], not of unit length.
      allowed: bool [C], the clusters to choose from.

    Returns:
      int32 [m], the smallest number of several that are equally near.
    """
    scores = jnp.matmul(rows, centroids.T, precision=_EXACT)
    scores = jnp.where(allowed, scores, -jnp.inf)
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


def relabel(clusters: Clusters, ids: jax.Array, labels: jax.Array) -> Clusters:
    """Moves images to other clusters, and counts them there.

    Args:
      clusters: before.
      ids: int32 [m], the images, all different; N stands for none.
      labels: int32 [m], their new clusters.
    """
    real = (ids < len(clusters.labels)).astype(jnp.int32)
    before = clusters.labels.at[ids].get(mode="clip")
    return clusters._replace(
        labels=clusters.labels.at[ids].set(labels, mode="drop"),
        sizes=clusters.sizes.at[before].add(-real).at[labels].add(real),
    )


def refresh_centroids(
    clusters: Clusters, bank: jax.Array, *, axis_name: str | None
) -> Clusters:
    """Computes all centroids from the bank (5); an empty cluster keeps its centroid."""
    here = _labels_here(clusters, bank, axis_name=axis_name)
    # The label C of the padding belongs to no cluster.
    sums = jax.ops.segment_sum(bank, here, len(clusters.sizes) + 1)[:-1]
    sums, sizes = parallel.psum(sums, axis_name), clusters.sizes[:, None]
    means = sums / jnp.maximum(sizes, 1)
    return clusters._replace(centroids=jnp.where(sizes > 0, means, clusters.centroids))


def repair(
    clusters: Clusters,
    bank: jax.Array,
    *,
    step: jax.Array,
    options: Options,
    axis_name: str | None,
) -> Clusters:
    """Dissolves small clusters and splits large ones in their place (6).

    At most `splits_per_step` clusters are treated, others wait for the next steps. They
    take turns: each step looks for small ones from another number on, so that clusters
    that become small again do not keep the others waiting. While no cluster is small,
    this costs nothing.
    """
    most = options.splits_per_step
    num_clusters = len(clusters.sizes)
    small = clusters.sizes < options.min_cluster
    chosen = choose_small(small, most, step=step)

    def split(turn: jax.Array, clusters: Clusters) -> Clusters:
        return lax.cond(
            chosen[turn] < num_clusters,
            lambda x: split_largest(
                x, bank, chosen[turn], options=options, axis_name=axis_name
            ),
            lambda x: x,
            clusters,
        )

    def treat(clusters: Clusters) -> Clusters:
        fewer = dissolve(
            clusters, bank, small, chosen, options=options, axis_name=axis_name
        )
        return lax.fori_loop(0, most, split, fewer)

    if not most:
        return clusters
    return lax.cond(small.any(), treat, lambda x: x, clusters)


def choose_small(small: jax.Array, most: int, *, step: jax.Array) -> jax.Array:
    """Chooses the small clusters that come first from number `most * step` on.

    Args:
      small: bool [C].
      most: how many to choose.
      step: int [], from 0; numbers count modulo C.

    Returns:
      int32 [most], in rising order; C stands for none.
    """
    count = len(small)
    first = (step % count * most % count).astype(jnp.int32)
    places = jnp.nonzero(jnp.roll(small, -first), size=most, fill_value=count)[0]
    numbers = jnp.where(places < count, (places + first) % count, count)
    return jnp.sort(numbers).astype(jnp.int32)


def dissolve(
    clusters: Clusters,
    bank: jax.Array,
    small: jax.Array,
    chosen: jax.Array,
    *,
    options: Options,
    axis_name: str | None,
) -> Clusters:
    """Moves the images of some clusters to the nearest clusters that are not small (6a).

    Args:
      clusters: before.
      bank: float32 [n, d], this device's rows.
      small: bool [C], where no image may go. N >= C * min_cluster leaves one cluster.
      chosen: int32 [s], which clusters to dissolve, all of them small; C stands for none.
      options: of the method.
      axis_name: the device axis, or None for one device.
    """
    count = len(clusters.labels)
    leaves = jnp.zeros_like(small).at[chosen].set(True, mode="drop")[clusters.labels]
    most = max(1, len(chosen) * (options.min_cluster - 1))
    ids = jnp.nonzero(leaves, size=most, fill_value=count)[0].astype(jnp.int32)
    rows = parallel.take_rows(bank, ids, axis_name)
    labels = nearest_centroid(rows, clusters.centroids, allowed=~small)
    return relabel(clusters, ids, labels)


def split_largest(
    clusters: Clusters,
    bank: jax.Array,
    empty: jax.Array,
    *,
    options: Options,
    axis_name: str | None,
) -> Clusters:
    """Gives one half of the largest cluster to an empty one (6b).

    If 2-means finds no two halves, because all features are equal, every second image goes.
    (The authors' code draws a random half.)

    Args:
      clusters: before.
      bank: float32 [n, d], this device's rows.
      empty: int32 [], the empty cluster.
      options: of the method.
      axis_name: the device axis, or None for one device.
    """
    largest = jnp.argmax(clusters.sizes).astype(jnp.int32)
    here = _labels_here(clusters, bank, axis_name=axis_name)
    second, means = two_means(
        bank,
        here == largest,
        iterations=options.split_iterations,
        axis_name=axis_name,
    )
    half = parallel.all_gather(second, axis_name)[: len(clusters.labels)]
    members = clusters.labels == largest
    every_second = members & (jnp.cumsum(members, dtype=jnp.int32) % 2 == 0)
    divided = half.any() & (half != members).any()
    # If all features are equal, one half holds every image; both halves get its mean.
    all_of_them = jnp.where(half.any(), means[1], means[0])
    means = jnp.where(divided, means, all_of_them)
    half = jnp.where(divided, half, every_second)
    moved = half.sum(dtype=jnp.int32)
    pair = jnp.stack([largest, empty])
    return Clusters(
        labels=jnp.where(half, empty, clusters.labels),
        sizes=clusters.sizes.at[empty].add(moved).at[largest].add(-moved),
        centroids=clusters.centroids.at[pair].set(means),
    )


def _labels_here(
    clusters: Clusters, bank: jax.Array, *, axis_name: str | None
) -> jax.Array:
    """Returns the labels of this device's rows, int32 [n]; C for rows of the padding."""
    count = len(bank)
    ids = parallel.first_row(count, axis_name) + jnp.arange(count, dtype=jnp.int32)
    return clusters.labels.at[ids].get(mode="fill", fill_value=len(clusters.sizes))
