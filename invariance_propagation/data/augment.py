"""Random views of images, made on the device: pure functions of (key, image).

torchvision's operations, in float32 instead of 8 bits. Below `augment` and `normalize`
a function takes one image as planes, float32 [C, height, width] in [0, 1], C = 3 (RGB)
or 1: vector units want the long axes innermost, and in this layout a resize or a blur
is two small matrix products, rows @ plane @ columns.T. The options are static.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.ndimage import map_coordinates

from invariance_propagation.errors import UserError

# Emulated on real pictures: one bfloat16 pass, the default on TPU, is up to 1.5 of 255
# gray levels wrong (rms 0.3, as much as 8-bit rounding); HIGH, three passes, 0.003; on
# GPU HIGH is TF32, 0.2 (rms 0.04). HIGHEST, six passes, gains nothing visible.
PRECISION = lax.Precision.HIGH
CROP_TRIES = 10  # as torchvision
GRAY = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL; torchvision's tensors take 0.2989


class Chance(NamedTuple):
    """All that is random in one view, or, with a leading b, in b views."""

    box: jax.Array  # float32 [4], top, left, height, width of the crop, in pixels
    warp: jax.Array  # float32 [4], in [-1, 1]: rotation, shear, stretch of y and of x
    order: jax.Array  # int32 [n], which of the n adjustments comes first, second, ...
    factors: jax.Array  # float32 [n], their factors, in order of use
    sigma: jax.Array  # float32 [], of the blur, in pixels of the view
    applied: jax.Array  # bool [4], whether to jitter, make gray, blur, flip


def per_image_keys(seed: int, epoch: int | jax.Array, indices: jax.Array) -> jax.Array:
    """Keys [b] of the images `indices`, int [b], in `epoch`, which may be traced.

    They depend on the image, not on its place in the batch or on its device.
    """
    epoch_key = jax.random.fold_in(jax.random.key(seed), epoch)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(epoch_key, indices)


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
        off, here and below. These three are for handwriting: small images that are
        not made smaller, see `warp`.
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
    adjustments, ranges = color_adjustments(jitter or (0, 0, 0, 0), images.shape[3])
    probabilities = (
        jitter_probability if adjustments else 0.0,
        grayscale if images.shape[3] == 3 else 0.0,
        blur,
        flip,
    )
    # Not a tenth of the side as in SimCLR, which is nothing in a small image: PIL's
    # blur, the one in the reference code, ends at about 3 sigma.
    radius = min(math.ceil(3 * blur_sigma[1]), size - 1)

    def view(key: jax.Array, image: jax.Array) -> jax.Array:
        chance = draw(
            key,
            image.shape[:2],
            crop_scale,
            crop_ratio,
            ranges,
            blur_sigma,
            probabilities,
        )
        parts = (
            lambda x: color_jitter(x, chance.order, chance.factors, adjustments),
            gray,
            lambda x: gaussian_blur(x, chance.sigma, radius),
            lambda x: x[:, :, ::-1],
        )
        if rotation or shear or stretch:
            matrix = warp_matrix(chance.warp, rotation, shear, stretch)
            planes = warp(image, size, chance.box, matrix)
        else:
            planes = resize(image, size, chance.box if crop_scale else None)
        for part in (0, 1, 2, 3) if jitter_first else (1, 0, 2, 3):
            if probabilities[part] > 0:
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


def draw(
    key: jax.Array,
    shape: tuple[int, int],
    crop_scale: Sequence[float],
    crop_ratio: Sequence[float],
    ranges: Sequence[tuple[float, float]],
    blur_sigma: Sequence[float],
    probabilities: Sequence[float],
) -> Chance:
    """Chance for an image of `shape` (H, W); `ranges`: of each adjustment's factor."""
    # Always as many numbers, so that switching one part off leaves the others alone.
    uniform = jax.random.uniform(key, (2, CROP_TRIES + 10))
    boxes, colors, rest = jnp.split(uniform, (CROP_TRIES + 1, CROP_TRIES + 5), axis=1)
    box = jnp.array((0, 0, *shape), jnp.float32)
    if crop_scale:
        box = crop_box(boxes, shape, crop_scale, crop_ratio)
    order = jnp.argsort(colors[0, : len(ranges)])
    low, high = jnp.array(ranges, jnp.float32).reshape(-1, 2).T
    factors = (low + (high - low) * colors[1, : len(ranges)])[order]
    sigma = blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * rest[0, 2]
    applied = rest[:, :2].reshape(4) < jnp.array(probabilities, jnp.float32)
    warp = 2 * rest[:, 3:].reshape(4) - 1
    return Chance(box, warp, order, factors, sigma, applied)


