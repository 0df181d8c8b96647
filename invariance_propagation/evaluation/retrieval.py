"""The images most like others: exact, by the cosine of their features."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation.evaluation.features import unit_rows

# This many similarities per row of a block are held at once.
QUERIES_AT_ONCE = 64
# float32 finds this many more rows than are asked for, of which float64 takes the best.
SPARE = 16
# No cosine of float32 is further from the true one.
ERROR = 1e-4
# Vectors that float64 looks at once: 67 MB of ResNet-50's features.
EXACT_AT_ONCE = 4096


def most_similar(
    vectors: np.ndarray, queries: np.ndarray, *, num_neighbors: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the vectors that are most like each query.

    Where all rows point nearly the same way, as in a network that has learnt little,
    their cosines differ by less than float32 can tell. So the mean direction c is
    subtracted first: for a and b of length 1,
    cos = 1 - |a - c|^2 / 2 + (a - c).(b - c) - |b - c|^2 / 2.

    Args:
      vectors: float [n, d], normalised here.
      queries: float [q, d], normalised here.
      num_neighbors: k, from 1 to n.

    Returns:
      Similarities float64 [q, k] in descending order, of float32's precision, and rows
      int [q, k]. A vector with NaN or infinity is like nothing: it comes last,
      with -inf.
    """
    rows, unit = unit_rows(vectors), unit_rows(queries)
    known = np.isfinite(rows).all(axis=1)
    rows[~known] = 0
    center = rows[known].mean(axis=0) if known.any() else 0
    # A row of zeros has no length of 1: its cosine is 0.
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
    """The largest of vectors.query + bias for each query, and their places."""

    def find(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = jnp.matmul(vectors, query, precision=lax.Precision.HIGHEST) + bias
        return lax.top_k(scores, num_neighbors)

    return lax.map(find, queries, batch_size=QUERIES_AT_ONCE)


class Found(NamedTuple):
    """The rows most like each query, among those that have been looked at.

    Attributes:
      similarities: float64 [q, m], cosines in descending order.
      rows: int64 [q, m], those rows; of equal ones the lower first.
    """

    similarities: np.ndarray
    rows: np.ndarray


def nothing_found(num_queries: int) -> Found:
    """Begins a search, with m = 0."""
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
    """Goes on with a search through one more block of rows.

    The result after all blocks does not depend on how the rows were divided into
    them: float32 proposes, float64 decides.

    Args:
      found: of the blocks before.
      queries: float32 [q, d].
      vectors: float32 [n, d], the block, n >= 1.
      rows: int [n], the numbers of these vectors.
      num_neighbors: rows to keep for each query.

    Returns:
      The best of both, at most `num_neighbors` for each query.
    """
    count = min(num_neighbors + SPARE, len(vectors))
    rough, places = most_similar(vectors, queries, num_neighbors=count)
    # What cannot be among the best is not worth a second look.
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
    """The squared length of each row."""
    return np.einsum("nd,nd->n", x, x)
