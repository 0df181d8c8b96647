"""Makes views on the host by OpenCV, in 8 bits; the fastest way if a CPU is the device.

Random choices and operations are those of `augment`, but each operation rounds to whole
grey levels, as torchvision's do on PIL images. A function takes one image, uint8
[H, W, C] or [size, size, C].
"""

from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from invariance_propagation.data.views.chance import Chance, draw, make_odds
from invariance_propagation.data.views.color import GRAY
from invariance_propagation.data.views.geometry import (
    blur_radius,
    crop_box,
    resize_matrix,
    smoothing_matrix,
    warp_matrix,
)
from invariance_propagation.data.views.options import Augmentation
from invariance_propagation.settings import keywords_of

cv2.setNumThreads(0)  # images are already spread over threads
# Level by level, what `color.solarize` does.
SOLARIZED = np.concatenate([np.arange(128), 255 - np.arange(128, 256)]).astype(np.uint8)


@keywords_of(Augmentation)
def views(
    images: Iterable[np.ndarray],
    uniform: np.ndarray,
    *,
    channels: int,
    **options: Any,
) -> Iterator[np.ndarray]:
    """Makes one random view of each image, uint8 [size, size, C], not normalised.

    Args:
      images: n images, uint8 [H, W, C], of any shapes.
      uniform: float32 [n, *NUMBERS], as from `host_uniforms`.
      channels: C.
      **options: the fields of `Augmentation`.
    """
    chosen = Augmentation(**options)
    odds = make_odds(channels, chosen)
    adjustments = [ADJUST[name] for name in odds.adjustments]
    radius = blur_radius(chosen.blur_sigma, chosen.size)
    chances = map(Chance._make, zip(*draw(uniform, odds), strict=True))
    for image, numbers, chance in zip(images, uniform, chances, strict=True):
        image = _crop(image, numbers, chance, chosen)
        for part in chosen.part_order:
            if not chance.applied[part]:
                continue
            if part == 0:
                for index, factor in zip(chance.order, chance.factors, strict=True):
                    image = adjustments[index](image, float(factor))
            elif part == 1:
                image = gray(image)
            elif part == 2:
                image = gaussian_blur(image, float(chance.sigma), radius)
            elif part == 3:
                image = cv2.flip(image, 1)
            else:
                image = cv2.LUT(image, SOLARIZED)
        # OpenCV drops the axis of a single channel.
        yield image.reshape(chosen.size, chosen.size, channels)


def _crop(
    image: np.ndarray, uniform: np.ndarray, chance: Chance, options: Augmentation
) -> np.ndarray:
    """Crops, warps and resizes uint8 [H, W, C] to [size, size, C]."""
    size, shape = options.size, image.shape[:2]
    box = np.array((0, 0, *shape), np.float32)
    if options.crop_scale:
        box = crop_box(uniform, shape, options.crop_scale, options.crop_ratio)
    if options.warps:
        matrix = warp_matrix(
            chance.warp, options.rotation, options.shear, options.stretch
        )
        return warp(image, size, box, matrix)
    if options.crop_scale or shape != (size, size):
        return resize(image, size, box)
    return image


def resize(image: np.ndarray, size: int, box: np.ndarray) -> np.ndarray:
    """Resizes the part `box`, [4], of a small image, as `geometry.resize` does.

    The cost grows with the product of both sizes.
    """
    rows = resize_matrix(box[::2], image.shape[0], size)
    columns = resize_matrix(box[1::2], image.shape[1], size)
    pixels = columns @ np.tensordot(rows, image.astype(np.float32), 1)
    return np.rint(pixels).astype(np.uint8)


def warp(
    image: np.ndarray, size: int, box: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    """Warps the part `box`, [4], by `matrix`, [2, 2], as `geometry.warp` does."""
    middle = np.array(image.shape[:2], np.float32) / 2
    step = box[2:] / size
    # Pixel p = (y, x) of the view shows the point turn @ p + shift of the image.
    turn = matrix * step
    shift = matrix @ (box[:2] + step / 2 - middle) + middle - 0.5
    affine = np.column_stack([turn[::-1, ::-1], shift[::-1]])  # OpenCV counts (x, y)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if (step <= 1).all():
        return cv2.warpAffine(image, affine, (size, size), flags=how)
    rows, columns = map(smoothing_matrix, step, image.shape[:2])
    pixels = columns @ np.tensordot(rows, image.astype(np.float32), 1)
    pixels = cv2.warpAffine(pixels, affine, (size, size), flags=how)
    return np.rint(pixels).astype(np.uint8)


def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """Blurs as `geometry.gaussian_blur` does."""
    kernel = (2 * radius + 1, 2 * radius + 1)
    return cv2.GaussianBlur(image, kernel, sigma, borderType=cv2.BORDER_REFLECT_101)


def gray(image: np.ndarray) -> np.ndarray:
    """Removes the colour of an RGB image."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Does what `color.adjust_brightness` does."""
    return cv2.convertScaleAbs(image, alpha=factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Does what `color.adjust_contrast` does."""
    means = cv2.mean(image)
    mean = (
        means[0] if image.ndim < 3 or image.shape[2] == 1 else np.dot(GRAY, means[:3])
    )
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Does what `color.adjust_saturation` does."""
    blend = factor * np.eye(3) + (1 - factor) * np.array(GRAY)
    return cv2.transform(image, blend)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` of a full circle."""
    # In float32, because in 8 bits the steps of OpenCV's hue are 1.4 degrees.
    pixels = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    pixels[..., 0] += 360 * (
        shift % 1
    )  # OpenCV accepts hues above 360, but none below 0
    return cv2.convertScaleAbs(cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB))


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