def crop_box(
    uniform: jax.Array,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> jax.Array:
    """float32 [4], top, left, height, width: RandomResizedCrop with real numbers.

    Area uniform in `scale` * H * W, width / height log-uniform in `ratio`; the first
    try that fits into `shape` (H, W), anywhere in it; if none does, the largest central
    box within `ratio`. `uniform` [2, tries + 1], in [0, 1): tries, then the position.

    torchvision rounds to whole pixels, which on 8x8 images leaves few different crops:
    on digits, kNN of the trained encoder was 3 points lower with them.
    """
    height, width = shape
    area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[0, :-1])
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** uniform[1, :-1]
    # The central box is one more try, which always fits.
    heights = jnp.append(jnp.sqrt(area / ratios), min(height, width / ratio[0]))
    widths = jnp.append(jnp.sqrt(area * ratios), min(width, height * ratio[1]))
    extents = jnp.stack([heights, widths])
    limits = jnp.array(shape, jnp.float32)
    fits = jnp.all(extents <= limits[:, None], axis=0)
    first = jnp.argmax(fits)
    free = limits - extents[:, first]
    place = jnp.where(first == len(fits) - 1, 0.5, uniform[:, -1])
    return jnp.concatenate([place * free, extents[:, first]])


def resize(image: jax.Array, size: int, box: jax.Array | None = None) -> jax.Array:
    """Planes [C, size, size] of the part `box`, [4], of a uint8 [H, W, C].

    PIL's `image.crop(box).resize(..., BILINEAR)`, torchvision's with antialias: pixels
    outside the box have no influence. None is the whole image.
    """
    height, width, _ = image.shape
    pixels = image.astype(jnp.float32)
    if box is None and height == width == size:
        return jnp.moveaxis(pixels, -1, 0) / 255
    top, left, box_height, box_width = (0, 0, height, width) if box is None else box
    rows = resize_matrix(top, box_height, height, size)
    columns = resize_matrix(left, box_width, width, size)
    planes = jnp.einsum("sh,hwc,tw->cst", rows, pixels, columns, precision=PRECISION)
    return planes / 255


def warp(image: jax.Array, size: int, box: jax.Array, matrix: jax.Array) -> jax.Array:
    """Planes [C, size, size] of the part `box`, [4], of a uint8 [H, W, C], warped.

    The point p of the box, (y, x) from the middle of the image, shows what lies at
    `matrix` @ p, [2, 2]: bilinear between pixels, black outside of the image. Without
    antialiasing: for boxes that are not much larger than `size`.
    """
    top, left, box_height, box_width = box
    middle = jnp.array(image.shape[:2]) / 2
    steps = jnp.arange(0.5, size) / size
    y, x = jnp.meshgrid(
        top + steps * box_height, left + steps * box_width, indexing="ij"
    )
    points = jnp.tensordot(matrix, jnp.stack([y - middle[0], x - middle[1]]), 1)
    # The middle of the first pixel is 0.5 here, and 0 to map_coordinates.
    y, x = points + middle[:, None, None] - 0.5
    planes = jnp.moveaxis(image.astype(jnp.float32), -1, 0)
    sample = partial(map_coordinates, order=1, mode="constant", cval=0.0)
    return jnp.stack([sample(plane, (y, x)) for plane in planes]) / 255


def warp_matrix(
    warp: jax.Array, rotation: float, shear: float, stretch: float
) -> jax.Array:
    """float32 [2, 2]: stretch, then shear, then rotation, each as far as `warp` says.

    `warp`, [4], is in [-1, 1], in parts of the largest `rotation`, `shear` and, twice,
    `stretch`, as in `augment`.
    """
    angle = jnp.deg2rad(rotation * warp[0])
    turn = jnp.array(
        [[jnp.cos(angle), jnp.sin(angle)], [-jnp.sin(angle), jnp.cos(angle)]]
    )
    lean = jnp.array([[1.0, 0.0], [shear * warp[1], 1.0]])
    grow = jnp.diag((1 + stretch) ** warp[2:])
    return turn @ lean @ grow


