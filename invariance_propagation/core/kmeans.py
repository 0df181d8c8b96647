"""k-means over rows that are sharded over devices, and the 2-means that splits a cluster.

Nothing here holds an array of all rows by all clusters. Results are the same for every
number of devices, up to rounding in sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel

# Rows times clusters at once: 128 MiB of scores on an accelerator. On a CPU, scores that
# stay in the cache are faster.
SCORES, SCORES_ON_CPU = 1 << 25, 1 << 18
BLOCK = 1024  # members of a cluster at once


class Halves(NamedTuple):
    """Holds a cluster that has been cut in two.

    Attributes:
      second: bool [n], which of this device's rows are in the second half.
      centroids: float32 [2, d], the means of both halves.
      sizes: int32 [2].
    """

    second: jax.Array
    centroids: jax.Array
    sizes: jax.Array


def best_dots(
    rows: jax.Array, centroids: jax.Array, bias: jax.Array | float = 0.0
) -> jax.Array:
    """Finds the centroid of the largest dot product with each row.

    Args:
      rows: float32 [..., d].
      centroids: float32 [K, d].
      bias: float32 [K], added to the products.

    Returns:
      int32 [...], the first of centroids that tie.
    """
    products = jnp.matmul(rows, centroids.T, precision=lax.Precision.HIGHEST)
    return jnp.argmax(products + bias, axis=-1).astype(jnp.int32)


def kmeans(
    rows: jax.Array,
    centroids: jax.Array,
    *,
    num_examples: int,
    num_iterations: int,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs Lloyd's iterations by Euclidean distance.

    A centroid without members stays where it is, so clusters may be empty at the end.

    Args:
      rows: float32 [n, d], this device's rows; those from N on are padding.
      centroids: float32 [K, d], where the iterations start.
      num_examples: N.
      num_iterations: how often centroids become the means of their members.
      axis_name: the device axis, or None for one device.

    Returns:
      The cluster of each of this device's rows, int32 [n], K for padding; the means of
      these clusters, float32 [K, d]; their sizes, int32 [K].
    """

    def step(centroids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        labels = _nearest(rows, centroids, num_examples, axis_name)
        means, sizes = means_of(rows, labels, centroids, axis_name=axis_name)
        return labels, means, sizes

    centroids = lax.fori_loop(
        0, num_iterations, lambda _, centroids: step(centroids)[1], centroids
    )
    return step(centroids)


def means_of(
    rows: jax.Array,
    labels: jax.Array,
    centroids: jax.Array,
    *,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of the rows of each cluster, over all devices.

    Args:
      rows: float32 [n, d], this device's rows.
      labels: int32 [n], their clusters; rows with a label outside [0, K) do not count.
      centroids: float32 [K, d], returned for clusters without rows.
      axis_name: the device axis, or None for one device.

    Returns:
      float32 [K, d], and the sizes of the clusters, int32 [K].
    """
    count, centroids = len(centroids), jnp.asarray(centroids)
    labels = jnp.where((labels >= 0) & (labels < count), labels, count)
    sums = jnp.zeros_like(centroids).at[labels].add(rows, mode="drop")
    sizes = jnp.zeros(count, jnp.int32).at[labels].add(1, mode="drop")
    sums, sizes = parallel.psum((sums, sizes), axis_name)
    means = sums / jnp.maximum(sizes, 1)[:, None].astype(jnp.float32)
    return jnp.where(sizes[:, None] > 0, means, centroids), sizes


def _nearest(
    rows: jax.Array, centroids: jax.Array, num_examples: int, axis_name: str | None
) -> jax.Array:
    """Finds the nearest centroid of each row, int32 [n]; K for padding."""
    bias = -0.5 * jnp.square(centroids).sum(axis=1)

    def label(scores: int) -> Callable[[jax.Array], jax.Array]:
        at_once = max(1, scores // len(centroids))
        return lambda rows: lax.map(
            lambda row: best_dots(row, centroids, bias), rows, batch_size=at_once
        )

    labels = lax.platform_dependent(
        rows, cpu=label(SCORES_ON_CPU), default=label(SCORES)
    )
    ids = parallel.first_row(len(rows), axis_name) + jnp.arange(
        len(rows), dtype=jnp.int32
    )
    return jnp.where(ids < num_examples, labels, len(centroids))


def halve(
    rows: jax.Array,
    member: jax.Array,
    *,
    num_iterations: int,
    axis_name: str | None = None,
) -> Halves:
    """Cuts a cluster in two by 2-means.

    The first cut is the plane through the mean of the members, across the direction of
    the member farthest from it; then come Lloyd's iterations. If all members are equal,
    every second one goes to the second half. The time depends on the number of members,
    not on that of rows.

    Args:
      rows: float32 [n, d], this device's rows.
      member: bool [n], which of them are in the cluster; 2 at least over all devices.
      num_iterations: of Lloyd.
      axis_name: the device axis, or None for one device.
    """
    rows, member = jnp.asarray(rows), jnp.asarray(member)
    fold = _over_members(rows, member)
    zeros = jnp.zeros((2, rows.shape[1]), jnp.float32)

    def means(plane: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        def add(carry: Any, block: jax.Array, ids: jax.Array) -> Any:
            beyond, here = _beyond(block, plane), ids < len(rows)
            sides = jnp.stack([~beyond & here, beyond & here])
            sums = jnp.matmul(
                sides.astype(jnp.float32), block, precision=lax.Precision.HIGHEST
            )
            return carry[0] + sums, carry[1] + sides.sum(axis=1, dtype=jnp.int32)

        sums, sizes = parallel.psum(
            fold(add, (zeros, jnp.zeros(2, jnp.int32))), axis_name
        )
        return sums / jnp.maximum(sizes, 1)[:, None].astype(jnp.float32), sizes

    nowhere = jnp.zeros(rows.shape[1], jnp.float32), jnp.float32(0)
    mean = means(nowhere)[0][0]
    across = _farthest(fold, mean, len(rows), axis_name) - mean
    first = across, jnp.vdot(mean, across, precision=lax.Precision.HIGHEST)

    def lloyd(_: Any, plane: tuple[jax.Array, jax.Array]) -> Any:
        centers, sizes = means(plane)
        across = centers[1] - centers[0]
        middle = 0.5 * (centers[1] + centers[0])
        new = across, jnp.vdot(middle, across, precision=lax.Precision.HIGHEST)
        both = (sizes > 0).all()
        return jax.tree.map(lambda x, y: jnp.where(both, x, y), new, plane)

    plane = lax.fori_loop(0, num_iterations, lloyd, first)

    def mark(second: jax.Array, block: jax.Array, ids: jax.Array) -> jax.Array:
        return second.at[ids].set(_beyond(block, plane), mode="drop")

    second = fold(mark, jnp.zeros_like(member))
    centroids, sizes = means(plane)
    failed = (sizes == 0).any()
    return Halves(
        jnp.where(failed, _every_second(member, axis_name), second),
        jnp.where(failed, mean, centroids),
        jnp.where(failed, _shares(sizes.sum()), sizes),
    )


def _beyond(block: jax.Array, plane: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Returns bool [block], which rows lie beyond a plane (direction, offset)."""
    across, offset = plane
    return jnp.matmul(block, across, precision=lax.Precision.HIGHEST) > offset


def _over_members(rows: jax.Array, member: jax.Array) -> Callable[..., Any]:
    """Returns a fold over blocks of members: (function, first carry) -> carry.

    The function takes (carry, float32 [block, d], int32 [block], the numbers of these
    rows). Beyond the last member rows are 0 and numbers are n.
    """
    count, block = len(rows), min(BLOCK, len(rows))
    size = -(-count // block) * block
    ids = jnp.nonzero(member, size=size, fill_value=count)[0].astype(jnp.int32)
    num_blocks = (member.sum(dtype=jnp.int32) + block - 1) // block

    def fold(function: Callable[..., Any], carry: Any) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            here = lax.dynamic_slice_in_dim(ids, i * block, block)
            return function(carry, rows.at[here].get(mode="fill", fill_value=0), here)

        return lax.fori_loop(0, num_blocks, body, carry)

    return fold


def _farthest(
    fold: Callable[..., Any], mean: jax.Array, count: int, axis_name: str | None
) -> jax.Array:
    """Returns the member farthest from `mean`, float32 [d]; the first of those that tie."""

    def compare(carry: Any, block: jax.Array, ids: jax.Array) -> Any:
        distance = jnp.square(block - mean).sum(axis=1)
        distance = jnp.where(ids < count, distance, -1)
        best = jnp.argmax(distance)
        new = distance[best], block[best]
        farther = new[0] > carry[0]
        return jax.tree.map(lambda x, y: jnp.where(farther, x, y), new, carry)

    distance, row = fold(compare, (jnp.float32(-1), mean))
    if axis_name is None:
        return row
    winner = jnp.argmax(lax.all_gather(distance, axis_name))
    won = lax.axis_index(axis_name) == winner
    return parallel.psum(jnp.where(won, row, 0), axis_name)


def _every_second(member: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns bool [n], every second member in the order of all devices' rows."""
    here = member.astype(jnp.int32)
    rank = jnp.cumsum(here, dtype=jnp.int32) - here
    if axis_name is not None:
        counts = lax.all_gather(here.sum(dtype=jnp.int32), axis_name)
        before = jnp.arange(len(counts)) < lax.axis_index(axis_name)
        rank += jnp.sum(counts * before, dtype=jnp.int32)
    return member & (rank % 2 == 1)


def _shares(count: jax.Array) -> jax.Array:
    """Returns how many members `_every_second` leaves and takes, int32 [2]."""
    return jnp.stack([count - count // 2, count // 2]).astype(jnp.int32)
