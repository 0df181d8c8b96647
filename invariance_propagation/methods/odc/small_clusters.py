"""Dissolves small clusters and splits large ones, with the bank's rows on several devices.

The released code does this on the host, one cluster after the other. Here a step deals
with at most a fixed number of small clusters, and no array depends on their sizes. Where
there are no more than that, the result is the released code's, but for the division of a
cluster: `divide` starts its 2-means from two rows that lie far apart, not from a seed.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel

ROUNDS = 20  # of 2-means [code]


class Clusters(NamedTuple):
    """Holds the clusters of all N images; the same on every device.

    Attributes:
      labels: int32 [N], the cluster of each image.
      sizes: int32 [K], how many images each cluster has.
      centroids: float32 [K, d], mean rows of the bank; they have no unit length.
    """

    labels: Any
    sizes: Any
    centroids: Any


def sizes_of(labels: jax.Array, num_clusters: int) -> jax.Array:
    """Counts the images of each cluster, int32 [K]."""
    return jnp.bincount(labels, length=num_clusters).astype(jnp.int32)


def all_centroids(
    clusters: Clusters, bank: jax.Array, *, axis_name: str | None
) -> Clusters:
    """Computes all centroids anew; a cluster without images keeps its old one."""
    labels = own_labels(clusters.labels, len(bank), axis_name)
    count = len(clusters.sizes)
    # What is no image has the label K, which no sum is kept of.
    sums = jax.ops.segment_sum(bank, labels, count + 1)[:count]
    sums = parallel.psum(sums, axis_name)
    sizes = clusters.sizes[:, None]
    means = sums / jnp.maximum(sizes, 1)
    return clusters._replace(centroids=jnp.where(sizes > 0, means, clusters.centroids))


def own_labels(labels: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    """Takes the labels of this device's rows, int32 [rows]; those of padding are large."""
    devices = parallel.axis_size(axis_name)
    most = jnp.iinfo(jnp.int32).max
    padded = jnp.pad(labels, (0, devices * rows - len(labels)), constant_values=most)
    return parallel.local_slice(padded, rows, axis_name)


def deal_with_small(
    clusters: Clusters,
    bank: jax.Array,
    *,
    min_size: int,
    most: int,
    axis_name: str | None,
) -> Clusters:
    """Dissolves clusters below `min_size`, and fills each with half of the largest one.

    Args:
      clusters: of all images.
      bank: float32 [Np / D, d], this device's rows.
      min_size: a cluster with fewer images is small.
      most: how many small clusters to deal with, the first by number.
      axis_name: the device axis, or None for one device.
    """

    def deal(clusters: Clusters) -> Clusters:
        is_small = clusters.sizes < min_size
        chosen = jnp.nonzero(is_small, size=most, fill_value=len(is_small))[0]
        chosen = chosen.astype(jnp.int32)
        clusters = dissolve(
            clusters, bank, chosen, is_small, min_size=min_size, axis_name=axis_name
        )

        def fill(clusters: Clusters, empty: jax.Array) -> tuple[Clusters, None]:
            filled = lax.cond(
                empty < len(is_small),
                lambda x: split_largest(x, bank, empty, axis_name=axis_name),
                lambda x: x,
                clusters,
            )
            return filled, None

        return lax.scan(fill, clusters, chosen)[0]

    # Sizes are the same on every device, so all of them take the same branch.
    needed = jnp.any(clusters.sizes < min_size)
    return lax.cond(needed, deal, lambda x: x, clusters)


def dissolve(
    clusters: Clusters,
    bank: jax.Array,
    chosen: jax.Array,
    is_small: jax.Array,
    *,
    min_size: int,
    axis_name: str | None,
) -> Clusters:
    """Moves the images of the chosen clusters to the nearest centroid of one not small."""
    rows, count = len(bank), len(clusters.sizes)
    own = own_labels(clusters.labels, rows, axis_name)
    leaves = jnp.zeros(count + 1, bool).at[chosen].set(True).at[count].set(False)
    leaves = leaves[jnp.minimum(own, count)]
    # Small clusters have fewer than `min_size` images each.
    limit = min(rows, len(chosen) * max(1, min_size - 1))
    moved = jnp.nonzero(leaves, size=limit, fill_value=rows)[0].astype(jnp.int32)
    features = bank.at[moved].get(mode="fill", fill_value=0.0)
    scores = jnp.matmul(features, clusters.centroids.T, precision="highest")
    nearest = jnp.argmax(jnp.where(is_small, -jnp.inf, scores), axis=1)
    length = len(clusters.labels)
    first = parallel.first_row(rows, axis_name)
    places = jnp.where(moved < rows, first + moved, length)
    places, nearest = (
        parallel.all_gather(x.astype(jnp.int32), axis_name) for x in (places, nearest)
    )
    labels = clusters.labels.at[places].set(nearest, mode="drop")
    # If every cluster is small, there is nowhere to go.
    labels = jnp.where(jnp.all(is_small), clusters.labels, labels)
    return clusters._replace(labels=labels, sizes=sizes_of(labels, count))


