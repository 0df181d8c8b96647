"""Measures how often propagated positives have the anchor's label (a diagnostic only)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation.core.graph import distinct, propagate

ANCHORS_AT_ONCE = 1024


@partial(jax.jit, static_argnames="num_hops")
def hop_purity(
    graph: jax.Array, labels: jax.Array, indices: jax.Array, *, num_hops: int = 3
) -> jax.Array:
    """Measures the purity of the positives that each hop is the first to reach.

    Args:
      graph: int32 [N, k].
      labels: int [N].
      indices: int [n], the anchors to look at.
      num_hops: l.

    Returns:
      float32 [l + 1], the share of distinct positives with the anchor's label, for each
      hop and then for all hops together; NaN where nothing is reached.

    Source: the authors' consistency diagnostic (WangFeng18/InvariancePropagation).
    """
    graph, labels = jnp.asarray(graph), jnp.asarray(labels)
    sizes = [graph.shape[1] ** hop for hop in range(1, num_hops + 1)]
    hop_of_slot = jnp.repeat(
        jnp.arange(num_hops, dtype=jnp.int32),
        jnp.array(sizes, jnp.int32),
        total_repeat_length=sum(sizes),
    )

    def count(index: jax.Array) -> jax.Array:
        slots = propagate(graph, index[None], num_hops=num_hops)
        reached = distinct(slots, index[None])[0]
        same = reached & (labels[slots[0]] == labels[index])
        pairs = jnp.stack([same, reached], axis=1).astype(jnp.float32)
        return jax.ops.segment_sum(pairs, hop_of_slot, num_segments=num_hops)

    counts = lax.map(count, jnp.asarray(indices), batch_size=ANCHORS_AT_ONCE)
    counts = counts.sum(axis=0)
    counts = jnp.concatenate([counts, counts.sum(axis=0, keepdims=True)])
    return counts[:, 0] / counts[:, 1]
