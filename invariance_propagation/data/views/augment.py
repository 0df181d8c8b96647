"""Makes random views of images on the device: pure functions of (key, image).

The operations are torchvision's, in float32 instead of 8 bits. In `geometry` and `color`
a function takes one image as planes, float32 [C, height, width] in [0, 1], C = 3 (RGB) or
1. Vector units work best with the long axes innermost, and in this layout a resize or a
blur is two small matrix products, rows @ plane @ columns.T. The options are static.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from invariance_propagation.data.views.chance import NUMBERS, Chance, draw, make_odds
from invariance_propagation.data.views.color import (
    ADJUST,
    color_jitter,
    gray,
    solarize,
)
from invariance_propagation.data.views.geometry import (
    blur_radius,
    crop_box,
    gaussian_blur,
    resize,
    warp,
    warp_matrix,
)
from invariance_propagation.data.views.options import Augmentation
from invariance_propagation.data.views.ranges import check_statistics
from invariance_propagation.errors import UserError
from invariance_propagation.settings import keywords_of


def per_image_keys(seed: int, epoch: int | jax.Array, indices: jax.Array) -> jax.Array:
    """Returns keys [b] for the images `indices`, int [b], in an epoch.

    They depend on the image, not on its place in the batch or on its device. `epoch` may
    be traced.
    """
    epoch_key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(epoch_key, indices)


def keys_of_view(keys: jax.Array, view: int) -> jax.Array:
    """Returns keys [b] for one of several views of the same images, counted from 0.

    The first view uses the keys unchanged, so other views do not affect it.
    """
    if view == 0:
        return keys
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, view)


@keywords_of(Augmentation)
def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    **options: Any,
) -> jax.Array:
    """Makes one random view of each image, normalised.

    Args:
      keys: typed keys [b], one per image, as from `per_image_keys`.
      images: uint8 [b, H, W, C]; for C = 1, saturation, hue and grayscale are skipped.
      mean, std: per channel, in units where white is 1.
      **options: the fields of `Augmentation`.

    Returns:
      float32 [b, size, size, C], (view - mean) / std.

    Raises:
      UserError: images not uint8; C, `mean` and `std` that do not fit together; or a value
        of these two by which nothing can be normalised.
    """
    _check(images, mean, std)
    chosen = Augmentation(**options)
    odds = make_odds(images.shape[3], chosen)
    adjustments = [ADJUST[name] for name in odds.adjustments]
    radius = blur_radius(chosen.blur_sigma, chosen.size)

    def view(key: jax.Array, image: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, NUMBERS, jnp.float32)
        chance = draw(uniform, odds)
        operations = (
            lambda x: color_jitter(x, chance.order, chance.factors, adjustments),
            gray,
            lambda x: gaussian_blur(x, chance.sigma, radius),
            lambda x: x[:, :, ::-1],
            solarize,
        )
        planes = _crop(image, uniform, chance, chosen)
        for part in chosen.part_order:
            if odds.probabilities[part] > 0:
                planes = jnp.where(
                    chance.applied[part], operations[part](planes), planes
                )
        return _standardize(planes, mean, std)

    return jax.vmap(view)(keys, images)


def _crop(
    image: jax.Array, uniform: jax.Array, chance: Chance, options: Augmentation
) -> jax.Array:
    """Crops, warps and resizes uint8 [H, W, C] to planes [C, size, size]."""
    shape, box = image.shape[:2], None
    if options.crop_scale:
        box = crop_box(uniform, shape, options.crop_scale, options.crop_ratio)
    if not options.warps:
        return resize(image, options.size, box)
    matrix = warp_matrix(chance.warp, options.rotation, options.shear, options.stretch)
    return warp(image, options.size, (0, 0, *shape) if box is None else box, matrix)


def normalize(
    images: jax.Array, *, mean: Sequence[float], std: Sequence[float], size: int
) -> jax.Array:
    """Does what `augment` does with all parts off.

    Args:
      images: uint8 [b, H, W, C]; resized as a whole if H or W differs from `size`.
      mean, std: per channel, in units where white is 1.
      size: height and width of the result, in pixels.

    Returns:
      float32 [b, size, size, C].
    """
    _check(images, mean, std)
    return jax.vmap(lambda image: _standardize(resize(image, size), mean, std))(images)


def _standardize(
    planes: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Turns planes into float32 [height, width, C], (x - mean) / std."""
    mean, std = (jnp.array(x, jnp.float32)[:, None, None] for x in (mean, std))
    return jnp.moveaxis((planes - mean) / std, 0, -1)


def _check(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> None:
    if images.dtype != jnp.uint8:
        raise UserError(f"images are {images.dtype}: give uint8, 0 to 255")
    channels = images.shape[-1]
    if channels not in (1, 3) or not len(mean) == len(std) == channels:
        raise UserError(
            f"images have {channels} channel(s), mean {len(mean)} and std {len(std)} "
            "value(s): give mean and std one value for each channel, of which there are 1 "
            "or 3"
        )
    check_statistics(mean, std)
