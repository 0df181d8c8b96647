"""Oracle of the augmentation: plain NumPy in float64, one pixel after another.

Each function follows the definition in torchvision's and PIL's documentation. Images
are float [height, width, C] in [0, 1]; nothing is shared with the package.
"""

import colorsys

import numpy as np


def luminance(image: np.ndarray) -> np.ndarray:
    """[height, width]: PIL's mode L, L = (299 R + 587 G + 114 B) / 1000."""
    if image.shape[2] == 1:
        return image[:, :, 0]
    return (299 * image[..., 0] + 587 * image[..., 1] + 114 * image[..., 2]) / 1000


def grayscale(image: np.ndarray) -> np.ndarray:
    return np.stack([luminance(image)] * image.shape[2], axis=2)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image, 0, 1)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * luminance(image).mean(), 0, 1)


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * grayscale(image), 0, 1)


def solarize(image: np.ndarray) -> np.ndarray:
    """PIL's ImageOps.solarize: levels from 128 of 255 on become 255 minus themselves."""
    result = np.empty(image.shape)
    for position, value in np.ndenumerate(image):
        is_light = round(255 * value) >= 128
        result[position] = (255 - 255 * value) / 255 if is_light else value
    return result


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    result = np.empty(image.shape)
    for position in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[position])
        result[position] = colorsys.hsv_to_rgb((h + shift) % 1.0, s, v)
    return result


def filter_row(line: np.ndarray, start: float, length: float, size: int) -> np.ndarray:
    """Antialiased bilinear resize of a part of [n, ...] to [size, ...].

    As PIL's Resample.c does after a crop: each output pixel is the mean of the pixels
    that overlap the part and whose centres are nearer than the support, weighted by a
    triangle. PIL's crops begin and end between pixels, ours anywhere.
    """
    scale = length / size
    support = max(scale, 1.0)
    result = np.zeros((size, *line.shape[1:]))
    for i in range(size):
        center, total = start + (i + 0.5) * scale, 0.0
        for j in range(len(line)):
            if j + 1 <= start or j >= start + length:
                continue
            weight = max(0.0, 1 - abs((j + 0.5 - center) / support))
            result[i] += weight * line[j]
            total += weight
        result[i] /= total
    return result


def resized_crop(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """torchvision's resized_crop: first the crop, then the resize."""
    top, left, height, width = (float(x) for x in box)
    rows = filter_row(image, top, height, size)
    return filter_row(rows.swapaxes(0, 1), left, width, size).swapaxes(0, 1)


def smoothed(image: np.ndarray, down: float, across: float) -> np.ndarray:
    """Each pixel averaged by tents that reach `down` and `across` pixels, 1 or more."""
    down, across = max(1.0, down), max(1.0, across)
    result = np.zeros(image.shape)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            total = 0.0
            for row in range(image.shape[0]):
                for column in range(image.shape[1]):
                    tent = max(0.0, 1 - abs(row - i) / down)
                    tent *= max(0.0, 1 - abs(column - j) / across)
                    result[i, j] += tent * image[row, column]
                    total += tent
            result[i, j] /= total
    return result


def warped_crop(
    image: np.ndarray, box: np.ndarray, matrix: np.ndarray, size: int
) -> np.ndarray:
    """The crop of a box, each point taken from `matrix` @ point, on a black ground.

    Points are (y, x) from the middle of the image; a pixel is a tent around its
    middle, as high as it is bright. Where the crop shrinks, each pixel is first
    averaged with those around it, weighted by a tent as wide as the crop shrinks.
    """
    top, left, height, width = (float(x) for x in box)
    image = smoothed(image, height / size, width / size)
    middle = np.array(image.shape[:2]) / 2
    result = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            point = top + (i + 0.5) * height / size, left + (j + 0.5) * width / size
            y, x = np.array(matrix) @ (np.array(point) - middle) + middle
            for row in range(image.shape[0]):
                for column in range(image.shape[1]):
                    tent = max(0.0, 1 - abs(row + 0.5 - y))
                    tent *= max(0.0, 1 - abs(column + 0.5 - x))
                    result[i, j] += tent * image[row, column]
    return result


def gaussian_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """torchvision's gaussian_blur with kernel 2 * radius + 1, padding 'reflect'."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    height, width, _ = image.shape
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    result = np.zeros(image.shape)
    for dy, weight_y in enumerate(taps):
        for dx, weight_x in enumerate(taps):
            result += weight_y * weight_x * padded[dy : dy + height, dx : dx + width]
    return result


def crop_box(
    uniform: np.ndarray,
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[float, float, float, float]:
    """torchvision's RandomResizedCrop.get_params, unrounded, from given numbers.

    `uniform` [2, tries + 1]: area and ratio of each try, then the position.
    """
    height, width = shape
    for area, log_ratio in uniform[:, :-1].T:
        target = height * width * (scale[0] + (scale[1] - scale[0]) * area)
        low, high = np.log(ratio)
        aspect = np.exp(low + (high - low) * log_ratio)
        w, h = (target * aspect) ** 0.5, (target / aspect) ** 0.5
        if w <= width and h <= height:
            top = uniform[0, -1] * (height - h)
            left = uniform[1, -1] * (width - w)
            return top, left, h, w
    h, w = height, width
    if width / height < min(ratio):
        h = width / min(ratio)
    elif width / height > max(ratio):
        w = height * max(ratio)
    return (height - h) / 2, (width - w) / 2, h, w


def color_jitter(
    image: np.ndarray, names: list[str], factors: np.ndarray
) -> np.ndarray:
    """The adjustments `names`, one after the other."""
    adjustments = {
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    for name, factor in zip(names, factors, strict=True):
        image = adjustments[name](image, float(factor))
    return image
