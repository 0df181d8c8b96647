"""Makes batches on the host, ahead of the device, by Grain.

Order and randomness are functions of (seed, epoch, index), and the place in the order is
a function of the step, so a run continues anywhere without a saved iterator.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.load.workers import PATIENCE, Work, make_batches
from invariance_propagation.data.steps import step_indices
from invariance_propagation.data.views.chance import NUMBERS
from invariance_propagation.data.views.threefry import host_uniforms
from invariance_propagation.phases import after, say

BATCHES_AHEAD = 2
PIECE = 32  # images that one thread makes at a time, at most


def _nothing(index: int | None) -> None:
    del index


# (images uint8 [H, W, C], uniform float32 [n, *NUMBERS]) -> n of uint8 [size, size, C]
Make = Callable[[Iterable[np.ndarray], np.ndarray], Iterable[np.ndarray]]


class Load:
    """Makes the indices and views of pieces of batches."""

    def __init__(
        self,
        images: np.ndarray | Pictures,
        makes: Sequence[Sequence[Make]],
        *,
        seed: int,
        batch_size: int,
        steps_per_epoch: int | None = None,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Prepares process p of P, which loads the p-th of P equal shares of each batch.

        Args:
          images: uint8 [N, H, W, C], or pictures.
          makes: for each group of views, the functions that make its views. Views are
            numbered in this order over all groups; the number decides their randomness.
          seed: of order and randomness.
          batch_size: B, over all processes.
          steps_per_epoch: as `steps` of `epoch_order`.
          process_index: p.
          process_count: P, a divisor of B.
        """
        self._images, self._makes, self._seed = images, makes, seed
        self._batch_size = batch_size
        self._per_epoch = steps_per_epoch or len(images) // batch_size
        self._share = batch_size // process_count
        self._first = process_index * self._share
        self._piece = max(n for n in range(1, PIECE + 1) if self._share % n == 0)

    @property
    def pieces(self) -> int:
        """How many pieces make up this process's share of a batch."""
        return self._share // self._piece

    def name(self, index: int) -> str:
        """Returns an image's name for messages."""
        encoded = isinstance(self._images, Pictures)
        return self._images.ids[index] if encoded else f"image {index}"

    def __call__(
        self, place: int, *, note: Callable[[int | None], None] = _nothing
    ) -> tuple[np.ndarray, ...]:
        """Returns the indices of the piece `place`, and its views as `read` does."""
        step, piece = divmod(int(place), self.pieces)
        batch = step_indices(
            step,
            seed=self._seed,
            num_examples=len(self._images),
            batch_size=self._batch_size,
            steps_per_epoch=self._per_epoch,
        )
        first = self._first + piece * self._piece
        indices = batch[first : first + self._piece]
        try:
            return indices, *self.read(step // self._per_epoch, indices, note=note)
        finally:
            note(None)

    def read(
        self,
        epoch: int,
        indices: np.ndarray,
        *,
        note: Callable[[int | None], None] = _nothing,
    ) -> tuple[np.ndarray, ...]:
        """Makes the views of images in an epoch; reads each image once.

        Args:
          epoch: from 0.
          indices: int [n].
          note: called with the index of each image before it is read.

        Returns:
          For each group, uint8 [n, v, size, size, C].
        """
        encoded = isinstance(self._images, Pictures)
        read = self._images.read if encoded else self._images.__getitem__

        def noted(index: int) -> np.ndarray:
            note(index)
            return read(index)

        count = sum(map(len, self._makes))
        copies = itertools.tee(map(noted, indices.tolist()), count)
        numbered = enumerate(copies)
        made = [
            [
                iter(
                    make(
                        copy, host_uniforms(self._seed, epoch, indices, NUMBERS, view=i)
                    )
                )
                for make, (i, copy) in zip(makes, numbered, strict=False)
            ]
            for makes in self._makes
        ]
        groups: list[np.ndarray] = []
        # Copy views one by one, so that they reuse memory; np.stack would hold all.
        for row in range(len(indices)):
            for number, group in enumerate(made):
                for place, views in enumerate(group):
                    view = next(views)
                    if len(groups) == number:
                        shape = (len(indices), len(group), *view.shape)
                        groups.append(np.empty(shape, view.dtype))
                    groups[number][row, place] = view
        return tuple(groups)


def stream(
    load: Load, *, start: int, stop: int, num_threads: int, num_workers: int = 0
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the batches of steps; their content does not depend on threads or workers.

    Args:
      load: makes the pieces.
      start: first step.
      stop: one past the last step.
      num_threads: threads that read and decode, in each worker.
      num_workers: worker processes; 0: the threads run in this process.

    Yields:
      indices int32 [b], b = B / P, and for each group uint8 [b, v, size, size, C].

    Raises:
      TrainingError: a picture cannot be used, or a worker died.
    """
    ahead = BATCHES_AHEAD * load.pieces // max(1, num_workers)
    pieces = functools.partial(
        _pieces,
        load,
        num_threads=num_threads,
        # With fewer, a thread would have nothing to do.
        ahead=max(ahead, 2 * num_threads),
    )
    places = range(start * load.pieces, stop * load.pieces)
    if num_workers:
        work = Work(pieces, places, load.pieces, num_threads)
        batches = make_batches(work, num_workers, load.name)
    else:
        batches = iter(pieces(places, None).batch(load.pieces, batch_fn=_join))
        batches = _patient(batches)
    with contextlib.closing(batches):
        yield from batches


def _patient(batches: Iterator[Any]) -> Iterator[Any]:
    """Yields batches, and says so if one of them takes long."""
    slow = f"waiting for images for {PATIENCE:.0f} s now: what they lie on may be slow"
    with contextlib.closing(batches):
        while True:
            with after(PATIENCE, lambda: say(slow)):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def _pieces(
    load: Load,
    places: range,
    note: Callable[[int | None], None] | None,
    *,
    num_threads: int,
    ahead: int,
) -> grain.IterDataset:
    source = grain.MapDataset.range(places.start, places.stop, places.step)
    make = load if note is None else functools.partial(load, note=note)
    return source.map(make).to_iter_dataset(grain.ReadOptions(num_threads, ahead))


def _join(pieces: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
