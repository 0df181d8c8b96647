"""Draws everything random in a view, as a function of (seed, epoch, image index).

JAX on a device (`augment`) and NumPy on the host (`threefry`) make the same uniform
numbers, bit for bit. `draw` turns arrays of either into random choices.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from invariance_propagation.data.views.color import jitter_ranges
from invariance_propagation.data.views.geometry import CROP_TRIES
from invariance_propagation.data.views.options import Augmentation

# The shape is fixed, so that switching one part off does not change the others.
NUMBERS = (2, CROP_TRIES + 10)


class Odds(NamedTuple):
    """The ranges and probabilities that `draw` uses; static."""

    adjustments: tuple[str, ...]  # names, as in `color`
    ranges: tuple[tuple[float, float], ...]  # (low, high) of the factor of each
    blur_sigma: Sequence[float]  # (low, high)
    # [5], to jitter, to make grey, to blur, to flip, to solarize.
    probabilities: tuple[float, ...]


class Chance(NamedTuple):
    """The random choices for one view or, with a leading axis b, for b views.

    The crop is not among them: it depends on the shape of the image too, see `crop_box`.
    """

    warp: jax.Array | np.ndarray  # float32 [4], in [-1, 1], see `warp_matrix`
    order: jax.Array | np.ndarray  # int [n], which of the n adjustments comes when
    factors: jax.Array | np.ndarray  # float32 [n], their factors, in order of use
    sigma: jax.Array | np.ndarray  # float32 [], of the blur, in pixels of the view
    applied: jax.Array | np.ndarray  # bool [5], which of `Odds.probabilities` came true


def make_odds(channels: int, options: Augmentation) -> Odds:
    """Returns the odds for images of C `channels`."""
    strengths = options.jitter or (0, 0, 0, 0)
    adjustments, ranges = jitter_ranges(strengths, channels)
    probabilities = (
        options.jitter_probability if adjustments else 0.0,
        options.grayscale if channels == 3 else 0.0,
        options.blur,
        options.flip,
        options.solarize,
    )
    return Odds(adjustments, ranges, options.blur_sigma, probabilities)


def draw(uniform: jax.Array | np.ndarray, odds: Odds) -> Chance:
    """Draws the choices for one view or several from uniform numbers [..., *NUMBERS]."""
    xp = uniform.__array_namespace__()
    colors = uniform[..., CROP_TRIES + 1 : CROP_TRIES + 5]
    rest = uniform[..., CROP_TRIES + 5 :]
    count = len(odds.ranges)
    order = xp.argsort(colors[..., 0, :count])
    low, high = xp.asarray(odds.ranges, dtype=xp.float32).reshape(-1, 2).T
    factors = low + (high - low) * colors[..., 1, :count]
    factors = xp.take_along_axis(factors, order, axis=-1)
    low, high = odds.blur_sigma
    sigma = low + (high - low) * rest[..., 0, 2]
    tosses = xp.concat([rest[..., 0, :2], rest[..., 1, :3]], axis=-1)
    applied = tosses < xp.asarray(odds.probabilities, dtype=xp.float32)
    warp = 2 * xp.concat([rest[..., 0, 3:], rest[..., 1, 3:]], axis=-1) - 1
    return Chance(warp, order, factors, sigma, applied)
