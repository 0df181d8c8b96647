"""Dropout that does not depend on how a batch is spread over devices."""

import jax
import jax.numpy as jnp

# Sets these draws apart from those of the views, which have the same keys.
PURPOSE = 0xD209


def dropout(x: jax.Array, keys: jax.Array, *, rate: float) -> jax.Array:
    """Sets a random part of the values of each image to 0 and scales up the rest.

    Args:
      x: float [b, ...].
      keys: typed keys [b], one per image, as of `Batch.keys`.
      rate: probability of 0, in [0, 1).

    Returns:
      The same shape, with the same mean.
    """

    def draw(key: jax.Array, row: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, PURPOSE), 1 - rate, row.shape
        )
        return jnp.where(kept, row / (1 - rate), jnp.zeros_like(row))

    return jax.vmap(draw)(keys, x)
