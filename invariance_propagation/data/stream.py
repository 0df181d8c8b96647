"""Batches of picture files: read, decoded and cropped ahead of the device, by Grain.

Order and crops are functions of (seed, epoch, index), and the place in the order of the
step, so that a run goes on anywhere without a saved iterator.
"""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.pictures import Pictures, random_crop, resize

BATCHES_AHEAD = 2


class Load:
    """From a place in the order of all epochs to an image's index and its crop."""

    def __init__(
        self,
        pictures: Pictures,
        *,
        seed: int,
        batch_size: int,
        crop_scale: Sequence[float],
        crop_ratio: Sequence[float],
    ):
        self._pictures, self._seed = pictures, seed
        self._scale, self._ratio = crop_scale, crop_ratio
        self._order = functools.lru_cache(maxsize=2)(
            lambda epoch: epoch_order(
                seed=seed,
                epoch=epoch,
                num_examples=len(pictures),
                batch_size=batch_size,
            ).reshape(-1)
        )
        self._per_epoch = len(pictures) // batch_size * batch_size

    def __call__(self, place: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(int(place), self._per_epoch)
        index = int(self._order(epoch)[place])
        return {"indices": np.int32(index), "images": self.read(epoch, index)}

    def read(self, epoch: int, index: int) -> np.ndarray:
        """uint8 [size, size, 3]: the crop of an image in an epoch."""
        image, size = self._pictures.read(index), self._pictures.size
        if self._scale:
            random = np.random.default_rng([self._seed, epoch, index])
            return random_crop(image, size, self._scale, self._ratio, random)
        return resize(image, size)


def stream(
    load: Load, *, batch_size: int, start: int, stop: int, num_threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of the steps `start` to `stop`.

    Args:
      load: see `Load`.
      batch_size: B.
      start: first step.
      stop: one past the last.
      num_threads: that read and decode.

    Yields:
      indices int32 [B], images uint8 [B, size, size, 3].
    """
    places = grain.MapDataset.range(start * batch_size, stop * batch_size)
    ahead = grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=BATCHES_AHEAD * batch_size
    )
    batches = places.map(load).to_iter_dataset(ahead).batch(batch_size)
    for batch in batches:
        yield batch["indices"], batch["images"]
