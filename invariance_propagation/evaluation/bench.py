"""What is measured, and on what: subjects and the bench."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.views.augment import normalize
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.evaluation.meaning import (
    check_classes,
    check_finite,
    remarks,
)
from invariance_propagation.models.encoder import Headless
from invariance_propagation.parallel import REPLICATED

RANDOM, PIXELS = "random encoder", "raw pixels"
# More of them are no features for a classifier.
MOST_PIXELS = 64 * 64 * 3


class View(NamedTuple):
    """How an image is given to the encoder.

    Attributes:
      size: height and width in pixels.
      mean, std: of the data, per channel, in units where white is 1.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def view_of(
    checkpoint: str, channels: int, section: Mapping[str, Any], augment: Mapping | None
) -> View:
    """The section `view` of a task; what it leaves open is as a run has it.

    Args:
      checkpoint: named in errors.
      channels: of the encoder's images.
      section: size, mean, std.
      augment: these of the run, None where they are not known.

    Raises:
      UserError: a value that neither has, or of other channels.
    """
    given = {
        name: augment[name] if value is None and augment is not None else value
        for name, value in section.items()
    }
    missing = [
        f"--config.view.{name}" for name, value in given.items() if value is None
    ]
    if missing:
        raise UserError(
            f"{checkpoint} does not say how images are given to it: set "
            f"{', '.join(missing)} to what it was trained with, or put the .json file "
            "beside it that its export wrote"
        )
    view = View(given["size"], tuple(given["mean"]), tuple(given["std"]))
    if view.size < 1:
        raise UserError(f"view.size={view.size}: set it above 0 pixels")
    if not len(view.mean) == len(view.std) == channels:
        raise UserError(
            f"{checkpoint} is of images of {channels} channels, view.mean has "
            f"{len(view.mean)} values and view.std {len(view.std)}: give as many"
        )
    return view


class Bench(NamedTuple):
    """What subjects are measured on.

    Attributes:
      runner: maps functions over devices.
      dataset: with labels in both splits; targets [n, C] where an image may have
        several.
      num_classes: C.
      view: of its images.
      num_threads: that read streamed pictures.
      facts: what a card says of the data.
      remarks: what a card says of labels that make its scores mean less.
    """

    runner: Runner
    dataset: Dataset
    num_classes: int
    view: View
    num_threads: int
    facts: dict[str, Any]
    remarks: list[str]

    @property
    def crop(self) -> dict[str, str]:
        """What is looked at of an image of each split where nothing is left to chance."""
        return {
            name: crop_of(getattr(self.dataset, name).images)
            for name in ("train", "held_out")
        }

    @property
    def has_pixels(self) -> bool:
        """Whether raw pixels make sense as features."""
        return self.view.size**2 * len(self.view.mean) <= MOST_PIXELS


def crop_of(images: np.ndarray | Pictures) -> str:
    """Names the part of these images that evaluation looks at."""
    share = images.share if isinstance(images, Pictures) else 1.0
    return "whole" if share == 1.0 else f"central {share:g}"


class Subject(NamedTuple):
    """What is measured.

    Attributes:
      name: the row of a table.
      backbone: views -> features float32 [b, F].
      params, batch_stats: of it.
      features, queries: () -> those of the images of training, of the test; as they
        are without chance.
    """

    name: str
    backbone: nn.Module
    params: dict
    batch_stats: dict
    features: Callable[[], np.ndarray]
    queries: Callable[[], np.ndarray]


