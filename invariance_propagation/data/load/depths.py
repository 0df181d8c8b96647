"""Converts every mode and depth of Pillow to 8 bits per colour, or says why not."""

from typing import NamedTuple

import numpy as np
from PIL import Image

# Cameras and scanners with 10, 12 or 14 bits store their values unscaled in 16 bits, and
# the file does not say so. Only a value above this one proves that all 16 bits are used.
FOURTEEN_BITS = 2**14 - 1
MIN_IS_WHITE = 0  # PhotometricInterpretation of TIFF
BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
UNSIGNED, SIGNED = 1, 2


class Depth(NamedTuple):
    """What a file declares about its values.

    Attributes:
      bits: of a sample; 0 if the value of white is unknown (floats, 32 bits, signed).
      declared: whether the file states the value of white, so that a dark picture is
        known to be dark.
      reversed: whether 0 is white and Pillow leaves it so.
      transparent: the transparent colour on Pillow's scale; None if there is none.
      unsigned: whether the 32 bits of a sample are unsigned; Pillow reads them as signed.
    """

    bits: int = 8
    declared: bool = True
    reversed: bool = False
    transparent: object = None
    unsigned: bool = False


def depth_of(image: Image.Image) -> Depth:
    """Returns what the file of an image declares; Pillow must not have loaded the pixels.

    Loading them makes Pillow forget it.

    Raises:
      ValueError: Pillow would read other values than the file has.
    """
    mode, transparent = image.mode, image.info.get("transparency")
    args = image.tile[0][3] if getattr(image, "tile", None) else ""
    args = args if isinstance(args, tuple) else (args,)
    raw = str(args[0]) if args else ""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    kinds = tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    if mode in ("I", "F") or mode.startswith("I;16"):
        reverse = tags.get(PHOTOMETRIC) == MIN_IS_WHITE
        if raw == "I;12":
            return Depth(12, True, reverse)
        if image.format == "PPM" and mode == "I":
            # Pillow scales the declared maximum to 65535.
            return Depth(16, raw != "I;16B" and args[1] < 65535)
        sixteen = mode.startswith("I;16") or raw.startswith("I;16")
        signed = mode == "F" or raw.endswith("S")
        bits = 16 if sixteen and not signed else 0
        unsigned = mode == "I" and tags.get(BITS) == (32,) and kinds == (UNSIGNED,)
        return Depth(bits, False, reverse, transparent, unsigned)
    if SIGNED in kinds:
        raise ValueError("its values are signed: convert it to unsigned 8 bits")
    if max(tags.get(BITS, (8,))) > 8 and ";16" not in raw:
        raise ValueError(
            "its colours have 16 bits in separate planes, which Pillow takes for 8: "
            "convert it to 8 bits"
        )
    deep = ";16" in raw or (image.format == "PPM" and args[1:] == (65535,))
    # Pillow scales the samples, but not the transparent colour.
    if deep and isinstance(transparent, tuple):
        transparent = tuple(value >> 8 for value in transparent)
    elif raw in ("L;2", "L;4") and isinstance(transparent, int):
        transparent *= {"L;2": 85, "L;4": 17}[raw]
    return Depth(16 if deep else 8, not deep, False, transparent)


def to_rgb(image: Image.Image, depth: Depth, *, stretch: bool) -> np.ndarray:
    """Converts an image of any mode of Pillow to RGB; transparent pixels become white.

    Args:
      image: the image.
      depth: as from `depth_of`.
      stretch: whether to stretch a picture of unknown depth, so that its darkest value
        becomes black and its lightest white; False refuses it.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: the depth is unknown and `stretch` is False.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.stack([_grey(image, depth, stretch)] * 3, axis=-1)
    if depth.bits == 16:
        _check_colors(image)
    if depth.transparent is not None:
        image.info["transparency"] = depth.transparent
    if image.has_transparency_data:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _grey(image: Image.Image, depth: Depth, stretch: bool) -> np.ndarray:
    """Converts an image of one channel with more than 8 bits to uint8 [H, W]."""
    levels = np.asarray(image)
    if depth.unsigned:
        levels = levels.view(np.uint32)
    low, high = levels.min(), levels.max()
    known = depth.declared or high > FOURTEEN_BITS or low == high == 0
    if depth.bits and known:
        pixels = (levels >> (depth.bits - 8)).astype(np.uint8)
    elif not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("some of its values are infinite or no numbers")
    elif stretch:
        span = max(float(high) - float(low), np.finfo(np.float64).tiny)
        shares = (levels.astype(np.float64) - float(low)) / span
        pixels = np.rint(255 * shares).astype(np.uint8)
    else:
        kind = f"{depth.bits} bits" if depth.bits else f"Pillow's mode {image.mode}"
        raise ValueError(
            f"its values go from {low:,.7g} to {high:,.7g} in {kind}, which does not tell "
            "what is white: convert it to 8 bits, or train with "
            "--config.data.stretch_depth=True, which makes the darkest value of each such "
            "picture black and its lightest white"
        )
    if depth.reversed:
        pixels = 255 - pixels
    if isinstance(depth.transparent, int):
        pixels[levels == depth.transparent] = 255
    return pixels


def _check_colors(image: Image.Image) -> None:
    """Refuses 16-bit colours that may use fewer bits; Pillow keeps the upper 8 bits."""
    bands = [band for band in image.getbands() if band not in ("A", "a")]
    highest = max(image.getchannel(band).getextrema()[1] for band in bands)
    if highest <= (FOURTEEN_BITS + 1) >> 8:  # Pillow rounds PPM up
        raise ValueError(
            "no value in its 16 bits is above a quarter, as if they were 14 or fewer, "
            "which does not tell what is white: convert it to 8 bits"
        )
