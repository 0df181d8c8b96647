"""Checks the options of views before anything is made with them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from invariance_propagation.errors import UserError

MOST_PIXELS = 8192  # of a side
# The largest value of each amount that starts at 0.
AMOUNTS = {"rotation": 180, "shear": 10, "stretch": 10}
CHANCES = ("flip", "jitter_probability", "grayscale", "blur", "solarize")


def check_view(options: Mapping[str, Any], *, section: str = "augment") -> None:
    """Checks that every option of a view is within its range.

    Args:
      options: all fields of `Augmentation`, `mean` and `std`; later fields may be missing.
      section: of the config that they are from, for the message.

    Raises:
      UserError: an option is out of its range.
    """
    key = f"--config.{section}"
    check_size(options["size"], key=f"{key}.")
    for name, most in AMOUNTS.items():
        value = options.get(name, 0.0)
        if not 0 <= value <= most:
            raise UserError(f"{key}.{name}={value}: set it from 0 to {most}")
    for name in CHANCES:
        value = options.get(name, 0.0)  # earlier versions had no solarize
        if not 0 <= value <= 1:
            raise UserError(
                f"{key}.{name}={value}: it is a probability; set it from 0 to 1"
            )
    check_crop_scale(section, options["crop_scale"])
    ratio = options.get("crop_ratio", (1.0, 1.0))
    if not _is_range(ratio):
        raise UserError(
            f"{key}.crop_ratio={ratio}: set the smallest and largest width / height of a "
            "crop, both above 0"
        )
    sigma = options.get("blur_sigma", (1.0, 1.0))
    if not _is_range(sigma):
        raise UserError(
            f"{key}.blur_sigma={sigma}: set the smallest and largest standard deviation "
            "of the blur in pixels, both above 0"
        )
    jitter = options.get("jitter", ())
    fits = len(jitter) == 4 and all(0 <= x < math.inf for x in jitter)
    if len(jitter) and not (fits and jitter[3] <= 0.5):
        raise UserError(
            f"{key}.jitter={jitter}: set the strengths of brightness, contrast, saturation "
            "and hue, 0 or above, the last up to 0.5; () switches jitter off"
        )
    check_statistics(options.get("mean", ()), options.get("std", ()), key=f"{key}.")


def check_crop_scale(section: str, scale: Sequence[float]) -> None:
    """Raises UserError for a bad range; `section` is the config's, for the message."""
    if len(scale) and not (_is_range(scale) and scale[1] <= 1):
        raise UserError(
            f"--config.{section}.crop_scale={scale}: set the smallest and largest share "
            "of the area, above 0 and up to 1; () switches crops off"
        )


def check_size(size: int, *, key: str = "") -> None:
    """Raises UserError for a bad size of views; `key` comes before it in the message."""
    if not 1 <= size <= MOST_PIXELS:
        raise UserError(f"{key}size={size}: set it from 1 to {MOST_PIXELS} pixels")


def check_statistics(
    mean: Sequence[float], std: Sequence[float], *, key: str = ""
) -> None:
    """Raises UserError if images cannot be normalised by `mean` and `std`.

    `key` comes before both names in the message.
    """
    if not all(math.isfinite(x) for x in mean):
        raise UserError(f"{key}mean={tuple(mean)}: give numbers, with white as 1")
    if not all(0 < x < math.inf for x in std):
        raise UserError(
            f"{key}std={tuple(std)}: give numbers above 0, with white as 1; images are "
            "divided by them"
        )


def _is_range(pair: Sequence[float]) -> bool:
    return len(pair) == 2 and 0 < pair[0] <= pair[1] < math.inf