class Pixels(nn.Module):
    """The pixels themselves, in [0, 1], as features; `mean` and `std` are undone."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        pixels = images * np.float32(self.std) + np.float32(self.mean)
        return pixels.reshape(len(images), -1)


def make_bench(runner: Runner, dataset: Dataset, view: View, num_threads: int) -> Bench:
    """A bench of labelled images.

    Raises:
      UserError: a split without labels, or of no image; a single class to learn; or
        images of other channels than the view's.
    """
    for what, split in (
        ("to learn from", dataset.train),
        ("to test", dataset.held_out),
    ):
        if split is None or split.labels is None or not len(split.labels):
            raise UserError(
                f"data {dataset.name}: there are no images with labels {what}: choose "
                "another data.name or data.split (of an image folder: data.classes and "
                "data.held_out)"
            )
    channels = dataset.train.images.shape[-1]
    if channels != len(view.mean):
        raise UserError(
            f"{dataset.name} has images of {channels} channels, the encoder takes "
            f"{len(view.mean)}: choose another data.name"
        )
    labels = (dataset.train.labels, dataset.held_out.labels)
    check_classes(labels[0], dataset.name)
    if labels[0].ndim == 2:
        num_classes = labels[0].shape[1]
    else:
        num_classes = 1 + max(int(part.max()) for part in labels)
    facts = _facts(dataset) | {"classes": num_classes}
    known = remarks(*labels)
    return Bench(runner, dataset, num_classes, view, num_threads, facts, known)


def _facts(dataset: Dataset) -> dict[str, Any]:
    splits, state = (dataset.train, dataset.held_out), hashlib.sha256()
    for split in splits:
        state.update(Dataset("", split, None).digest().encode())
        state.update(np.ascontiguousarray(split.labels).tobytes())
    train, held_out = (len(split.labels) for split in splits)
    return {
        "name": dataset.name,
        "digest": state.hexdigest()[:16],
        "train": train,
        "held_out": held_out,
    }


@functools.lru_cache(maxsize=8)
def _embedder(runner: Runner, backbone: nn.Module, view: View) -> Callable:
    embed = make_embed(runner, Headless(backbone), partial(normalize, **view._asdict()))

    def features(params: dict, batch_stats: dict, images: Any) -> np.ndarray:
        own = {"backbone": params} if params else {}
        stats = {"backbone": batch_stats} if batch_stats else {}
        return embed(own, stats, images).features

    return features


def embedder(bench: Bench, backbone: nn.Module) -> Callable[..., np.ndarray]:
    """(params, batch_stats, images) -> features of a backbone, on the host."""
    return _embedder(bench.runner, backbone, bench.view)


def make_subject(
    bench: Bench, name: str, backbone: nn.Module, params: dict, batch_stats: dict
) -> Subject:
    """Makes a subject whose features are computed once, when they are first asked for.

    They raise TrainingError if one of them is NaN or infinite.
    """
    embed = embedder(bench, backbone)

    def features_of(split: Split, what: str) -> Callable[[], np.ndarray]:
        @functools.cache
        def features() -> np.ndarray:
            found = embed(params, batch_stats, split.images)
            check_finite(found, what)
            return found

        return features

    parts = (
        features_of(bench.dataset.train, "training images"),
        features_of(bench.dataset.held_out, "images of the test"),
    )
    return Subject(name, backbone, params, batch_stats, *parts)


def pixels(bench: Bench) -> Subject:
    """Raw pixels as a subject, without parameters."""
    backbone = Pixels(bench.view.mean, bench.view.std)
    return make_subject(bench, PIXELS, backbone, {}, {})


@functools.lru_cache(maxsize=8)
def _initializer(runner: Runner, backbone: nn.Module, view: View) -> Callable:
    def init(key: jax.Array) -> dict:
        images = jnp.zeros((1, view.size, view.size, len(view.mean)))
        return backbone.init(key, images, train=False)

    return runner.creator(init, REPLICATED)


def untrained(bench: Bench, backbone: nn.Module, seed: int) -> Subject:
    """The same network with its first weights."""
    init = _initializer(bench.runner, backbone, bench.view)
    variables = jax.device_get(init(jax.random.key(seed)))
    parts = variables["params"], variables["batch_stats"]
    return make_subject(bench, RANDOM, backbone, *parts)
