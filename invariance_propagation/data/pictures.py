"""Picture files: from bytes to pixels, as Pillow shows them, at the decoder's speed."""

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from invariance_propagation.data.geometry import CROP_TRIES
from invariance_propagation.errors import TrainingError

# Of the shorter side, as torchvision's Resize(256) and CenterCrop(224).
CENTRAL = 224 / 256
JPEG = b"\xff\xd8"
EXIF_WITHIN = 4096  # bytes from the start of a JPEG; cameras write it first
cv2.setNumThreads(0)  # each picture has a thread of its own already


class Pictures:
    """Encoded pictures that are decoded when they are looked at.

    A slice of it is what evaluation looks at, uint8 [n, size, size, 3]: the middle of
    each picture. An image's index is its place in `ids`.
    """

    def __init__(
        self,
        ids: Sequence[str],
        content: Callable[[int], bytes],
        *,
        size: int,
        where: str,
    ):
        """`content` reads the picture of an index; `where` says, to people, from."""
        self.ids, self.content, self.size, self.where = ids, content, size, where
        self.shape, self.dtype = (len(ids), size, size, 3), np.dtype(np.uint8)
        self.nbytes = 0  # nothing is kept

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> np.ndarray:
        def middle(index: int) -> np.ndarray:
            return central_crop(self.read(index), self.size)

        # Decoders release Python's lock.
        with ThreadPoolExecutor() as pool:
            views = list(pool.map(middle, range(len(self))[rows]))
        return np.stack(views) if views else np.empty((0, *self.shape[1:]), np.uint8)

    def first(self, count: int) -> "Pictures":
        """The first so many of them."""
        return Pictures(
            self.ids[:count], self.content, size=self.size, where=self.where
        )

    def take(self, rows: np.ndarray) -> "Pictures":
        """These of them, int [m], in this order."""
        places = [int(i) for i in rows]
        return Pictures(
            [self.ids[i] for i in places],
            lambda index: self.content(places[index]),
            size=self.size,
            where=self.where,
        )

    def read(self, index: int) -> np.ndarray:
        """uint8 [H, W, 3].

        Raises:
          TrainingError: the picture cannot be read or decoded.
        """
        try:
            return decode(self.content(index))
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.ids[index]} cannot be used ({error}): mend or remove it from "
                f"{self.where}; --config.task=scan lists all such pictures"
            ) from error


def decode(content: bytes) -> np.ndarray:
    """uint8 [H, W, 3] of a picture file, turned as its EXIF says, over white.

    Raises:
      ValueError, OSError: it is no picture, or damaged.
    """
    # Where a JPEG is turned or damaged, Pillow knows what to do or to say.
    if content.startswith(JPEG) and b"Exif" not in content[:EXIF_WITHIN]:
        try:
            return simplejpeg.decode_jpeg(content, "RGB")
        except ValueError:
            pass
    with Image.open(io.BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the last
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))


def random_crop(
    image: np.ndarray,
    size: int,
    scale: Sequence[float],
    ratio: Sequence[float],
    random: np.random.Generator,
) -> np.ndarray:
    """torchvision's RandomResizedCrop: uint8 [H, W, C] -> [size, size, C]."""
    top, left, height, width = crop_box(random, image.shape[:2], scale, ratio)
    return resize(image[top : top + height, left : left + width], size)


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle square, 7/8 of the shorter side: uint8 [H, W, C] -> [size, size, C]."""
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * CENTRAL))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def crop_box(
    random: np.random.Generator,
    shape: tuple[int, int],
    scale: Sequence[float],
    ratio: Sequence[float],
) -> tuple[int, int, int, int]:
    """Top, left, height, width in whole pixels, as torchvision draws them."""
    rows, columns = shape
    area = rows * columns * random.uniform(*scale, CROP_TRIES)
    ratios = np.exp(random.uniform(*np.log(ratio), CROP_TRIES))
    place = random.uniform(size=2)
    heights, widths = np.rint(np.sqrt(area / ratios)), np.rint(np.sqrt(area * ratios))
    fits = (0 < heights) & (heights <= rows) & (0 < widths) & (widths <= columns)
    if fits.any():
        first = np.argmax(fits)
        height, width = int(heights[first]), int(widths[first])
        top, left = place * (rows - height + 1, columns - width + 1)
        return int(top), int(left), height, width
    height = min(rows, round(columns / ratio[0]))
    width = min(columns, round(rows * ratio[1]))
    return (rows - height) // 2, (columns - width) // 2, height, width


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, C] -> [size, size, C], whatever the shape."""
    # Bilinear from OpenCV looks at four pixels: beyond a factor of two it skips some.
    much_smaller = min(image.shape[:2]) > 2 * size
    how = cv2.INTER_AREA if much_smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)
