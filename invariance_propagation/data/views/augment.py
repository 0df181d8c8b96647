"""Random views of images, made on the device: pure functions of (key, image).

torchvision's operations, in float32 instead of 8 bits. In `geometry` and `color` a
function takes one image as planes, float32 [C, height, width] in [0, 1], C = 3 (RGB)
or 1: vector units want the long axes innermost, and in this layout a resize or a blur
is two small matrix products, rows @ plane @ columns.T. The options are static.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from invariance_propagation.data.views.chance import NUMBERS, draw, make_odds
from invariance_propagation.data.views.color import ADJUST, color_jitter, gray
from invariance_propagation.data.views.geometry import (
    blur_radius,
    crop_box,
    gaussian_blur,
    resize,
    warp,
    warp_matrix,
)
from invariance_propagation.errors import UserError


def per_image_keys(seed: int, epoch: int | jax.Array, indices: jax.Array) -> jax.Array:
    """Keys [b] of the images `indices`, int [b], in `epoch`, which may be traced.

    They depend on the image, not on its place in the batch or on its device.
    """
    epoch_key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), epoch)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(epoch_key, indices)


def keys_of_view(keys: jax.Array, view: int) -> jax.Array:
    """Returns keys [b] for one of several views of the same images, counted from 0.

    The first view takes the keys as they are, so it is the same whatever else is made.
    """
    if view == 0:
        return keys
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, view)


def augment(
    keys: jax.Array,
    images: jax.Array,
    *,
    size: int,
    crop_scale: Sequence[float],
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    rotation: float = 0.0,
    shear: float = 0.0,
    stretch: float = 0.0,
    flip: float,
    jitter: Sequence[float],
    jitter_probability: float,
    grayscale: float,
    blur: float,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    jitter_first: bool = True,
    mean: Sequence[float],
    std: Sequence[float],
) -> jax.Array:
    """One random view of each image, normalised.

    Resized crop, jitter, grayscale, blur, flip, in this order: MoCo v2, and ImageNet
    with `--blur` in the reference code (WangFeng18/InvariancePropagation).

    Args:
      keys: typed keys [b], one per image, as from `per_image_keys`.
      images: uint8 [b, H, W, C]; for C = 1, saturation, hue and grayscale are skipped.
      size: height and width of the views, in pixels.
      crop_scale: (low, high) part of the area to crop; (): only resize, if need be.
      crop_ratio: (low, high) width / height of the crop.
      rotation: largest angle, in degrees, by which the image turns either way; 0 is
        off, here and below. These three are for handwriting.
      shear: largest slope by which it leans either way, in pixels per row.
      stretch: largest part by which it grows or shrinks, in each direction apart.
      flip: probability of a horizontal flip.
      jitter: strengths of brightness, contrast, saturation, hue; () is off.
      jitter_probability: of the jitter as a whole.
      grayscale: probability of taking the colour out.
      blur: probability of a Gaussian blur.
      blur_sigma: (low, high), in pixels of the view.
      jitter_first: False: grayscale before jitter, as in InstDisc, MoCo v1 and the
        reference code without `--blur`.
      mean, std: per channel, in units where white is 1.

    Returns:
      float32 [b, size, size, C], (view - mean) / std.

    Raises:
      UserError: images not uint8, or C, `mean` and `std` that do not fit together.
    """
    _check(images, mean, std)
    odds = make_odds(
        images.shape[3],
        flip=flip,
        jitter=jitter,
        jitter_probability=jitter_probability,
        grayscale=grayscale,
        blur=blur,
        blur_sigma=blur_sigma,
    )
    adjustments = [ADJUST[name] for name in odds.adjustments]
    radius = blur_radius(blur_sigma, size)

    def view(key: jax.Array, image: jax.Array) -> jax.Array:
        uniform = jax.random.uniform(key, NUMBERS, jnp.float32)
        chance = draw(uniform, odds)
        parts = (
            lambda x: color_jitter(x, chance.order, chance.factors, adjustments),
            gray,
            lambda x: gaussian_blur(x, chance.sigma, radius),
            lambda x: x[:, :, ::-1],
        )
        shape, box = image.shape[:2], None
        if crop_scale:
            box = crop_box(uniform, shape, crop_scale, crop_ratio)
        if rotation or shear or stretch:
            matrix = warp_matrix(chance.warp, rotation, shear, stretch)
            planes = warp(image, size, (0, 0, *shape) if box is None else box, matrix)
        else:
            planes = resize(image, size, box)
        for part in (0, 1, 2, 3) if jitter_first else (1, 0, 2, 3):
            if odds.probabilities[part] > 0:
                planes = jnp.where(chance.applied[part], parts[part](planes), planes)
        return _standardize(planes, mean, std)

    return jax.vmap(view)(keys, images)


def normalize(
    images: jax.Array, *, mean: Sequence[float], std: Sequence[float], size: int
) -> jax.Array:
    """uint8 [b, H, W, C] -> float32 [b, size, size, C]: `augment` with all parts off.

    The whole image is resized if H or W differs from `size`, whatever its shape.
    """
    _check(images, mean, std)
    return jax.vmap(lambda image: _standardize(resize(image, size), mean, std))(images)


def _standardize(
    planes: jax.Array, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """Planes -> float32 [height, width, C], (x - mean) / std."""
    mean, std = (jnp.array(x, jnp.float32)[:, None, None] for x in (mean, std))
    return jnp.moveaxis((planes - mean) / std, 0, -1)


def _check(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> None:
    if images.dtype != jnp.uint8:
        raise UserError(f"images are {images.dtype}: give uint8, 0 to 255")
    channels = images.shape[-1]
    if channels not in (1, 3) or not len(mean) == len(std) == channels:
        raise UserError(
            f"images have {channels} channels, mean {len(mean)} and std {len(std)} "
            "values: all three must be 1, or all 3"
        )


def check_chances(chances: Mapping[str, Any]) -> None:
    """Raises UserError for an option of `augment` that is out of its range."""
    if chances["size"] < 1:
        raise UserError(f"augment.size={chances['size']}: set it above 0 pixels")
    for name in ("rotation", "shear", "stretch"):
        if not chances[name] >= 0:
            raise UserError(f"augment.{name}={chances[name]}: set it to 0 or above")
    for name in ("flip", "jitter_probability", "grayscale", "blur"):
        if not 0 <= chances[name] <= 1:
            raise UserError(f"augment.{name}={chances[name]}: it is a probability")
    check_crop_scale("augment", chances["crop_scale"])


def check_crop_scale(section: str, scale: Sequence[float]) -> None:
    """Raises UserError, by the name of the config's section."""
    if scale and not (len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(
            f"{section}.crop_scale={scale}: smallest and largest share of the area, "
            "above 0 and up to 1; () switches crops off"
        )