def resize_matrix(
    start: int | jax.Array, length: int | jax.Array, in_size: int, out_size: int
) -> jax.Array:
    """Weights [out_size, in_size] of the pixels that overlap start .. start + length.

    A triangle that reaches as far as one pixel, of the input or of the output (the
    larger one), cut at the ends of the range and scaled to sum to 1.
    """
    start, length = (jnp.asarray(x, jnp.float32) for x in (start, length))
    scale = length / out_size
    centers = (jnp.arange(0.5, out_size) * scale)[:, None]
    pixels = (jnp.arange(0.5, in_size) - start)[None]
    overlaps = (pixels > -0.5) & (pixels < length + 0.5)
    weights = 1 - jnp.abs(centers - pixels) / jnp.maximum(scale, 1.0)
    weights = jnp.where(overlaps, jnp.maximum(weights, 0.0), 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def gray(image: jax.Array) -> jax.Array:
    """The one gray plane [1, height, width] of planes [C, height, width]."""
    if image.shape[0] == 1:
        return image
    red, green, blue = image
    return (GRAY[0] * red + GRAY[1] * green + GRAY[2] * blue)[None]


def adjust_brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Planes blended with black, as torchvision."""
    return jnp.clip(factor * image, 0.0, 1.0)


def adjust_contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Planes blended with the mean of their gray plane, as torchvision."""
    return jnp.clip(factor * image + (1 - factor) * jnp.mean(gray(image)), 0.0, 1.0)


def adjust_saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Planes blended with their gray plane, as torchvision."""
    return jnp.clip(factor * image + (1 - factor) * gray(image), 0.0, 1.0)


def adjust_hue(image: jax.Array, shift: jax.Array) -> jax.Array:
    """Turns the hue by `shift` of a full circle: RGB -> HSV -> RGB in closed form.

    chroma = largest - smallest; with k = (n + 6 hue) mod 6, n = 5, 3, 1 for red, green,
    blue, a channel is largest - chroma * clip(min(k, 4 - k), 0, 1).
    """
    red, green, blue = image
    largest = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = largest - jnp.minimum(jnp.minimum(red, green), blue)
    divisor = jnp.where(chroma == 0, 1.0, chroma)  # gray has no hue: any will do
    sixths = jnp.where(
        largest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
    )
    sixths = jnp.where(largest == red, (green - blue) / divisor, sixths) + 6 * shift

    def channel(offset: float) -> jax.Array:
        k = sixths + offset
        k -= 6 * jnp.floor(k / 6)  # jnp.mod made the jitter 12 times slower on CPU
        return largest - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)])


def color_adjustments(strengths: Sequence[float], channels: int) -> tuple[tuple, tuple]:
    """The adjustments that are on, and the (low, high) of the factor of each.

    torchvision's ColorJitter: brightness, contrast and saturation by a factor uniform
    in [max(0, 1 - strength), 1 + strength], hue by one in [-strength, strength].
    """
    functions = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]]
    ranges.append((-strengths[3], strengths[3]))
    on = [i for i in range(4 if channels == 3 else 2) if strengths[i] > 0]
    return tuple(functions[i] for i in on), tuple(ranges[i] for i in on)


def color_jitter(
    image: jax.Array, order: jax.Array, factors: jax.Array, adjustments: Sequence
) -> jax.Array:
    """Applies adjustments[order[i]] with factors[i], for i = 0 .. n - 1.

    Under `vmap` a step computes all adjustments and selects one: 1.2 ms for an image of
    224 x 224 x 3 on one core. Unrolled it was 4 to 30 ms, as XLA then recomputes steps.
    """

    def step(image: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple:
        index, factor = now
        return lax.switch(index, adjustments, image, factor), None

    return lax.scan(step, image, (order, factors))[0]


def gaussian_blur(image: jax.Array, sigma: jax.Array, radius: int) -> jax.Array:
    """Gaussian of `sigma` pixels, cut beyond `radius` pixels, as torchvision's.

    Edges are reflected without repeating the edge pixel; radius < height = width.
    """
    weights = blur_matrix(sigma, image.shape[1], radius)
    return jnp.einsum("sh,chw,tw->cst", weights, image, weights, precision=PRECISION)


def blur_matrix(sigma: jax.Array, size: int, radius: int) -> jax.Array:
    """Weights [size, size] of the blur, the reflected edges folded in."""
    here, there = jnp.arange(0.0, size)[:, None], jnp.arange(0.0, size)[None]

    def weigh(distance: jax.Array, exists: jax.Array) -> jax.Array:
        near = exists & (jnp.abs(distance) <= radius)
        return jnp.where(near, jnp.exp(-0.5 * jnp.square(distance / sigma)), 0.0)

    # A pixel p is also seen at -p and at 2 (size - 1) - p; the edges are seen once.
    weights = weigh(here - there, there >= 0)
    weights += weigh(here + there, there > 0)
    weights += weigh(here + there - 2 * (size - 1), there < size - 1)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


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
