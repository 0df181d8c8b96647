"""Mixtures of Un-Mix in plain NumPy: float64, a loop for each pixel, from the specification alone.

The box is that of the authors' code, szq0214/Un-Mix at commit 0911f77: utils.py:6-18 for
its sides and corners, unmix_c10.py:333-343 for what is pasted and the share that is left.
There the centre is drawn in whole pixels; here it is a share of each side, in [0, 1).
"""

import math

import numpy as np


def box(height: int, width: int, share: float, centre: tuple) -> tuple[range, range]:
    """The rows and columns of the box, inside of the image."""
    sides = []
    for size, place in zip((height, width), centre, strict=True):
        cut = int(size * math.sqrt(1 - share))
        middle = int(size * place)
        first, end = middle - cut // 2, middle + cut // 2
        sides.append(range(min(max(first, 0), size), min(max(end, 0), size)))
    return sides[0], sides[1]


def mix(
    views: np.ndarray, *, is_global: bool, share: float, centre: tuple
) -> tuple[np.ndarray, float]:
    """Mixes the whole batch [B, H, W, C] with its reverse; returns the share, too."""
    count, height, width, channels = views.shape
    mixed = np.zeros(views.shape, np.float64)
    rows, columns = box(height, width, share, centre)
    for b in range(count):
        own, other = views[b], views[count - 1 - b]
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    if is_global:
                        value = share * own[y, x, c] + (1 - share) * other[y, x, c]
                    else:
                        pasted = y in rows and x in columns
                        value = other[y, x, c] if pasted else own[y, x, c]
                    mixed[b, y, x, c] = value
    if not is_global:
        share = 1 - len(rows) * len(columns) / (height * width)
    return mixed, share
