"""Feeds the steps: with images that are kept on the devices, or views from the host.

`resident` and `from_host` each return an `Input`.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.data.load.making import Divide, View
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.load.stream import Load, Make, stream
from invariance_propagation.data.steps import step_indices
from invariance_propagation.data.views.augment import augment, keys_of_view
from invariance_propagation.devices.runner import Runner
from invariance_propagation.parallel import REPLICATED, SHARDED

# Indices, images and columns of each step, on the devices.
Feed = Iterator[tuple[jax.Array, Any, dict[str, jax.Array]]]


class ViewGroup(NamedTuple):
    """Views that are made in the same way and go through the network together.

    Attributes:
      count: how many views of each image.
      chances: options of `augment`.
    """

    count: int
    chances: Mapping[str, Any]


class Facts(NamedTuple):
    """Decides which images a step visits, and what comes with them.

    Attributes:
      seed: of order and randomness.
      batch_size: B.
      steps_per_epoch: N // B for the N that the run began with.
      columns: by name, int32 [N].
    """

    seed: int
    batch_size: int
    steps_per_epoch: int
    columns: Mapping[str, np.ndarray] = {}


class Threads(NamedTuple):
    """The threads and processes that make views on the host.

    Attributes:
      num_threads, num_workers: see `stream`.
      process_index, process_count: see `Load`.
    """

    num_threads: int
    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1


class Input(NamedTuple):
    """Gets images to a step.

    Attributes:
      feed: (start=, stop=) -> for each of these steps its indices int32 [B], images and
        columns, on the devices.
      read: (epoch, indices) -> on the host, the images that `pick` would return in a
        step of that epoch.
      shapes: of the images from `feed`, jax.ShapeDtypeStruct.
      spec: how they are spread over the devices.
      pick: (images from `feed`, indices) -> the images of these indices, on a device.
      views: (keys [b], images from `pick`) -> by group float32 [v, b, size, size, C].
    """

    feed: Callable[..., Feed]
    read: Callable[[int, np.ndarray], Any]
    shapes: Any
    spec: Any
    pick: Callable[[Any, jax.Array], Any]
    views: Callable[[jax.Array, Any], dict[str, jax.Array]]


def resident(
    images: np.ndarray, groups: Mapping[str, ViewGroup], *, runner: Runner, facts: Facts
) -> Input:
    """Keeps all images on every device, so that a step receives only indices.

    Args:
      images: uint8 [N, H, W, C].
      groups: the views to make, by group.
      runner: places the images on the devices.
      facts: of the run.
    """

    def feed(start: int, stop: int) -> Feed:
        placed = runner.put(images, REPLICATED)
        for step in range(start, stop):
            indices = step_indices(
                step,
                seed=facts.seed,
                num_examples=len(images),
                batch_size=facts.batch_size,
                steps_per_epoch=facts.steps_per_epoch,
            )
            indices = indices[runner.share(len(indices))]
            columns = {
                name: runner.put_share(x[indices]) for name, x in facts.columns.items()
            }
            yield runner.put_share(indices), placed, columns

    make = {name: partial(augment, **group.chances) for name, group in groups.items()}

    def views(keys: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        return make_views(keys, lambda name, place: images, groups=groups, make=make)

    return Input(
        feed=feed,
        read=lambda epoch, indices: images[indices],
        shapes=jax.ShapeDtypeStruct(images.shape, images.dtype),
        spec=REPLICATED,
        pick=lambda images, indices: images[indices],
        views=views,
    )


def from_host(
    images: np.ndarray | Pictures,
    groups: Mapping[str, ViewGroup],
    *,
    divide: Divide,
    runner: Runner,
    facts: Facts,
    threads: Threads,
) -> Input:
    """Reads images on the host, ahead of the step, and makes views there as far as asked.

    Args:
      images: uint8 [N, H, W, C], or pictures.
      groups: the views to make, by group.
      divide: `crops_on_host` or `views_on_host`.
      runner: places the result on the devices.
      facts: of the run.
      threads: make the host's part.
    """
    divided = {name: divide(images, x.chances) for name, x in groups.items()}
    device_views = {name: view for name, (_, view) in divided.items()}
    makes = [[divided[name][0]] * group.count for name, group in groups.items()]
    load = _loader(images, makes, facts, threads)

    def named(views: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(groups, views, strict=True))

    def feed(start: int, stop: int) -> Feed:
        with contextlib.closing(
            stream(
                load,
                start=start,
                stop=stop,
                num_threads=threads.num_threads,
                num_workers=threads.num_workers,
            )
        ) as batches:
            put, columns = runner.put_share, facts.columns.items()
            for indices, *views in batches:
                placed = {name: put(x[indices]) for name, x in columns}
                yield put(indices), named(map(put, views)), placed

    def views(keys: jax.Array, images: dict[str, jax.Array]) -> dict[str, jax.Array]:
        def image(name: str, place: int) -> jax.Array:
            return images[name][:, place]

        return make_views(keys, image, groups=groups, make=device_views)

    def shape(group: ViewGroup) -> jax.ShapeDtypeStruct:
        size = group.chances["size"]
        shape = (facts.batch_size, group.count, size, size, images.shape[3])
        return jax.ShapeDtypeStruct(shape, np.uint8)

    return Input(
        feed=feed,
        read=lambda epoch, indices: named(load.read(epoch, indices)),
        shapes={name: shape(group) for name, group in groups.items()},
        spec=SHARDED,
        pick=lambda images, indices: images,
        views=views,
    )


def _loader(
    images: np.ndarray | Pictures,
    makes: Sequence[Sequence[Make]],
    facts: Facts,
    threads: Threads,
) -> Load:
    return Load(
        images,
        makes,
        seed=facts.seed,
        batch_size=facts.batch_size,
        steps_per_epoch=facts.steps_per_epoch,
        process_index=threads.process_index,
        process_count=threads.process_count,
    )


def make_views(
    keys: jax.Array,
    images: Callable[[str, int], jax.Array],
    *,
    groups: Mapping[str, ViewGroup],
    make: Mapping[str, View],
) -> dict[str, jax.Array]:
    """Makes all views of some images.

    Args:
      keys: typed keys [b].
      images: (group, number of the view in it) -> the images, uint8 [b, H, W, C].
      groups: the views to make, by group.
      make: by group, the function that makes a view.

    Returns:
      By group, float32 [v, b, size, size, C].
    """
    made, number = {}, 0
    for name, group in groups.items():
        views = []
        for place in range(group.count):
            view = make[name](keys_of_view(keys, number), images(name, place))
            views.append(view)
            number += 1
        made[name] = jnp.stack(views)
    return made
