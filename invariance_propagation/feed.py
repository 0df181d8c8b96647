"""What each step is given: images that lie on the devices, or what the host makes.

Each is an `Input`, which setup chooses by the kind of images and the augmentation.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.data.augment import augment, normalize
from invariance_propagation.data.host import views
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.pictures import Pictures, crops
from invariance_propagation.data.stream import Load, stream
from invariance_propagation.devices import Runner
from invariance_propagation.parallel import REPLICATED, SHARDED

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
    steps_per_epoch: int | None = None,
) -> Input:
    """All images lie on every device, and only indices travel.

    Args:
      images: uint8 [N, H, W, C].
      chances: options of `augment`.
      runner: places them.
      seed: of the order.
      batch_size: B.
      steps_per_epoch: as `steps` of `epoch_order`.
    """
    per_epoch = steps_per_epoch or len(images) // batch_size

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
                    steps=per_epoch,
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
    steps_per_epoch: int | None = None,
    num_threads: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Input:
    """Images are read, decoded and cropped by the host, ahead of the step.

    Args:
      num_threads, num_workers: see `stream`.
      process_index, process_count: see `Load`.
      Others: as in `resident`.
    """
    load = Load(
        pictures,
        _crops(pictures, chances),
        seed=seed,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        process_index=process_index,
        process_count=process_count,
    )
    return Input(
        feed=_feed(load, runner, num_threads=num_threads, num_workers=num_workers),
        read=load.read,
        shape=(batch_size, *pictures.shape[1:]),
        spec=SHARDED,
        pick=lambda images, indices: images,
        view=partial(augment, **chances | {"crop_scale": ()}),
    )


def host_made(
    images: np.ndarray | Pictures,
    chances: dict[str, Any],
    *,
    runner: Runner,
    seed: int,
    batch_size: int,
    steps_per_epoch: int | None = None,
    num_threads: int,
    num_workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Input:
    """Views are made by the host, ahead of the step, which only normalises them.

    Args:
      images: uint8 [N, H, W, C], or pictures.
      Others: as in `streamed`.
    """
    channels, size = images.shape[3], chances["size"]
    statistics = {name: chances[name] for name in ("mean", "std")}
    parts = {name: chances[name] for name in chances if name not in statistics}
    make = partial(views, channels=channels, **parts)
    if isinstance(images, Pictures):
        rest = partial(make, crop_scale=())
        make = partial(_crop_first, _crops(images, chances), rest)
    load = Load(
        images,
        make,
        seed=seed,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        process_index=process_index,
        process_count=process_count,
    )
    return Input(
        feed=_feed(load, runner, num_threads=num_threads, num_workers=num_workers),
        read=load.read,
        shape=(batch_size, size, size, channels),
        spec=SHARDED,
        pick=lambda images, indices: images,
        view=lambda keys, images: normalize(images, size=size, **statistics),
    )


def _crop_first(
    crop: Callable, make: Callable, images: Iterable[np.ndarray], uniform: np.ndarray
) -> Iterable[np.ndarray]:
    # No function within another: worker processes are told what to do by pickle.
    return make(crop(images, uniform), uniform)


def _crops(pictures: Pictures, chances: dict[str, Any]) -> Callable:
    options = {name: chances[name] for name in ("crop_scale", "crop_ratio")}
    return partial(crops, size=pictures.size, **options)


def _feed(load: Load, runner: Runner, **threads: int) -> Callable[..., Feed]:
    def feed(start: int, stop: int) -> Feed:
        batches = stream(load, start=start, stop=stop, **threads)
        with contextlib.closing(batches):
            for indices, images in batches:
                yield runner.put_share(indices), runner.put_share(images)

    return feed
