"""The images most like others: exact, by the cosine of their embeddings."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation.bank import normalize

# As many times the rows of a bank are compared at once: 330 MB of ImageNet's.
QUERIES_AT_ONCE = 64


@partial(jax.jit, static_argnames=("num_neighbors",))
def most_similar(
    bank: jax.Array, queries: jax.Array, *, num_neighbors: int = 10
) -> tuple[jax.Array, jax.Array]:
    """The rows of a bank that are most like each query.

    Args:
      bank: float [n, d], normalised here.
      queries: float [q, d], normalised here.
      num_neighbors: k, from 1 to n.

    Returns:
      Similarities float32 [q, k] in descending order, and rows int32 [q, k]. A row of
      the bank with NaN or infinity is like nothing: it comes last, with -inf.
    """
    bank = normalize(jnp.asarray(bank, jnp.float32))
    queries = normalize(jnp.asarray(queries, jnp.float32))
    known = jnp.isfinite(bank).all(axis=1)

    def find(query: jax.Array) -> tuple[jax.Array, jax.Array]:
        similarities = jnp.matmul(bank, query, precision=lax.Precision.HIGHEST)
        # NaN would be the largest of all.
        similarities = jnp.where(known, similarities, -jnp.inf)
        return lax.top_k(similarities, num_neighbors)

    return lax.map(find, queries, batch_size=QUERIES_AT_ONCE)
