"""Pictures that are decoded on access, and the crops made from them."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from invariance_propagation.data.load.decoding import decode, reason_of
from invariance_propagation.data.views.geometry import crop_box
from invariance_propagation.errors import TrainingError

# Share of the shorter side in torchvision's Resize(256) and CenterCrop(224).
CENTRAL = 224 / 256
# Options that all pictures of a split share.
OPTIONS = ("size", "where", "stretch_depth", "share")


class Chosen(NamedTuple):
    """Reads some of the pictures of `content`: index i is its picture `places[i]`."""

    content: Callable[[int], bytes]
    places: Sequence[int]

    def __call__(self, index: int) -> bytes:
        return self.content(self.places[index])

    def mark(self, index: int) -> bytes:
        """Returns the mark of the picture in `content`."""
        return self.content.mark(self.places[index])

    def stamp(self, index: int) -> bytes:
        """Returns the stamp of the picture in `content`."""
        return _stamp_of(self.content, self.places[index])

    @property
    def marks_each(self) -> bool:
        """Whether pictures with different content have different marks."""
        return self.content.marks_each


class Pictures:
    """Encoded pictures that are decoded on access.

    A slice returns what evaluation shows, uint8 [n, size, size, 3]: the middle of each
    picture. An image's index is its place in `ids`.

    Attributes:
      share: the share of the shorter side that evaluation shows; 1 shows all of a square.
    """

    def __init__(
        self,
        ids: Sequence[str],
        content: Callable[[int], bytes],
        *,
        size: int,
        where: str,
        stretch_depth: bool = False,
        share: float = CENTRAL,
    ):
        """Decodes nothing yet.

        Args:
          ids: the name of each picture.
          content: reads the encoded picture of an index.
          size: height and width of the views, in pixels.
          where: tells people where the files are.
          stretch_depth: as in `decode`.
          share: see above.
        """
        self.ids, self.content, self.size, self.where = ids, content, size, where
        self.stretch_depth = stretch_depth
        self.share = share
        self.shape, self.dtype = (len(ids), size, size, 3), np.dtype(np.uint8)
        self.nbytes = 0  # no pixels are kept

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice) -> np.ndarray:
        def middle(index: int) -> np.ndarray:
            return central_crop(self.read(index), self.size, share=self.share)

        # Threads help, because decoders release Python's lock.
        with ThreadPoolExecutor() as pool:
            views = list(pool.map(middle, range(len(self))[rows]))
        return np.stack(views) if views else np.empty((0, *self.shape[1:]), np.uint8)

    def take(self, rows: np.ndarray) -> "Pictures":
        """Returns the pictures `rows`, int [m], in this order."""
        places = [int(i) for i in rows]
        ids, content = [self.ids[i] for i in places], Chosen(self.content, places)
        options = {name: getattr(self, name) for name in OPTIONS}
        return Pictures(ids, content, **options)

    def mark(self, index: int) -> bytes:
        """Returns bytes that change with the content of a picture; known from a check."""
        return self.content.mark(index)

    def stamp(self, index: int) -> bytes:
        """Returns bytes that change with a picture's file; b"" if it has no single file.

        Raises:
          OSError: the file is gone.
        """
        return _stamp_of(self.content, index)

    def checksums(self) -> np.ndarray | None:
        """Returns the CRC-32 of each picture's mark, without reading the picture.

        Returns:
          uint32 [n]; None if marks stand for the whole set, as with TFDS's records.
        """
        if not getattr(self.content, "marks_each", False):
            return None
        marks = (self.mark(index) for index in range(len(self)))
        return np.fromiter(map(zlib.crc32, marks), np.uint32, len(self))

    def read(self, index: int) -> np.ndarray:
        """Reads and decodes a picture, uint8 [H, W, 3].

        Raises:
          TrainingError: the picture cannot be read or decoded.
        """
        try:
            return decode(self.content(index), stretch_depth=self.stretch_depth)
        except Exception as error:  # reading files can raise anything, too
            raise TrainingError(
                f"{self.ids[index]} cannot be used ({reason_of(error)}): repair or remove "
                f"it from {self.where}; with the config of a run, --config.task=scan "
                "lists all such pictures"
            ) from error


def _stamp_of(content: Callable[[int], bytes], index: int) -> bytes:
    # Content can be any function; files are known by their stamps.
    return content.stamp(index) if hasattr(content, "stamp") else b""


def crops(
    images: Iterable[np.ndarray],
    uniform: np.ndarray,
    *,
    size: int,
    crop_scale: Sequence[float],
    crop_ratio: Sequence[float],
) -> Iterator[np.ndarray]:
    """Crops images at random as torchvision's RandomResizedCrop: -> [size, size, C].

    Args:
      images: n images, uint8 [H, W, C], of any shapes.
      uniform: float32 [n, *NUMBERS], from which `crop_box` makes boxes.
      size, crop_scale, crop_ratio: as in `augment`.
    """
    for image, numbers in zip(images, uniform, strict=True):
        if crop_scale:
            box = crop_box(numbers, image.shape[:2], crop_scale, crop_ratio)
            top, left, height, width = whole_box(box, image.shape[:2])
            image = image[top : top + height, left : left + width]
        yield resize(image, size)


def central_crop(image: np.ndarray, size: int, *, share: float = CENTRAL) -> np.ndarray:
    """Returns the middle square, resized: uint8 [H, W, C] -> [size, size, C].

    Its side is `share` of the image's shorter side.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    return resize(image[top : top + side, left : left + side], size)


def whole_box(box: np.ndarray, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rounds a box of `crop_box` to whole pixels, at least one, inside `shape` (H, W)."""
    top, left, height, width = map(round, box.tolist())
    height, width = max(height, 1), max(width, 1)
    return min(top, shape[0] - height), min(left, shape[1] - width), height, width


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes by Pillow's bilinear filter, which is antialiased as torchvision's is.

    Args:
      image: uint8 [H, W, C], C = 3 or 1, or [H, W], of any shape.
      size: height and width of the result, in pixels.

    Returns:
      uint8 [size, size, C] or [size, size].
    """
    gray = image.ndim == 3 and image.shape[2] == 1
    whole = Image.fromarray(image[..., 0] if gray else image)
    pixels = np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))
    return pixels[..., None] if gray else pixels
