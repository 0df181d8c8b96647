"""Crops, resizes, warps and blurs images.

Functions take one image, uint8 [H, W, C], or its planes, float32 [C, height, width] in
[0, 1], and return planes; see `augment`.
"""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

# Errors, emulated on real pictures, in grey levels of 255: one bfloat16 pass, the default
# on TPU, up to 1.5 (rms 0.3, as much as 8-bit rounding); HIGH, three passes, 0.003; HIGH
# on GPU, which is TF32, 0.2 (rms 0.04). HIGHEST, six passes, gains nothing visible.
PRECISION = lax.Precision.HIGH
CROP_TRIES = 10  # as in torchvision


def crop_box(
    uniform: jax.Array | np.ndarray,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> jax.Array | np.ndarray:
    """Draws a crop like RandomResizedCrop, but with real numbers.

    The area is uniform in `scale` * H * W, width / height log-uniform in `ratio`. The
    crop is the first try that fits, at a uniform position; if none fits, the largest
    central box within `ratio`.

    torchvision rounds to whole pixels, which leaves few different crops of an 8x8 image:
    on digits, rounding lowered the kNN accuracy of the trained encoder by 3 points.

    Args:
      uniform: in [0, 1), [2, CROP_TRIES + 1] or more: areas and ratios of the tries, then
        the position.
      shape: (H, W) of the image.
      scale: (low, high) share of the area.
      ratio: (low, high) width / height.

    Returns:
      float32 [4]: top, left, height, width.
    """
    xp = uniform.__array_namespace__()
    height, width = shape
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0, :CROP_TRIES])
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** uniform[1, :CROP_TRIES]
    # The central box is the last try, which always fits.
    central = (min(height, width / ratio[0]), min(width, height * ratio[1]))
    extents = xp.stack([xp.sqrt(area / ratios), xp.sqrt(area * ratios)])
    last = xp.asarray(central, dtype=xp.float32)[:, None]
    extents = xp.concat([extents, last], axis=1)
    limits = xp.asarray(shape, dtype=xp.float32)
    fits = xp.all(extents <= limits[:, None], axis=0)
    first = xp.argmax(fits)
    free = limits - extents[:, first]
    place = uniform[:, CROP_TRIES]
    place = xp.where(first == CROP_TRIES, xp.float32(0.5), place)
    return xp.concat([place * free, extents[:, first]])


def resize(image: jax.Array, size: int, box: jax.Array | None = None) -> jax.Array:
    """Resizes the part `box`, [4], of a uint8 [H, W, C] to planes [C, size, size].

    Does what PIL's `image.crop(box).resize(..., BILINEAR)` and torchvision with antialias
    do: pixels outside the box have no influence. None is the whole image.
    """
    height, width, _ = image.shape
    pixels = image.astype(jnp.float32)
    if box is None and height == width == size:
        return jnp.moveaxis(pixels, -1, 0) / 255
    if box is None:
        box = jnp.array((0, 0, height, width), jnp.float32)
    rows = resize_matrix(box[::2], height, size)
    columns = resize_matrix(box[1::2], width, size)
    planes = jnp.einsum("sh,hwc,tw->cst", rows, pixels, columns, precision=PRECISION)
    return planes / 255


def warp(image: jax.Array, size: int, box: jax.Array, matrix: jax.Array) -> jax.Array:
    """Warps the part `box`, [4], of a uint8 [H, W, C] to planes [C, size, size].

    Point p of the box, (y, x) from the middle of the image, shows the point `matrix` @ p
    of the image, with `matrix` [2, 2]: bilinear between pixels, black outside the image.
    Where the box is larger than `size`, the image is smoothed first, against aliasing.
    """
    top, left, box_height, box_width = jnp.asarray(box, jnp.float32)
    middle = jnp.array(image.shape[:2], jnp.float32) / 2
    steps = jnp.arange(0.5, size, dtype=jnp.float32) / size
    y, x = jnp.meshgrid(
        top + steps * box_height, left + steps * box_width, indexing="ij"
    )
    points = jnp.stack([y - middle[0], x - middle[1]])
    points = jnp.tensordot(matrix, points, 1, precision=PRECISION)
    # The middle of the first pixel is at 0.5 here, but at 0 in map_coordinates.
    y, x = points + middle[:, None, None] - 0.5
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    if max(image.shape[:2]) > size:
        rows = smoothing_matrix(box_height / size, image.shape[0])
        columns = smoothing_matrix(box_width / size, image.shape[1])
        planes = jnp.einsum(
            "sh,chw,tw->cst", rows, planes, columns, precision=PRECISION
        )
    sample = partial(map_coordinates, order=1, mode="constant", cval=0.0)
    return jnp.stack([sample(plane, (y, x)) for plane in planes]) / 255


