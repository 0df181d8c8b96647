"""Reads pictures in one pass; names those that cannot be read and leaves them out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import tqdm

from invariance_propagation.data.load.pictures import Pictures, central_crop
from invariance_propagation.errors import TrainingError


class Batch(NamedTuple):
    """Some pictures, in order.

    Attributes:
      ids: of the pictures that could be read.
      images: uint8 [n, size, size, C], their middles.
      failed: the other pictures and the reasons, a line each.
    """

    ids: list[str]
    images: np.ndarray
    failed: list[str]


def readable(
    pictures: Pictures, *, batch_size: int, share: float, channels: int
) -> Iterator[Batch]:
    """Yields the middles of all pictures, and shows a bar on a terminal.

    Args:
      pictures: their `size` is the size of the result.
      batch_size: pictures in a batch.
      share: of the shorter side.
      channels: C; 1 makes pictures grey.
    """

    def read(index: int) -> np.ndarray | str:
        try:
            image = pictures.read(index)
        except TrainingError as error:
            return str(error)
        return middle(image, pictures.size, share, channels)

    bar = tqdm.tqdm(total=len(pictures), unit="picture", disable=None, leave=False)
    with ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(pictures), batch_size):
            rows = range(start, min(start + batch_size, len(pictures)))
            results = list(zip(rows, pool.map(read, rows), strict=True))
            good = [(i, x) for i, x in results if not isinstance(x, str)]
            images = np.array([x for _, x in good], np.uint8)
            failed = [x for _, x in results if isinstance(x, str)]
            yield Batch([pictures.ids[i] for i, _ in good], images, failed)
            bar.update(len(rows))


def middle(image: np.ndarray, size: int, share: float, channels: int) -> np.ndarray:
    """Returns the middle of an image: uint8 [H, W, 3] -> [size, size, channels]."""
    if channels == 1:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    # OpenCV drops the axis of a single channel.
    return central_crop(image, size, share=share).reshape(size, size, channels)
