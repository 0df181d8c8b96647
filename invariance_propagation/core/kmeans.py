"""k-means on a device: the first clustering of a set's features."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ROWS_AT_ONCE = 2048  # so that the products with all centroids stay small


def kmeans(
    rows: np.ndarray, num_clusters: int, *, key: jax.Array, num_rounds: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters rows by Lloyd's rounds from random rows.

    A cluster that becomes empty in a round goes on from one of the rows that lie farthest
    from their centroids. At the end every cluster has a row.

    Args:
      rows: float [N, d].
      num_clusters: K, from 1 to N.
      key: decides the rows that the centroids start from.
      num_rounds: how often rows are assigned and centroids computed.

    Returns:
      Labels, int32 [N], and centroids, float32 [K, d], the means of their rows.

    Raises:
      ValueError: there are fewer rows than clusters.
    """
    count = len(rows)
    if not 1 <= num_clusters <= count:
        raise ValueError(f"num_clusters={num_clusters}: set it from 1 to N = {count}")
    chosen = jax.random.choice(key, count, (num_clusters,), replace=False)
    blocks = _in_blocks(np.asarray(rows, np.float32))
    centroids = jnp.asarray(rows[np.asarray(chosen)], jnp.float32)
    labels, distances = _rounds(blocks, centroids, jnp.int32(count), num_rounds)
    labels, distances = (np.array(x).reshape(-1)[:count] for x in (labels, distances))
    _fill_empty(labels, distances, num_clusters)
    return labels, means_of(rows, labels, num_clusters)


def means_of(rows: np.ndarray, labels: np.ndarray, num_clusters: int) -> np.ndarray:
    """Averages the rows of each cluster, float32 [K, d]; every cluster must have one."""
    sums = jax.ops.segment_sum(
        jnp.asarray(rows, jnp.float32), jnp.asarray(labels), num_clusters
    )
    sizes = np.bincount(labels, minlength=num_clusters).astype(np.float32)
    return np.asarray(sums) / sizes[:, None]


def _in_blocks(rows: np.ndarray) -> np.ndarray:
    """Cuts rows into [blocks, ROWS_AT_ONCE, d]; the last block is filled with zeros."""
    size = min(ROWS_AT_ONCE, len(rows))
    padding = -len(rows) % size
    return np.pad(rows, ((0, padding), (0, 0))).reshape(-1, size, rows.shape[1])


@partial(jax.jit, static_argnames="num_rounds")
def _rounds(
    blocks: jax.Array, centroids: jax.Array, count: jax.Array, num_rounds: int
) -> tuple[jax.Array, jax.Array]:
    """Returns label and squared distance of each row after the last round."""
    num_clusters, size = len(centroids), blocks.shape[1]

    def assign(centroids: jax.Array) -> tuple:
        squares = jnp.square(centroids).sum(axis=1)

        def one(sums: tuple, given: tuple) -> tuple:
            first, rows = given
            products = jnp.matmul(rows, centroids.T, precision="highest")
            scores = squares - 2 * products
            labels = jnp.argmin(scores, axis=1).astype(jnp.int32)
            distances = jnp.min(scores, axis=1) + jnp.square(rows).sum(axis=1)
            is_row = first + jnp.arange(size, dtype=jnp.int32) < count
            weights = is_row.astype(jnp.float32)
            found = (
                jax.ops.segment_sum(rows * weights[:, None], labels, num_clusters),
                jax.ops.segment_sum(weights, labels, num_clusters),
            )
            sums = jax.tree.map(jnp.add, sums, found)
            return sums, (labels, jnp.where(is_row, distances, -jnp.inf))

        zeros = jnp.zeros_like(centroids), jnp.zeros(num_clusters, jnp.float32)
        firsts = jnp.arange(len(blocks), dtype=jnp.int32) * size
        return lax.scan(one, zeros, (firsts, blocks))

    def move(_: jax.Array, centroids: jax.Array) -> jax.Array:
        (sums, sizes), (_, distances) = assign(centroids)
        # The j-th empty cluster takes the j-th farthest row.
        _, far = lax.top_k(distances.reshape(-1), min(num_clusters, distances.size))
        empty = sizes == 0
        place = jnp.where(empty, jnp.cumsum(empty) - 1, 0)
        others = blocks.reshape(-1, blocks.shape[2])[far[place]]
        means = sums / jnp.maximum(sizes, 1)[:, None]
        return jnp.where(empty[:, None], others, means)

    centroids = lax.fori_loop(0, num_rounds, move, centroids)
    _, (labels, distances) = assign(centroids)
    return labels, distances


def _fill_empty(labels: np.ndarray, distances: np.ndarray, num_clusters: int) -> None:
    """Gives each empty cluster the farthest row of a cluster that has others."""
    sizes = np.bincount(labels, minlength=num_clusters)
    farthest = iter(np.argsort(-distances, kind="stable"))
    for cluster in np.flatnonzero(sizes == 0):
        row = next(i for i in farthest if sizes[labels[i]] > 1)
        sizes[labels[row]] -= 1
        sizes[cluster] += 1
        labels[row] = cluster
