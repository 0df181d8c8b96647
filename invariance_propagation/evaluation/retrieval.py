"""Finds the images most similar to others, exactly, by the cosine of their features."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation.evaluation.features import unit_rows

# Rows of queries whose similarities are computed at once.
QUERIES_AT_ONCE = 64
# float32 finds this many more rows than asked for, and float64 chooses the best of them.
SPARE = 16
# A bound on the error of a cosine in float32.
ERROR = 1e-4
# Vectors that float64 compares at once: 67 MB with ResNet-50's features.
EXACT_AT_ONCE = 4096


def most_similar(
    vectors: np.ndarray, queries: np.ndarray, *, num_neighbors: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the vectors most similar to each query.

    In a network that has learnt little, all rows point nearly the same way, and their
    cosines differ by less than float32 can resolve. So the mean direction c is subtracted
    first: for a and b of length 1,
    cos = 1 - |a - c|^2 / 2 + (a - c).(b - c) - |b - c|^2 / 2.

    Args:
      vectors: float [n, d], normalised here.
      queries: float [q, d], normalised here.
      num_neighbors: k, from 1 to n.

    Returns:
      Similarities float64 [q, k] in descending order, with the precision of float32, and
      rows int [q, k]. A vector with NaN or infinity comes last, with -inf.
    """
    rows, unit = unit_rows(vectors), unit_rows(queries)
    known = np.isfinite(rows).all(axis=1)
    rows[~known] = 0
    center = rows[known].mean(axis=0) if known.any() else 0
    # A row of zeros does not have length 1; these terms make its cosine 0.
    bias = (_squared(rows) - 1) / 2
    rest = (_squared(unit) + 1) / 2
    rows -= center
    unit -= center
    bias -= _squared(rows) / 2
    bias[~known] = -np.inf
    rest -= _squared(unit) / 2
    parts = (x.astype(np.float32) for x in (rows, bias, unit))
    scores, places = _best(*parts, num_neighbors=num_neighbors)
    return np.float64(scores) + rest[:, None], np.asarray(places)


@partial(jax.jit, static_argnames=("num_neighbors",))
def _best(
    vectors: jax.Array, bias: jax.Array, queries: jax.Array, *, num_neighbors: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the largest values of vectors.query + bias for each query, and where."""

    def find(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = jnp.matmul(vectors, query, precision=lax.Precision.HIGHEST) + bias
        return lax.top_k(scores, num_neighbors)

    return lax.map(find, queries, batch_size=QUERIES_AT_ONCE)


class Found(NamedTuple):
    """Holds the rows most similar to each query, among the blocks searched so far.

    Attributes:
      similarities: float64 [q, m], cosines in descending order.
      rows: int64 [q, m], numbers of the rows; of equal cosines the lower number first.
    """

    similarities: np.ndarray
    rows: np.ndarray


def nothing_found(num_queries: int) -> Found:
    """Returns the result before any block is searched, with m = 0."""
    empty = np.empty((num_queries, 0))
    return Found(empty, empty.astype(np.int64))


def look_through(
    found: Found,
    queries: np.ndarray,
    vectors: np.ndarray,
    rows: np.ndarray,
    *,
    num_neighbors: int,
) -> Found:
    """Searches one more block of rows.

    The result after all blocks does not depend on how the rows are divided into blocks,
    because float32 only proposes rows and float64 decides.

    Args:
      found: the result for the blocks before.
      queries: float32 [q, d].
      vectors: float32 [n, d], the block, n >= 1.
      rows: int [n], the numbers of these vectors.
      num_neighbors: rows to keep for each query.

    Returns:
      The most similar rows of all blocks so far, at most `num_neighbors` per query.
    """
    count = min(num_neighbors + SPARE, len(vectors))
    rough, places = most_similar(vectors, queries, num_neighbors=count)
    # Rows that cannot be among the best need no float64.
    is_full = found.rows.shape[1] >= num_neighbors
    least = found.similarities[:, num_neighbors - 1 :] if is_full else -np.inf
    which, column = np.nonzero((rough > -np.inf) & (rough >= least - ERROR))
    similarities = np.full(places.shape, -np.inf)
    for start in range(0, len(which), EXACT_AT_ONCE):
        i, j = (
            which[start : start + EXACT_AT_ONCE],
            column[start : start + EXACT_AT_ONCE],
        )
        near, unit = unit_rows(vectors[places[i, j]]), unit_rows(queries[i])
        similarities[i, j] = np.einsum("nd,nd->n", near, unit)
    similarities = np.concatenate([found.similarities, similarities], axis=1)
    rows = np.concatenate([found.rows, rows[places]], axis=1)
    order = np.lexsort((rows, -similarities), axis=1)[:, :num_neighbors]
    return Found(
        np.take_along_axis(similarities, order, axis=1),
        np.take_along_axis(rows, order, axis=1),
    )


def _squared(x: np.ndarray) -> np.ndarray:
    """Returns the squared length of each row, [n]."""
    return np.einsum("nd,nd->n", x, x)
