"""Keeps clusters from dying out: small ones are dissolved, the largest are split.

On the devices, with the same result on each. Images are looked up in the sharded bank,
everything else is replicated.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.bank import read_rows
from invariance_propagation.core.kmeans import best_dots, halve


class Clusters(NamedTuple):
    """Holds the clusters of N images.

    Attributes:
      labels: int32 [N], the cluster of each image; replicated.
      sizes: int32 [C], the number of images in each cluster; replicated.
      centroids: float32 [C, d], means of the clusters' rows of the bank, not normalised;
        they may be some steps old; replicated.
    """

    labels: Any
    sizes: Any
    centroids: Any


def replace_small(
    clusters: Clusters,
    bank: jax.Array,
    *,
    min_cluster: int,
    most: int,
    num_iterations: int,
    axis_name: str | None,
) -> Clusters:
    """Dissolves small clusters and splits the largest ones into their places.

    The images of the small clusters move to the centroids of larger ones that fit best.
    Then, one after another, each small cluster takes half of what is the largest at that
    moment. With more than `most` small clusters, the later ones wait for the next step.

    Args:
      clusters: before.
      bank: float32 [n, d], this device's rows.
      min_cluster: a cluster of fewer images is small.
      most: how many clusters are replaced at most.
      num_iterations: of the 2-means that splits a cluster.
      axis_name: the device axis, or None for one device.

    Source: `deal_with_small_clusters` of the released code (odc_memory.py:129).
    """
    split = partial(
        split_largest, bank=bank, num_iterations=num_iterations, axis_name=axis_name
    )
    none = len(clusters.sizes)
    small = clusters.sizes < min_cluster

    def replace(clusters: Clusters) -> Clusters:
        chosen = jnp.nonzero(small, size=most, fill_value=none)[0].astype(jnp.int32)
        clusters = _dissolve(
            clusters,
            bank,
            small=small,
            chosen=chosen,
            most_images=most * (min_cluster - 1),
            axis_name=axis_name,
        )

        def fill(clusters: Clusters, empty: jax.Array) -> tuple[Clusters, None]:
            filled = lax.cond(
                empty < none, split, lambda clusters, _: clusters, clusters, empty
            )
            return filled, None

        return lax.scan(fill, clusters, chosen)[0]

    return lax.cond(small.any(), replace, lambda clusters: clusters, clusters)


def fill_empty(
    clusters: Clusters, bank: jax.Array, *, num_iterations: int, axis_name: str | None
) -> Clusters:
    """Splits the largest clusters until none is empty; arguments as above."""

    def fill(clusters: Clusters) -> Clusters:
        empty = jnp.argmin(clusters.sizes).astype(jnp.int32)
        return split_largest(
            clusters, empty, bank, num_iterations=num_iterations, axis_name=axis_name
        )

    return lax.while_loop(lambda x: (x.sizes == 0).any(), fill, clusters)


def split_largest(
    clusters: Clusters,
    empty: jax.Array,
    bank: jax.Array,
    *,
    num_iterations: int,
    axis_name: str | None,
) -> Clusters:
    """Moves the smaller half of the largest cluster into an empty one.

    Args:
      clusters: before.
      empty: int32 [], a cluster without images.
      bank: float32 [n, d], this device's rows.
      num_iterations: of the 2-means.
      axis_name: the device axis, or None for one device.
    """
    labels, sizes, centroids = clusters
    largest = jnp.argmax(sizes).astype(jnp.int32)
    member = local_labels(labels, len(bank), axis_name) == largest
    halves = halve(bank, member, num_iterations=num_iterations, axis_name=axis_name)
    moved = halves.second
    larger = halves.sizes[1] > halves.sizes[0]  # then the first half moves
    moved = jnp.where(larger, member & ~moved, moved)
    order = jnp.where(larger, jnp.array([1, 0]), jnp.array([0, 1]))
    both = jnp.stack([largest, empty])
    everywhere = parallel.all_gather(moved, axis_name)[: len(labels)]
    return Clusters(
        jnp.where(everywhere, empty, labels),
        sizes.at[both].set(halves.sizes[order]),
        centroids.at[both].set(halves.centroids[order]),
    )


def local_labels(labels: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    """Returns the labels of this device's rows, int32 [rows]; -1 for padding."""
    missing = rows * parallel.axis_size(axis_name) - len(labels)
    labels = jnp.pad(labels, (0, missing), constant_values=-1)
    return parallel.local_slice(labels, rows, axis_name)


def _dissolve(
    clusters: Clusters,
    bank: jax.Array,
    *,
    small: jax.Array,
    chosen: jax.Array,
    most_images: int,
    axis_name: str | None,
) -> Clusters:
    """Moves the images of the chosen clusters to the best centroids that are not small."""
    labels, sizes, centroids = clusters
    if not most_images:  # a small cluster is an empty one
        return clusters
    emptied = jnp.zeros_like(small).at[chosen].set(True, mode="drop")
    ids = jnp.nonzero(emptied[labels], size=most_images, fill_value=len(labels))[0]
    ids = ids.astype(jnp.int32)
    rows = read_rows(bank, ids, axis_name=axis_name)
    targets = best_dots(rows, centroids, jnp.where(small, -jnp.inf, 0.0))
    real = (ids < len(labels)).astype(jnp.int32)
    return Clusters(
        labels.at[ids].set(targets, mode="drop"),
        jnp.where(emptied, 0, sizes).at[targets].add(real),
        centroids,
    )
