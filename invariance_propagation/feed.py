"""What each step is given: a data set that lies on the devices, or one that is read.

Both are an `Input`, which setup chooses by the kind of images there are.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.data.augment import augment
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.data.stream import Load, stream
from invariance_propagation.parallel import REPLICATED, SHARDED, Runner

Feed = Iterator[tuple[jax.Array, jax.Array]]


class Input(NamedTuple):
    """How a step gets its images.

    Attributes:
      feed: (start=, stop=) -> for each of these steps, its indices int32 [B] and
        images, placed.
      read: (epoch, indices) -> uint8 [n, H, W, C] on the host: these images as `pick`
        would find them in a step of that epoch.
      shape: of the images of `feed`, uint8.
      spec: where they lie.
      pick: (images, indices) -> uint8 [b, H, W, C], on a device.
      view: (keys [b], uint8 [b, H, W, C]) -> float32 views, on a device.
    """

    feed: Callable[..., Feed]
    read: Callable[[int, np.ndarray], np.ndarray]
    shape: tuple[int, ...]
    spec: Any
    pick: Callable[[jax.Array, jax.Array], jax.Array]
    view: Callable[[jax.Array, jax.Array], jax.Array]


def resident(
    images: np.ndarray,
    chances: dict[str, Any],
    *,
    runner: Runner,
    seed: int,
    batch_size: int,
) -> Input:
    """All images lie on every device, and only indices travel.

    Args:
      images: uint8 [N, H, W, C].
      chances: options of `augment`.
      runner: places them.
      seed: of the order.
      batch_size: B.
    """
    per_epoch = len(images) // batch_size

    def feed(start: int, stop: int) -> Feed:
        placed, order = runner.put(images, REPLICATED), None
        for step in range(start, stop):
            epoch, place = divmod(step, per_epoch)
            if order is None or place == 0:
                order = epoch_order(
                    seed=seed,
                    epoch=epoch,
                    num_examples=len(images),
                    batch_size=batch_size,
                )
            yield runner.put(order[place], SHARDED), placed

    return Input(
        feed=feed,
        read=lambda epoch, indices: images[indices],
        shape=images.shape,
        spec=REPLICATED,
        pick=lambda images, indices: images[indices],
        view=partial(augment, **chances),
    )


def streamed(
    pictures: Pictures,
    chances: dict[str, Any],
    *,
    runner: Runner,
    seed: int,
    batch_size: int,
    num_threads: int,
) -> Input:
    """Images are read, decoded and cropped by the host, ahead of the step.

    Args:
      num_threads: that do so.
      Others: as in `resident`.
    """
    load = Load(
        pictures,
        seed=seed,
        batch_size=batch_size,
        crop_scale=chances["crop_scale"],
        crop_ratio=chances["crop_ratio"],
    )

    def feed(start: int, stop: int) -> Feed:
        for indices, images in stream(
            load, batch_size=batch_size, start=start, stop=stop, num_threads=num_threads
        ):
            yield runner.put(indices, SHARDED), runner.put(images, SHARDED)

    return Input(
        feed=feed,
        read=lambda epoch, indices: np.stack(
            [load.read(epoch, int(i)) for i in indices]
        ),
        shape=(batch_size, *pictures.shape[1:]),
        spec=SHARDED,
        pick=lambda images, indices: images,
        view=partial(augment, **chances | {"crop_scale": ()}),
    )
