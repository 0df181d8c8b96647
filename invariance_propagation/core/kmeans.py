"""k-means of all rows on one device, and 2-means of one cluster in a sharded bank."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.arguments import check_vectors, integer
from invariance_propagation.errors import UserError

# Scores and one-hot labels exist for this many pairs of row and cluster: 256 MB each.
PAIRS_AT_ONCE = 1 << 26
MEMBERS_AT_ONCE = 1024  # of a cluster that is divided
_EXACT = lax.Precision.HIGHEST
Plane = tuple[jax.Array, jax.Array]  # float32 [d], a direction, and float32 [], how far


@partial(jax.jit, static_argnames=("num_clusters", "iterations"))
def kmeans(
    key: jax.Array, rows: jax.Array, *, num_clusters: int, iterations: int = 20
) -> tuple[jax.Array, jax.Array]:
    """Clusters rows by Lloyd's algorithm; no cluster is empty at any time.

    The centroids start from a random subset of the rows. A cluster that loses all its rows
    gets one of those that are farthest from their centroids. The same key and rows give the
    same bits on the same kind of device: no sum depends on the order of threads.

    Args:
      key: typed key, chooses the subset.
      rows: float [N, d].
      num_clusters: K, at most N.
      iterations: how often rows are assigned and centroids computed.

    Returns:
      labels, int32 [N], each from 0 to K - 1 at least once, and centroids, float32 [K, d],
      the means of the rows with each label.

    Raises:
      ValueError: a number out of its range, or a dtype or shape is wrong.
    """
    check_vectors("rows", rows, like=(None, None))
    num_clusters = integer("num_clusters", num_clusters)
    iterations = integer("iterations", iterations)
    if num_clusters > len(rows):
        raise UserError(
            f"num_clusters={num_clusters}, but there are {len(rows)} rows: set it from 1 "
            f"to {len(rows)}"
        )
    rows = jnp.asarray(rows, jnp.float32)
    order = jax.random.permutation(key, jnp.arange(len(rows), dtype=jnp.int32))

    def move(
        _: jax.Array, before: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        labels, distances = assign(rows, before[1])
        labels = fill_empty(labels, distances, num_clusters=num_clusters)
        return labels, means(rows, labels, num_clusters=num_clusters)

    start = jnp.zeros(len(rows), jnp.int32), rows[order[:num_clusters]]
    return lax.fori_loop(0, iterations, move, start)


def assign(rows: jax.Array, centroids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Finds the nearest centroid of each row.

    Args:
      rows: float32 [N, d].
      centroids: float32 [K, d].

    Returns:
      int32 [N], the smallest number of those that are equally near, and float32 [N], the
      squared distance.
    """
    halves = jnp.square(centroids).sum(axis=1) / 2

    def of_row(row: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = jnp.matmul(centroids, row, precision=_EXACT) - halves
        best = jnp.argmax(scores).astype(jnp.int32)
        return best, jnp.square(row).sum() - 2 * scores.max()

    return lax.map(of_row, rows, batch_size=_block(len(rows), len(centroids)))


def fill_empty(
    labels: jax.Array, distances: jax.Array, *, num_clusters: int
) -> jax.Array:
    """Gives each empty cluster a row that is far from its own centroid.

    Every cluster keeps the row nearest to its centroid, so none becomes empty.

    Args:
      labels: int32 [N], N >= K.
      distances: float32 [N], to the row's own centroid.
      num_clusters: K.

    Returns:
      int32 [N].
    """
    count = len(labels)
    ids = jnp.arange(count, dtype=jnp.int32)
    empty = jnp.zeros(num_clusters, jnp.int32).at[labels].add(1) == 0

    def fill() -> jax.Array:
        least = jax.ops.segment_min(distances, labels, num_clusters)
        nearest = jnp.where(distances == least[labels], ids, count)
        keeper = jax.ops.segment_min(nearest, labels, num_clusters)
        gives = jnp.where(ids == keeper[labels], -jnp.inf, distances)
        _, givers = lax.top_k(gives, num_clusters)
        turn = jnp.cumsum(empty, dtype=jnp.int32) - 1
        moved = jnp.where(empty, givers[turn], count)
        return labels.at[moved].set(ids[:num_clusters], mode="drop")

    return lax.cond(empty.any(), fill, lambda: labels)


def means(rows: jax.Array, labels: jax.Array, *, num_clusters: int) -> jax.Array:
    """Averages the rows of each cluster by products with one-hot labels.

    A product adds in a fixed order, which a scatter on a GPU does not.

    Args:
      rows: float32 [N, d].
      labels: int32 [N]; no cluster is empty.
      num_clusters: K.

    Returns:
      float32 [K, d].
    """
    block = _block(len(rows), num_clusters)
    rest = -len(rows) % block
    rows = jnp.pad(rows, [(0, rest), (0, 0)]).reshape(-1, block, rows.shape[1])
    # The label K of the padding belongs to no cluster.
    padded = jnp.pad(labels, [(0, rest)], constant_values=num_clusters)

    def add(
        sums: jax.Array, part: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, None]:
        ours = jax.nn.one_hot(part[1], num_clusters, dtype=jnp.float32)
        return sums + jnp.matmul(ours.T, part[0], precision=_EXACT), None

    zeros = jnp.zeros((num_clusters, rows.shape[2]), jnp.float32)
    sums, _ = lax.scan(add, zeros, (rows, padded.reshape(-1, block)))
    sizes = jnp.zeros(num_clusters, jnp.float32).at[labels].add(1)
    return sums / sizes[:, None]


class Halves(NamedTuple):
    """Holds a cluster that has been divided.

    Attributes:
      second: bool [n], which of this device's rows are in the second half; none or all
        members if all of them are equal.
      means: float32 [2, d], of both halves; 0 for one without members.
    """

    second: jax.Array
    means: jax.Array


def two_means(
    rows: jax.Array,
    members: jax.Array,
    *,
    iterations: int = 20,
    axis_name: str | None = None,
) -> Halves:
    """Divides the members of one cluster into two.

    Lloyd's algorithm starts from the two sides of the members' mean, seen along the line to
    the member that is farthest from it. A single row far away may end up alone. Only rows
    of members are read, a block of them at a time.

    Args:
      rows: float32 [n, d], this device's rows.
      members: bool [n], which of them belong to the cluster.
      iterations: how often rows are assigned to one of two means.
      axis_name: the device axis, or None for one device.
    """
    rows, members = jnp.asarray(rows, jnp.float32), jnp.asarray(members)
    fold = _over_members(rows, members)

    def means(plane: Plane) -> tuple[jax.Array, jax.Array]:
        """Averages the members on both sides of a plane, and counts them."""

        def add(sums: Any, block: jax.Array, ids: jax.Array) -> Any:
            beyond, real = _beyond(block, plane), ids < len(rows)
            sides = jnp.stack([real & ~beyond, real & beyond])
            found = jnp.matmul(sides.astype(jnp.float32), block, precision=_EXACT)
            return sums[0] + found, sums[1] + sides.sum(axis=1, dtype=jnp.int32)

        zeros = jnp.zeros((2, rows.shape[1]), jnp.float32), jnp.zeros(2, jnp.int32)
        sums, counts = parallel.psum(fold(add, zeros), axis_name)
        return sums / jnp.maximum(counts, 1)[:, None].astype(jnp.float32), counts

    def between(one: jax.Array, two: jax.Array, through: jax.Array) -> Plane:
        return two - one, jnp.matmul(through, two - one, precision=_EXACT)

    def move(_: jax.Array, plane: Plane) -> Plane:
        (one, two), counts = means(plane)
        moved = between(one, two, (one + two) / 2)
        both = (counts > 0).all()
        return jax.tree.map(lambda new, old: jnp.where(both, new, old), moved, plane)

    nowhere = jnp.zeros(rows.shape[1], jnp.float32), jnp.float32(0)
    center = means(nowhere)[0][0]  # no row is beyond
    start = between(center, _farthest(fold, center, len(rows), axis_name), center)
    plane = lax.fori_loop(0, iterations, move, start)

    def mark(second: jax.Array, block: jax.Array, ids: jax.Array) -> jax.Array:
        return second.at[ids].set(_beyond(block, plane), mode="drop")

    return Halves(fold(mark, jnp.zeros_like(members)), means(plane)[0])


def _beyond(block: jax.Array, plane: Plane) -> jax.Array:
    """Returns bool [m], which rows lie beyond a plane."""
    return jnp.matmul(block, plane[0], precision=_EXACT) > plane[1]


def _over_members(rows: jax.Array, members: jax.Array) -> Callable[..., Any]:
    """Returns a fold over blocks of members: (function, first carry) -> last carry.

    The function takes (carry, float32 [m, d], int32 [m], the places of these rows). After
    the last member there are rows of 0, in the place n.
    """
    count, block = len(rows), min(MEMBERS_AT_ONCE, len(rows))
    size = -(-count // block) * block
    places = jnp.nonzero(members, size=size, fill_value=count)[0].astype(jnp.int32)
    num_blocks = (members.sum(dtype=jnp.int32) + block - 1) // block

    def fold(function: Callable[..., Any], carry: Any) -> Any:
        def body(i: jax.Array, carry: Any) -> Any:
            ids = lax.dynamic_slice_in_dim(places, i * block, block)
            return function(carry, rows.at[ids].get(mode="fill", fill_value=0), ids)

        return lax.fori_loop(0, num_blocks, body, carry)

    return fold


def _farthest(
    fold: Callable[..., Any], center: jax.Array, count: int, axis_name: str | None
) -> jax.Array:
    """Finds the member farthest from `center`, float32 [d]; the first of equal ones."""

    def compare(best: Any, block: jax.Array, ids: jax.Array) -> Any:
        away = jnp.square(block - center).sum(axis=1)
        away = jnp.where(ids < count, away, -1)
        here = jnp.argmax(away)
        new = away[here], block[here]
        farther = new[0] > best[0]
        return jax.tree.map(lambda x, y: jnp.where(farther, x, y), new, best)

    away, row = fold(compare, (jnp.float32(-1), center))
    if axis_name is None:
        return row
    winner = jnp.argmax(parallel.all_gather(away[None], axis_name))
    won = lax.axis_index(axis_name) == winner
    return parallel.psum(jnp.where(won, row, 0), axis_name)


def kmeans_bytes(num_rows: int, dim: int, num_clusters: int) -> int:
    """Returns the bytes that `kmeans` holds on its device, but for arrays of [N] and [K, d].

    They are the rows, two copies of them if they are read in several blocks, and the
    scores or one-hot labels of one block.

    Args:
      num_rows, dim: N and d of the float32 rows.
      num_clusters: K.
    """
    block = _block(num_rows, num_clusters)
    padded = -(-num_rows // block) * block
    copied = 0 if block == num_rows else num_rows + padded
    return 4 * ((num_rows + copied) * dim + block * num_clusters)


def _block(num_rows: int, num_clusters: int) -> int:
    return max(1, min(num_rows, PAIRS_AT_ONCE // num_clusters))
