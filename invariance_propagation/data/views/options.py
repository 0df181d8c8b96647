"""The options of a random view, which the device's and the host's functions share."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Options of a random view.

    The parts are, in order: resized crop, jitter, grayscale, blur, solarize, flip.
    Without solarize they are those of MoCo v2, and of ImageNet with `--blur` in the
    authors' code (WangFeng18/InvariancePropagation); with it, those of BYOL.

    Attributes:
      size: height and width of the views, in pixels.
      crop_scale: (low, high) share of the area to crop; (): only resize, if needed.
      crop_ratio: (low, high) width / height of the crop.
      rotation: largest angle, in degrees, by which the image turns either way; 0 turns
        this option off, and the next two as well. These three are for handwriting.
      shear: largest slope by which the image leans either way, in pixels per row.
      stretch: largest factor minus 1 by which the image grows or shrinks, separately in
        each direction.
      flip: probability of a horizontal flip.
      jitter: strengths of brightness, contrast, saturation, hue; () is off.
      jitter_probability: probability of the jitter as a whole.
      grayscale: probability of removing the colour.
      blur: probability of a Gaussian blur.
      blur_sigma: (low, high) standard deviation of the blur, in pixels of the view.
      solarize: probability of inverting the light half of all values.
      jitter_first: False: grayscale before jitter, as in InstDisc, MoCo v1 and the
        authors' code without `--blur`.
    """

    size: int
    crop_scale: Sequence[float]
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3)
    rotation: float = 0.0
    shear: float = 0.0
    stretch: float = 0.0
    flip: float
    jitter: Sequence[float]
    jitter_probability: float
    grayscale: float
    blur: float
    blur_sigma: Sequence[float] = (0.1, 2.0)
    solarize: float = 0.0
    jitter_first: bool = True

    @property
    def warps(self) -> bool:
        """Whether views are rotated, sheared or stretched."""
        return bool(self.rotation or self.shear or self.stretch)

    @property
    def part_order(self) -> tuple[int, ...]:
        """The order of the parts of `Odds.probabilities`."""
        return (0, 1, 2, 4, 3) if self.jitter_first else (1, 0, 2, 4, 3)
