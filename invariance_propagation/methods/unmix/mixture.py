"""Draws a mixture of two images, (1) and (2) of Un-Mix; `method` has the equations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation.methods.unmix.options import Options

# Makes these draws differ from those of the inner method, which has the same keys.
PURPOSE = 0x3D13


class Draw(NamedTuple):
    """Holds a step's random numbers; the same on all devices.

    Attributes:
      is_global: bool [].
      share: float32 [], lambda of (1).
      centre: float32 [2], of the box, in [0, 1): down and to the right.
    """

    is_global: jax.Array
    share: jax.Array
    centre: jax.Array


def draw_mixture(key: jax.Array, options: Options) -> Draw:
    """Draws (1), the kind of mixture, and where the box lies."""
    keys = jax.random.split(jax.random.fold_in(key, PURPOSE), 3)
    alpha = options.alpha
    return Draw(
        jax.random.uniform(keys[0], (), jnp.float32) < options.global_probability,
        jax.random.beta(keys[1], alpha, alpha, (), jnp.float32),
        jax.random.uniform(keys[2], (2,), jnp.float32),
    )


def own_share(draw: Draw, height: int, width: int) -> jax.Array:
    """Computes the share of x_b in each pixel of a mixture (2).

    Returns:
      float32 [height, width, 1]: lambda everywhere, or 0 in the box and 1 outside of it.
      Its mean is the lambda of (3).
    """
    inside = jnp.ones((height, width), bool)
    ratio = jnp.sqrt(1 - draw.share)
    for axis, size in enumerate((height, width)):
        half = jnp.floor(size * ratio).astype(jnp.int32) // 2  # in whole pixels
        middle = jnp.floor(size * draw.centre[axis]).astype(jnp.int32)
        place = jnp.arange(size, dtype=jnp.int32)
        within = (place >= middle - half) & (place < middle + half)
        inside &= jnp.expand_dims(within, 1 - axis)
    outside = (~inside).astype(jnp.float32)
    return jnp.where(draw.is_global, draw.share, outside)[:, :, None]
