"""Batches that the host makes ahead of the device, by Grain.

Order and chance are functions of (seed, epoch, index), and the place in the order of the
step, so that a run goes on anywhere without a saved iterator.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from invariance_propagation.data.chance import NUMBERS
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.data.threefry import host_uniforms

BATCHES_AHEAD = 2
PIECE = 32  # images at most that one thread makes at a time
# The threads of a process share it.
_order = functools.lru_cache(maxsize=2)(epoch_order)


class Load:
    """From a piece of the order of all epochs to its indices and images."""

    def __init__(
        self,
        images: np.ndarray | Pictures,
        make: Callable[[Iterable[np.ndarray], np.ndarray], Iterable[np.ndarray]],
        *,
        seed: int,
        batch_size: int,
        steps_per_epoch: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Of process p of P it is the p-th of P equal parts of each batch.

        Args:
          images: uint8 [N, H, W, C], or pictures.
          make: (n images uint8 [H, W, C], uniform float32 [n, *NUMBERS]) -> n of uint8
            [size, size, C].
          seed: of order and chance.
          batch_size: B, over all processes.
          steps_per_epoch: as `steps` of `epoch_order`.
          process_index: p.
          process_count: P, a divisor of B.
        """
        self._images, self._make, self._seed = images, make, seed
        self._batch_size = batch_size
        self._per_epoch = steps_per_epoch or len(images) // batch_size
        self._share = batch_size // process_count
        self._first = process_index * self._share
        self._piece = max(n for n in range(1, PIECE + 1) if self._share % n == 0)

    @property
    def pieces(self) -> int:
        """How many make up a batch, or this process's share of it."""
        return self._share // self._piece

    def __call__(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        step, piece = divmod(int(place), self.pieces)
        epoch, step = divmod(step, self._per_epoch)
        order = _order(
            seed=self._seed,
            epoch=epoch,
            num_examples=len(self._images),
            batch_size=self._batch_size,
            steps=self._per_epoch,
        )
        first = self._first + piece * self._piece
        indices = order[step, first : first + self._piece]
        return indices, self.read(epoch, indices)

    def read(self, epoch: int, indices: np.ndarray) -> np.ndarray:
        """uint8 [n, size, size, C]: what is made of these images in `epoch`."""
        uniform = host_uniforms(self._seed, epoch, indices, NUMBERS)
        streamed = isinstance(self._images, Pictures)
        read = self._images.read if streamed else self._images.__getitem__
        made = iter(self._make(map(read, indices.tolist()), uniform))
        first = next(made)
        # Not stacked at the end: one after the other they use the same memory.
        images = np.empty((len(indices), *first.shape), first.dtype)
        images[0] = first
        for row, image in zip(images[1:], made, strict=True):
            row[...] = image
        return images


def stream(
    load: Load, *, start: int, stop: int, num_threads: int, num_workers: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of the steps `start` to `stop`; the same for any threads and workers.

    Args:
      load: see `Load`.
      start: first step.
      stop: one past the last.
      num_threads: that read and decode, in each worker.
      num_workers: processes; 0: the threads are this process's.

    Yields:
      indices int32 [b], images uint8 [b, size, size, C], b = B / P.
    """
    ahead = BATCHES_AHEAD * load.pieces // max(1, num_workers)
    # No fewer, or a thread would have nothing to do.
    reading = grain.ReadOptions(num_threads, max(ahead, 2 * num_threads))
    pieces = grain.MapDataset.range(start * load.pieces, stop * load.pieces)
    made = pieces.map(load).to_iter_dataset(reading)
    if num_workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; Grain reads some of its own
            flags.FLAGS.mark_as_parsed()
        working = grain.MultiprocessingOptions(num_workers, max(1, ahead))
        made = made.mp_prefetch(working, worker_init_fn=_follow_main)
    # Joined last, because each worker takes every so many-th piece.
    batches = iter(made.batch(load.pieces, batch_fn=_join))
    with contextlib.closing(batches):
        yield from batches


def _follow_main(worker: int, workers: int) -> None:
    """What stops a run is for its main process, and a worker ends with that one."""

    def end() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end, daemon=True).start()


def _join(
    pieces: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
    indices, images = zip(*pieces, strict=True)
    return np.concatenate(indices), np.concatenate(images)