def split_largest(
    clusters: Clusters, bank: jax.Array, empty: jax.Array, *, axis_name: str | None
) -> Clusters:
    """Gives the second half of the largest cluster to an empty one."""
    largest = jnp.argmax(clusters.sizes).astype(jnp.int32)
    own = own_labels(clusters.labels, len(bank), axis_name)
    second = divide(bank, own == largest, axis_name=axis_name)
    everyone = parallel.all_gather(second, axis_name)[: len(clusters.labels)]
    members = clusters.labels == largest
    moves = everyone & members
    count = moves.sum(dtype=jnp.int32)
    # Equal rows do not divide: then every other image moves.
    fails = (count == 0) | (count == clusters.sizes[largest])
    place = jnp.cumsum(members, dtype=jnp.int32)
    moves = jnp.where(fails, members & (place % 2 == 0), moves)
    labels = jnp.where(moves, empty, clusters.labels)
    count = moves.sum(dtype=jnp.int32)
    sizes = clusters.sizes.at[largest].add(-count).at[empty].add(count)
    halves = jnp.stack([largest, empty])
    own = own_labels(labels, len(bank), axis_name)
    weights = (own == halves[:, None]).astype(jnp.float32)
    sums = parallel.psum(jnp.matmul(weights, bank, precision="highest"), axis_name)
    means = sums / jnp.maximum(sizes[halves], 1)[:, None]
    return Clusters(labels, sizes, clusters.centroids.at[halves].set(means))


def divide(bank: jax.Array, members: jax.Array, *, axis_name: str | None) -> jax.Array:
    """Divides rows by 2-means.

    It starts from the row that is farthest from the mean of all, and the row that is
    farthest from that one. Of equally far rows the first one counts.

    Args:
      bank: float32 [Np / D, d], this device's rows.
      members: bool [Np / D], which of them to divide.
      axis_name: the device axis, or None for one device.

    Returns:
      bool [Np / D], the members of the second half.
    """
    weights = members.astype(jnp.float32)
    count = parallel.psum(weights.sum(), axis_name)
    total = parallel.psum(jnp.matmul(weights, bank, precision="highest"), axis_name)
    mean = total / jnp.maximum(count, 1)
    one = _farthest(bank, members, mean, axis_name)
    other = _farthest(bank, members, one, axis_name)

    def is_second(centres: jax.Array) -> jax.Array:
        # Nearer to the second centre: twice the row times their difference is larger than
        # the difference of their squares.
        apart = centres[1] - centres[0]
        edge = jnp.square(centres[1]).sum() - jnp.square(centres[0]).sum()
        return members & (2 * jnp.matmul(bank, apart, precision="highest") > edge)

    def move(_: jax.Array, centres: jax.Array) -> jax.Array:
        second = is_second(centres).astype(jnp.float32)
        sides = jnp.stack([weights - second, second])
        sums, sizes = parallel.psum(
            (jnp.matmul(sides, bank, precision="highest"), sides.sum(axis=1)), axis_name
        )
        means = sums / jnp.maximum(sizes, 1)[:, None]
        return jnp.where(sizes[:, None] > 0, means, centres)

    return is_second(lax.fori_loop(0, ROUNDS, move, jnp.stack([one, other])))


def _farthest(
    bank: jax.Array, members: jax.Array, point: jax.Array, axis_name: str | None
) -> jax.Array:
    """Finds the member that is farthest from a point, float32 [d]; the first of equals."""
    far = jnp.where(members, jnp.square(bank - point).sum(axis=1), -1.0)
    best = parallel.pmax(far.max(), axis_name)
    first = parallel.first_row(len(bank), axis_name)
    ids = first + jnp.arange(len(bank), dtype=jnp.int32)
    most = jnp.iinfo(jnp.int32).max
    chosen = -parallel.pmax(-jnp.where(far == best, ids, most).min(), axis_name)
    return parallel.psum(
        jnp.where((ids == chosen)[:, None], bank, 0.0).sum(axis=0), axis_name
    )
