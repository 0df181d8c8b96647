"""Dropout whose draws do not depend on how a batch is split over devices."""

import jax
import jax.numpy as jnp

# Makes these draws differ from those of the views, which use the same keys.
PURPOSE = 0xD209


def dropout(x: jax.Array, keys: jax.Array, *, rate: float) -> jax.Array:
    """Sets random values of each image to 0 and scales up the others.

    Args:
      x: float [b, ...].
      keys: typed keys [b], one per image, such as `Batch.keys`.
      rate: probability that a value becomes 0, in [0, 1).

    Returns:
      float of the same shape and, in expectation, the same mean.
    """

    def draw(key: jax.Array, row: jax.Array) -> jax.Array:
        kept = jax.random.bernoulli(
            jax.random.fold_in(key, PURPOSE), 1 - rate, row.shape
        )
        return jnp.where(kept, row / (1 - rate), jnp.zeros_like(row))

    return jax.vmap(draw)(keys, x)
