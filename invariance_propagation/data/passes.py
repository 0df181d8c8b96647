"""Reads images of any kind in one pass, all of them cropped in the same way."""

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tqdm

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.load.readable import middle, readable

SAMPLED = 16  # images whose pixels are part of `content_digest`


class Crop(NamedTuple):
    """The central part of an image that the encoder is shown.

    Attributes:
      size: height and width of the result, in pixels.
      share: of the image's shorter side.
      channels: of the result; 1 makes pictures grey.
    """

    size: int
    share: float
    channels: int


class CropBatch(NamedTuple):
    """A batch of a pass.

    Attributes:
      rows: int64 [n], the numbers of these images.
      images: uint8 [n, size, size, channels].
      failed: the other images of the batch and why they cannot be used, a line each.
    """

    rows: np.ndarray
    images: np.ndarray
    failed: list[str]


def read_crops(
    images: Pictures | np.ndarray, crop: Crop, *, batch_size: int
) -> Iterator[CropBatch]:
    """Yields all images in order, and shows a bar on a terminal.

    An array and a picture file with the same pixels give the same result.

    Args:
      images: encoded pictures with the `size` of `crop`, or uint8 [n, H, W, C].
      crop: the part of each image to return.
      batch_size: images in a batch.
    """
    if isinstance(images, Pictures):
        yield from _read_pictures(images, crop, batch_size)
        return
    starts = range(0, len(images), batch_size)
    bar = {"unit": "image", "unit_scale": batch_size, "disable": None, "leave": False}
    for start in tqdm.tqdm(starts, **bar):
        batch = images[start : start + batch_size]
        if batch.shape[-1] == 1:  # as a grey picture file is decoded
            batch = np.repeat(batch, 3, axis=-1)
        crops = [middle(image, *crop) for image in batch]
        rows = np.arange(start, start + len(batch))
        yield CropBatch(rows, np.stack(crops), [])


def _read_pictures(
    pictures: Pictures, crop: Crop, batch_size: int
) -> Iterator[CropBatch]:
    start, options = 0, {"share": crop.share, "channels": crop.channels}
    for batch in readable(pictures, batch_size=batch_size, **options):
        stop = start + len(batch.ids) + len(batch.failed)
        good = set(batch.ids)
        rows = [i for i in range(start, stop) if pictures.ids[i] in good]
        yield CropBatch(np.array(rows, np.int64), batch.images, batch.failed)
        start = stop


def content_digest(images: Pictures | np.ndarray, crop: Crop) -> str:
    """Names what a pass over these images would return, by 16 hex digits of SHA-256.

    The digest covers the name, size and time of change of each file, without reading it;
    and the cropped pixels of sixteen evenly spread images, to notice another way of
    decoding or resizing.

    Raises:
      OSError: a file is gone.
    """
    state = hashlib.sha256(str(len(images)).encode())
    if isinstance(images, Pictures):
        for index, name in enumerate(images.ids):
            stamp = images.stamp(index)
            if stamp:
                state.update(os.fsencode(name) + b"\0" + stamp + b"\0")
    count = min(SAMPLED, len(images))
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    sample = images.take(rows) if isinstance(images, Pictures) else images[rows]
    for batch in read_crops(sample, crop, batch_size=SAMPLED):
        state.update(np.ascontiguousarray(batch.images).data)
    return state.hexdigest()[:16]
