"""What each step is given: images that lie on the devices, or views that the host makes.

Each is an `Input`, which setup chooses by the kind of images and the augmentation.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.data.load.pictures import Pictures, crops
from invariance_propagation.data.load.stream import Load, Make, stream
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.views.augment import augment, keys_of_view, normalize
from invariance_propagation.data.views.host import views as host_views
from invariance_propagation.devices.runner import Runner
from invariance_propagation.parallel import REPLICATED, SHARDED

# Indices, images and columns of a step, placed.
Feed = Iterator[tuple[jax.Array, Any, dict[str, jax.Array]]]
# Makes a view: (keys [b], uint8 [b, H, W, C]) -> float32 [b, size, size, C].
View = Callable[[jax.Array, jax.Array], jax.Array]


class Look(NamedTuple):
    """How the views of one group are made.

    Attributes:
      count: of views of each image.
      chances: options of `augment`.
    """

    count: int
    chances: Mapping[str, Any]


class Facts(NamedTuple):
    """What decides which images a step is given, and what comes with them.

    Attributes:
      seed: of the order and of chance.
      batch_size: B.
      steps_per_epoch: N // B of the N that the run began with.
      columns: by name, int32 [N].
    """

    seed: int
    batch_size: int
    steps_per_epoch: int
    columns: Mapping[str, np.ndarray] = {}


class Threads(NamedTuple):
    """Who makes views on the host.

    Attributes:
      num_threads, num_workers: see `stream`.
      process_index, process_count: see `Load`.
    """

    num_threads: int
    num_workers: int = 0
    process_index: int = 0
    process_count: int = 1


class Input(NamedTuple):
    """How a step gets its images.

    Attributes:
      feed: (start=, stop=) -> for each of these steps its indices int32 [B], images and
        columns, placed.
      read: (epoch, indices) -> these images on the host, as `pick` would find them in a
        step of that epoch.
      shapes: of the images of `feed`, jax.ShapeDtypeStruct.
      spec: where they lie.
      pick: (images, indices) -> images of these, on a device.
      views: (keys [b], images from `pick`) -> by group float32 [v, b, size, size, C].
    """

    feed: Callable[..., Feed]
    read: Callable[[int, np.ndarray], Any]
    shapes: Any
    spec: Any
    pick: Callable[[Any, jax.Array], Any]
    views: Callable[[jax.Array, Any], dict[str, jax.Array]]


def resident(
    images: np.ndarray, looks: Mapping[str, Look], *, runner: Runner, facts: Facts
) -> Input:
    """Keeps all images on every device, so that only indices travel.

    Args:
      images: uint8 [N, H, W, C].
      looks: by group.
      runner: places them.
      facts: of the run.
    """

    def feed(start: int, stop: int) -> Feed:
        placed, order = runner.put(images, REPLICATED), None
        for step in range(start, stop):
            epoch, place = divmod(step, facts.steps_per_epoch)
            if order is None or place == 0:
                order = epoch_order(
                    seed=facts.seed,
                    epoch=epoch,
                    num_examples=len(images),
                    batch_size=facts.batch_size,
                    steps=facts.steps_per_epoch,
                )
            indices = order[place]
            columns = {name: x[indices] for name, x in facts.columns.items()}
            yield runner.put(indices, SHARDED), placed, runner.put(columns, SHARDED)

    make = {name: partial(augment, **look.chances) for name, look in looks.items()}

    def views(keys: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
        return make_views(keys, lambda name, place: images, looks=looks, make=make)

    return Input(
        feed=feed,
        read=lambda epoch, indices: images[indices],
        shapes=jax.ShapeDtypeStruct(images.shape, images.dtype),
        spec=REPLICATED,
        pick=lambda images, indices: images[indices],
        views=views,
    )


def streamed(
    pictures: Pictures,
    looks: Mapping[str, Look],
    *,
    runner: Runner,
    facts: Facts,
    threads: Threads,
) -> Input:
    """Reads, decodes and crops images on the host, ahead of the step.

    Arguments are those of `resident`, and:
      threads: that do so.
    """
    makes = {name: _crops(x.chances) for name, x in looks.items()}
    rest = {
        name: partial(augment, **x.chances | {"crop_scale": ()})
        for name, x in looks.items()
    }
    return _on_host(pictures, looks, makes, rest, runner, facts, threads)


def host_made(
    images: np.ndarray | Pictures,
    looks: Mapping[str, Look],
    *,
    runner: Runner,
    facts: Facts,
    threads: Threads,
) -> Input:
    """Makes views on the host, ahead of the step, which only normalises them.

    Args:
      images: uint8 [N, H, W, C], or pictures.
      Others: as in `streamed`.
    """
    makes, rest = {}, {}
    for name, look in looks.items():
        statistics = {x: look.chances[x] for x in ("mean", "std")}
        parts = {x: y for x, y in look.chances.items() if x not in statistics}
        make = partial(host_views, channels=images.shape[3], **parts)
        if isinstance(images, Pictures):
            cropped = partial(make, crop_scale=())
            make = partial(_crop_first, _crops(look.chances), cropped)
        makes[name] = make
        rest[name] = partial(_normalized, size=look.chances["size"], **statistics)
    return _on_host(images, looks, makes, rest, runner, facts, threads)


def make_views(
    keys: jax.Array,
    images: Callable[[str, int], jax.Array],
    *,
    looks: Mapping[str, Look],
    make: Mapping[str, View],
) -> dict[str, jax.Array]:
    """Makes all views of some images.

    Args:
      keys: typed keys [b].
      images: (group, which of its views) -> uint8 [b, H, W, C] to make it of.
      looks: by group.
      make: by group, what makes one view.

    Returns:
      By group, float32 [v, b, size, size, C].
    """
    made, number = {}, 0
    for name, look in looks.items():
        group = []
        for place in range(look.count):
            view = make[name](keys_of_view(keys, number), images(name, place))
            group.append(view)
            number += 1
        made[name] = jnp.stack(group)
    return made


def _on_host(
    images: np.ndarray | Pictures,
    looks: Mapping[str, Look],
    makes: Mapping[str, Make],
    rest: Mapping[str, View],
    runner: Runner,
    facts: Facts,
    threads: Threads,
) -> Input:
    """Makes uint8 views by `makes` on the host, and by `rest` what is left, on a device."""
    load = Load(
        images,
        [[makes[name]] * look.count for name, look in looks.items()],
        seed=facts.seed,
        batch_size=facts.batch_size,
        steps_per_epoch=facts.steps_per_epoch,
        process_index=threads.process_index,
        process_count=threads.process_count,
    )

    def named(groups: Iterable[Any]) -> dict[str, Any]:
        return dict(zip(looks, groups, strict=True))

    def feed(start: int, stop: int) -> Feed:
        batches = stream(
            load,
            start=start,
            stop=stop,
            num_threads=threads.num_threads,
            num_workers=threads.num_workers,
        )
        with contextlib.closing(batches):
            for indices, *groups in batches:
                columns = {name: x[indices] for name, x in facts.columns.items()}
                yield (
                    runner.put_share(indices),
                    named(map(runner.put_share, groups)),
                    {name: runner.put_share(x) for name, x in columns.items()},
                )

    def views(keys: jax.Array, images: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return make_views(
            keys, lambda name, place: images[name][:, place], looks=looks, make=rest
        )

    def shape(look: Look) -> jax.ShapeDtypeStruct:
        size = look.chances["size"]
        shape = (facts.batch_size, look.count, size, size, images.shape[3])
        return jax.ShapeDtypeStruct(shape, np.uint8)

    return Input(
        feed=feed,
        read=lambda epoch, indices: named(load.read(epoch, indices)),
        shapes={name: shape(look) for name, look in looks.items()},
        spec=SHARDED,
        pick=lambda images, indices: images,
        views=views,
    )


def _normalized(keys: jax.Array, images: jax.Array, **options: Any) -> jax.Array:
    del keys
    return normalize(images, **options)


def _crop_first(
    crop: Make, make: Make, images: Iterable[np.ndarray], uniform: np.ndarray
) -> Iterable[np.ndarray]:
    # No function within another: worker processes are told what to do by pickle.
    return make(crop(images, uniform), uniform)


def _crops(chances: Mapping[str, Any]) -> Make:
    options = {name: chances[name] for name in ("size", "crop_scale", "crop_ratio")}
    return partial(crops, **options)