def warp_matrix(
    warp: jax.Array | np.ndarray, rotation: float, shear: float, stretch: float
) -> jax.Array | np.ndarray:
    """Returns the matrix float32 [2, 2] of a stretch, then a shear, then a rotation.

    `warp`, [4] in [-1, 1], says how much to rotate, shear and stretch (twice), as
    fractions of the largest `rotation`, `shear` and `stretch`; see `Augmentation`.
    """
    xp = warp.__array_namespace__()
    angle = xp.deg2rad(rotation * warp[0])
    cosine, sine, lean = xp.cos(angle), xp.sin(angle), shear * warp[1]
    turn_and_lean = [[cosine + lean * sine, sine], [lean * cosine - sine, cosine]]
    return xp.asarray(turn_and_lean) * (1 + stretch) ** warp[2:]


def resize_matrix(
    part: jax.Array | np.ndarray, in_size: int, out_size: int
) -> jax.Array | np.ndarray:
    """Returns weights [out_size, in_size] that resize `part`, [2], (start, length).

    The filter is a triangle that reaches one pixel of the input or of the output,
    whichever is larger; it is cut at the ends of the part and scaled to sum to 1.
    """
    xp = part.__array_namespace__()
    start, length = xp.asarray(part, dtype=xp.float32)
    scale = length / out_size
    centers = ((xp.arange(out_size, dtype=xp.float32) + 0.5) * scale)[:, None]
    pixels = (xp.arange(in_size, dtype=xp.float32) + 0.5 - start)[None]
    overlaps = (pixels > -0.5) & (pixels < length + 0.5)
    weights = 1 - xp.abs(centers - pixels) / xp.maximum(scale, xp.float32(1))
    weights = xp.where(overlaps, xp.maximum(weights, xp.float32(0)), xp.float32(0))
    return weights / xp.sum(weights, axis=1, keepdims=True)


def smoothing_matrix(
    scale: jax.Array | np.ndarray, size: int
) -> jax.Array | np.ndarray:
    """Returns weights [size, size] that smooth before every `scale`-th pixel is sampled.

    The filter is a triangle that reaches `scale` pixels, scaled to sum to 1 inside the
    image. Its variance is (scale^2 - 1) / 6; bilinear sampling afterwards adds 1 / 6,
    which makes both together as wide as the filter of `resize_matrix`. Up to a scale of 1
    it changes nothing.
    """
    xp = scale.__array_namespace__()
    places = xp.arange(size, dtype=xp.float32)
    distances = xp.abs(places[:, None] - places[None])
    weights = 1 - distances / xp.maximum(scale, xp.float32(1))
    weights = xp.maximum(weights, xp.float32(0))
    return weights / xp.sum(weights, axis=1, keepdims=True)


def blur_radius(sigma: Sequence[float], size: int) -> int:
    """Returns how many pixels a blur of (low, high) `sigma` reaches in a view of `size`.

    It is 3 sigma, about as in PIL, which the authors' code uses. SimCLR's tenth of the
    side would be too little in a small image.
    """
    return min(math.ceil(3 * sigma[1]), size - 1)


def gaussian_blur(image: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Blurs by a Gaussian of `sigma` pixels, cut beyond `radius`, as torchvision does.

    Edges are reflected without repeating the edge pixel; radius < height = width.
    """
    weights = blur_matrix(sigma, image.shape[1], radius)
    return jnp.einsum("sh,chw,tw->cst", weights, image, weights, precision=PRECISION)


def blur_matrix(sigma: jax.Array, size: int, radius: int) -> jax.Array:
    """Returns the weights [size, size] of the blur, including the reflected edges."""
    here = jnp.arange(size, dtype=jnp.float32)[:, None]
    there = here.T

    def weigh(distance: jax.Array, exists: jax.Array) -> jax.Array:
        near = exists & (jnp.abs(distance) <= radius)
        return jnp.where(near, jnp.exp(-0.5 * jnp.square(distance / sigma)), 0.0)

    # Pixel p also appears at -p and at 2 (size - 1) - p; edge pixels appear once.
    weights = weigh(here - there, there >= 0)
    weights += weigh(here + there, there > 0)
    weights += weigh(here + there - 2 * (size - 1), there < size - 1)
    return weights / jnp.sum(weights, axis=1, keepdims=True)
