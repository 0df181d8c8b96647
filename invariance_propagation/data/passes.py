"""One pass over images of any kind, all of them cut in the same way."""

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tqdm

from invariance_propagation.data.load.pictures import Chosen, Pictures
from invariance_propagation.data.load.readable import middle, readable
from invariance_propagation.data.sources.folder import Files

SAMPLED = 16  # images whose pixels are part of `content_digest`


class Look(NamedTuple):
    """Which part of an image the encoder is shown.

    Attributes:
      size: height and width of the result in pixels.
      share: of the shorter side, in the middle.
      channels: of the result; 1 makes pictures grey.
    """

    size: int
    share: float
    channels: int


class Seen(NamedTuple):
    """A batch of a pass.

    Attributes:
      rows: int64 [n], the places of these images among all of them.
      images: uint8 [n, size, size, channels].
      failed: why other images of the batch cannot be used, a line each.
    """

    rows: np.ndarray
    images: np.ndarray
    failed: list[str]


def look_at(
    images: Pictures | np.ndarray, look: Look, *, batch_size: int
) -> Iterator[Seen]:
    """Yields all images in order, and shows a bar on a terminal.

    Args:
      images: encoded pictures whose `size` is that of `look`, or uint8 [n, H, W, C].
      look: how each of them is cut. An array and a picture file with the same pixels
        give the same result.
      batch_size: images at once.
    """
    if isinstance(images, Pictures):
        yield from _look_at_pictures(images, look, batch_size)
        return
    starts = range(0, len(images), batch_size)
    bar = {"unit": "image", "unit_scale": batch_size, "disable": None, "leave": False}
    for start in tqdm.tqdm(starts, **bar):
        batch = images[start : start + batch_size]
        if batch.shape[-1] == 1:  # as a grey picture file is decoded
            batch = np.repeat(batch, 3, axis=-1)
        cut = [middle(image, *look) for image in batch]
        rows = np.arange(start, start + len(batch))
        yield Seen(rows, np.stack(cut), [])


def _look_at_pictures(
    pictures: Pictures, look: Look, batch_size: int
) -> Iterator[Seen]:
    start, options = 0, {"share": look.share, "channels": look.channels}
    for batch in readable(pictures, batch_size=batch_size, **options):
        stop = start + len(batch.ids) + len(batch.failed)
        good = set(batch.ids)
        rows = [i for i in range(start, stop) if pictures.ids[i] in good]
        yield Seen(np.array(rows, np.int64), batch.images, batch.failed)
        start = stop


def content_digest(images: Pictures | np.ndarray, look: Look) -> str:
    """Names what a pass over these images would see, 16 hex digits of SHA-256.

    A file counts by its name, size and time of change, without being read. Sixteen
    images, evenly spread, count by the pixels that `look` makes of them, so that
    another way of decoding or resizing is noticed too.

    Raises:
      OSError: a file is not there any more.
    """
    state = hashlib.sha256(str(len(images)).encode())
    if isinstance(images, Pictures):
        folder = _folder_of(images)
        for name in images.ids if folder is not None else ():
            path = os.path.join(folder, name)
            found = os.stat(path)
            state.update(os.fsencode(name))
            state.update(f"\0{found.st_size} {found.st_mtime_ns}\0".encode())
    count = min(SAMPLED, len(images))
    rows = np.unique(np.linspace(0, len(images) - 1, count).astype(int))
    sample = images.take(rows) if isinstance(images, Pictures) else images[rows]
    for seen in look_at(sample, look, batch_size=SAMPLED):
        state.update(np.ascontiguousarray(seen.images).data)
    return state.hexdigest()[:16]


def _folder_of(pictures: Pictures) -> os.PathLike | None:
    """Where the files of pictures are; None where they are records."""
    content = pictures.content
    while isinstance(content, Chosen):
        content = content.content
    return content.folder if isinstance(content, Files) else None
