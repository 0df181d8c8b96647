"""Views made on the host, where a CPU is the device: `augment` by OpenCV, in 8 bits.

The same chance and the same operations, each rounded to whole gray levels, as
torchvision's are on PIL images. A function takes one image, uint8 [H, W, C] or
[size, size, C].
"""

from collections.abc import Iterable, Iterator, Sequence

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

cv2.setNumThreads(0)  # each image has a thread already


def views(
    images: Iterable[np.ndarray],
    uniform: np.ndarray,
    *,
    channels: int,
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
) -> Iterator[np.ndarray]:
    """One random view of each image, uint8 [size, size, C], not normalised.

    Args:
      images: n of them, uint8 [H, W, C], of any shapes.
      uniform: float32 [n, *NUMBERS], as from `host_uniforms`.
      channels: C.
      Others: as in `augment`.
    """
    odds = make_odds(
        channels,
        flip=flip,
        jitter=jitter,
        jitter_probability=jitter_probability,
        grayscale=grayscale,
        blur=blur,
        blur_sigma=blur_sigma,
    )
    adjustments = [ADJUST[name] for name in odds.adjustments]
    radius = blur_radius(blur_sigma, size)
    chances = map(Chance._make, zip(*draw(uniform, odds), strict=True))
    for image, numbers, chance in zip(images, uniform, chances, strict=True):
        box = np.array((0, 0, *image.shape[:2]), np.float32)
        if crop_scale:
            box = crop_box(numbers, image.shape[:2], crop_scale, crop_ratio)
        if rotation or shear or stretch:
            matrix = warp_matrix(chance.warp, rotation, shear, stretch)
            image = warp(image, size, box, matrix)
        elif crop_scale or image.shape[:2] != (size, size):
            image = resize(image, size, box)
        for part in (0, 1, 2, 3) if jitter_first else (1, 0, 2, 3):
            if not chance.applied[part]:
                continue
            if part == 0:
                for index, factor in zip(chance.order, chance.factors, strict=True):
                    image = adjustments[index](image, float(factor))
            elif part == 1:
                image = gray(image)
            elif part == 2:
                image = gaussian_blur(image, float(chance.sigma), radius)
            else:
                image = cv2.flip(image, 1)
        # OpenCV leaves out the axis of a single channel.
        yield image.reshape(size, size, channels)


def resize(image: np.ndarray, size: int, box: np.ndarray) -> np.ndarray:
    """The part `box`, [4], of a small image, as `geometry.resize`.

    Small, because its cost grows with the product of both sizes.
    """
    rows = resize_matrix(box[::2], image.shape[0], size)
    columns = resize_matrix(box[1::2], image.shape[1], size)
    pixels = columns @ np.tensordot(rows, image.astype(np.float32), 1)
    return np.rint(pixels).astype(np.uint8)


def warp(
    image: np.ndarray, size: int, box: np.ndarray, matrix: np.ndarray
) -> np.ndarray:
    """The part `box`, [4], warped by `matrix`, [2, 2], as `geometry.warp`."""
    middle = np.array(image.shape[:2], np.float32) / 2
    step = box[2:] / size
    # A pixel p of the view, (y, x), shows what lies at turn @ p + shift of the image.
    turn = matrix * step
    shift = matrix @ (box[:2] + step / 2 - middle) + middle - 0.5
    affine = np.column_stack([turn[::-1, ::-1], shift[::-1]])  # OpenCV's are (x, y)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    if (step <= 1).all():
        return cv2.warpAffine(image, affine, (size, size), flags=how)
    rows, columns = map(smoothing_matrix, step, image.shape[:2])
    pixels = columns @ np.tensordot(rows, image.astype(np.float32), 1)
    pixels = cv2.warpAffine(pixels, affine, (size, size), flags=how)
    return np.rint(pixels).astype(np.uint8)


def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    kernel = (2 * radius + 1, 2 * radius + 1)
    return cv2.GaussianBlur(image, kernel, sigma, borderType=cv2.BORDER_REFLECT_101)


def gray(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def adjust_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=factor)


def adjust_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    means = cv2.mean(image)
    mean = (
        means[0] if image.ndim < 3 or image.shape[2] == 1 else np.dot(GRAY, means[:3])
    )
    return cv2.addWeighted(image, factor, image, 0, (1 - factor) * mean)


def adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    blend = factor * np.eye(3) + (1 - factor) * np.array(GRAY)
    return cv2.transform(image, blend)


def adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    # In float32: in 8 bits OpenCV's hue is as coarse as 1.4 degrees.
    pixels = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    pixels[..., 0] += 360 * (shift % 1)  # beyond 360 will do, below 0 will not
    return cv2.convertScaleAbs(cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB))


ADJUST = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
