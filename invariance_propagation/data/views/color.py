"""Adjusts the colours of a view as torchvision does, on planes in [0, 1].

Planes are float32 [C, height, width], C = 3 (RGB) or 1; see `augment`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

GRAY = (0.299, 0.587, 0.114)  # ITU-R 601, as in PIL; torchvision has 0.2989 for tensors


def gray(image: jax.Array) -> jax.Array:
    """Returns the grey plane [1, height, width] of planes [C, height, width]."""
    if image.shape[0] == 1:
        return image
    red, green, blue = image
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[None]


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends planes with black, as torchvision does."""
    return jnp.clip(factor * image, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends planes with the mean of their grey plane, as torchvision does."""
    return jnp.clip(factor * image + (1 - factor) * jnp.mean(gray(image)), 0.0, 1.0)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends planes with their grey plane, as torchvision does."""
    return jnp.clip(factor * image + (1 - factor) * gray(image), 0.0, 1.0)


def adjust_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue by `shift` of a full circle: RGB -> HSV -> RGB in closed form.

    chroma is largest - smallest. With k = (n + 6 hue) mod 6, n = 5, 3, 1 for red, green,
    blue, a channel is largest - chroma * clip(min(k, 4 - k), 0, 1).
    """
    red, green, blue = image
    largest = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = largest - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(
        chroma == 0, 1.0, chroma
    )  # grey has no hue, so any divisor will do
    sixths = jnp.where(
        largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    )
    sixths = jnp.where(largest == red, (green - blue) / divisor, sixths) + 6 * shift

    def channel(offset: float) -> jax.Array:
        k = sixths + offset
        k -= 6 * jnp.floor(k / 6)  # jnp.mod made the jitter 12 times slower on CPU
        return largest - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)])


def solarize(image: jax.Array) -> jax.Array:
    """Inverts values from one half on, as PIL's solarize does from level 128 of 255 on."""
    return jnp.where(image < 0.5, image, 1 - image)


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def jitter_ranges(strengths: Sequence[float], channels: int) -> tuple[tuple, tuple]:
    """Returns the names of the active adjustments and the (low, high) of their factors.

    As in torchvision's ColorJitter, factors of brightness, contrast and saturation are
    uniform in [max(0, 1 - strength), 1 + strength], shifts of hue in
    [-strength, strength].
    """
    names = tuple(ADJUST)
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]]
    ranges.append((-strengths[3], strengths[3]))
    on = [i for i in range(4 if channels == 3 else 2) if strengths[i] > 0]
    return tuple(names[i] for i in on), tuple(ranges[i] for i in on)


def color_jitter(
    image: jax.Array, order: jax.Array, factors: jax.Array, adjustments: Sequence
) -> jax.Array:
    """Applies adjustments[order[i]] with factors[i], for i = 0 .. n - 1.

    Under `vmap`, a step computes all adjustments and selects one: 1.2 ms for an image of
    224 x 224 x 3 on one core. Unrolled, it took 4 to 30 ms, because XLA recomputed steps.
    """

    def step(image: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple:
        index, factor = now
        return lax.switch(index, adjustments, image, factor), None

    return lax.scan(step, image, (order, factors))[0]
