"""k-means: of all rows on one device, and of two halves in a bank that lies in shards."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.arguments import check_vectors, integer
from invariance_propagation.errors import UserError

# Scores and one-hot labels exist for this many pairs of row and cluster: 256 MB each.
PAIRS_AT_ONCE = 1 << 26
_EXACT = lax.Precision.HIGHEST


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


def two_means(
    rows: jax.Array,
    members: jax.Array,
    *,
    iterations: int = 20,
    axis_name: str | None = None,
) -> jax.Array:
    """Divides the members of one cluster into two.

    Lloyd's algorithm starts from the two sides of the members' mean, seen along the line to
    the member that is farthest from it. So a single row far away does not end up alone.

    Args:
      rows: float32 [n, d], this device's rows.
      members: bool [n], which of them belong to the cluster.
      iterations: how often rows are assigned to one of two means.
      axis_name: the device axis, or None for one device.

    Returns:
      bool [n], the members of the second half; none or all if all members are equal.
    """

    def total(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights = chosen.astype(jnp.float32)
        sums = jnp.matmul(weights, rows, precision=_EXACT)
        return parallel.psum((sums, weights.sum()), axis_name)

    def side(direction: jax.Array, threshold: jax.Array) -> jax.Array:
        return members & (jnp.matmul(rows, direction, precision=_EXACT) > threshold)

    all_sum, all_count = total(members)
    center = all_sum / jnp.maximum(all_count, 1)
    away = jnp.square(rows - center).sum(axis=1)
    farthest = _first_of_largest(jnp.where(members, away, -1), axis_name)
    direction = total(farthest)[0] - center

    def move(_: jax.Array, second: jax.Array) -> jax.Array:
        second_sum, second_count = total(second)
        first_count = all_count - second_count
        one = (all_sum - second_sum) / jnp.maximum(first_count, 1)
        two = second_sum / jnp.maximum(second_count, 1)
        halfway = (jnp.square(two).sum() - jnp.square(one).sum()) / 2
        both = (first_count > 0) & (second_count > 0)
        return jnp.where(both, side(two - one, halfway), second)

    second = side(direction, jnp.matmul(center, direction, precision=_EXACT))
    return lax.fori_loop(0, iterations, move, second)


def _first_of_largest(values: jax.Array, axis_name: str | None) -> jax.Array:
    """Marks the largest of all devices' values [n]: the first of several that are equal."""
    largest = parallel.pmax(values.max(), axis_name)
    count = len(values)
    ids = parallel.first_row(count, axis_name) + jnp.arange(count, dtype=jnp.int32)
    never = jnp.iinfo(jnp.int32).max
    first = jnp.where(values == largest, ids, never).min()
    return ids == -parallel.pmax(-first, axis_name)


def _block(num_rows: int, num_clusters: int) -> int:
    return max(1, min(num_rows, PAIRS_AT_ONCE // num_clusters))
