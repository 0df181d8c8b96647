"""Picture files: from bytes to pixels, as Pillow shows them, at the decoder's speed."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from invariance_propagation.data.geometry import crop_box
from invariance_propagation.errors import TrainingError

# Of the shorter side, as torchvision's Resize(256) and CenterCrop(224).
CENTRAL = 224 / 256
JPEG = b"\xff\xd8"
EXIF_WITHIN = 4096  # bytes from the start of a JPEG; cameras write it first
cv2.setNumThreads(0)  # each picture has a thread of its own already


class Chosen(NamedTuple):
    """Reads the picture of an index, the number of which among all is in `places`."""

    content: Callable[[int], bytes]
    places: Sequence[int]

    def __call__(self, index: int) -> bytes:
        return self.content(self.places[index])

    def mark(self, index: int) -> bytes:
        """As `Pictures.mark`."""
        return self.content.mark(self.places[index])


class Pictures:
    """Encoded pictures that are decoded when they are looked at.

    A slice of it is what evaluation looks at, uint8 [n, size, size, 3]: the middle of
    each picture. An image's index is its place in `ids`.

    Attributes:
      share: of the shorter side, that evaluation looks at; 1 of a square is all of it.
    """

    def __init__(
        self,
        ids: Sequence[str],
        content: Callable[[int], bytes],
        *,
        size: int,
        where: str,
        share: float = CENTRAL,
    ):
        """`content` reads the picture of an index; `where` says, to people, from."""
        self.ids, self.content, self.size, self.where = ids, content, size, where
        self.share = share
        self.shape, self.dtype = (len(ids), size, size, 3), np.dtype(np.uint8)
        self.nbytes = 0  # nothing is kept

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> np.ndarray:
        def middle(index: int) -> np.ndarray:
            return central_crop(self.read(index), self.size, share=self.share)

        # Decoders release Python's lock.
        with ThreadPoolExecutor() as pool:
            views = list(pool.map(middle, range(len(self))[rows]))
        return np.stack(views) if views else np.empty((0, *self.shape[1:]), np.uint8)

    def take(self, rows: np.ndarray) -> "Pictures":
        """These of them, int [m], in this order."""
        places = [int(i) for i in rows]
        ids, content = [self.ids[i] for i in places], Chosen(self.content, places)
        own = {"size": self.size, "where": self.where, "share": self.share}
        return Pictures(ids, content, **own)

    def mark(self, index: int) -> bytes:
        """What decides whether a picture of that name is still the same one."""
        return self.content.mark(index)

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
    try:
        opened = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        # Pillow's own words name an address in memory.
        raise ValueError("it is no picture that Pillow knows") from error
    with opened as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, of which Pillow would keep the last
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return np.asarray(image.convert("RGB"))


def crops(
    images: Iterable[np.ndarray],
    uniform: np.ndarray,
    *,
    size: int,
    crop_scale: Sequence[float],
    crop_ratio: Sequence[float],
) -> Iterator[np.ndarray]:
    """torchvision's RandomResizedCrop: each uint8 [H, W, C] -> [size, size, C].

    Args:
      images: n of them, of any shapes.
      uniform: float32 [n, *NUMBERS], of which `crop_box` makes boxes.
      size, crop_scale, crop_ratio: as in `augment`.
    """
    for image, numbers in zip(images, uniform, strict=True):
        if crop_scale:
            box = crop_box(numbers, image.shape[:2], crop_scale, crop_ratio)
            top, left, height, width = whole_box(box, image.shape[:2])
            image = image[top : top + height, left : left + width]
        yield resize(image, size)


def central_crop(image: np.ndarray, size: int, *, share: float = CENTRAL) -> np.ndarray:
    """The middle square, 7/8 of the shorter side: uint8 [H, W, C] -> [size, size, C].

    `share` is another part of it.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def whole_box(box: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of `crop_box` in whole pixels, at least one, inside of `shape` (H, W)."""
    top, left, height, width = map(round, box.tolist())
    height, width = max(height, 1), max(width, 1)
    return min(top, shape[0] - height), min(left, shape[1] - width), height, width


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, C] -> [size, size, C], whatever the shape."""
    # Bilinear from OpenCV looks at four pixels: beyond a factor of two it skips some.
    much_smaller = min(image.shape[:2]) > 2 * size
    how = cv2.INTER_AREA if much_smaller else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=how)
