"""Holds what encoders are measured on: labelled images and how a network sees them."""

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation.data.dataset import Dataset
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.views.ranges import check_size, check_statistics
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.meaning import check_classes, remarks

# Raw pixels of larger images are too many features for a classifier.
MOST_PIXELS = 64 * 64 * 3


class View(NamedTuple):
    """Says what the encoder sees of an image.

    Attributes:
      size: height and width in pixels.
      mean, std: of the data, per channel, where white is 1.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def view_of(
    checkpoint: str, channels: int, section: Mapping[str, Any], augment: Mapping | None
) -> View:
    """Reads the section `view` of a task; unset values are those of the run.

    Args:
      checkpoint: path of the weights, for error messages.
      channels: of the images that the encoder takes.
      section: size, mean and std; None where unset.
      augment: the run's size, mean and std; None if they are unknown.

    Raises:
      UserError: a value is missing on both sides, or is for other channels.
    """
    values = {
        name: augment[name] if value is None and augment is not None else value
        for name, value in section.items()
    }
    missing = [
        f"--config.view.{name}" for name, value in values.items() if value is None
    ]
    if missing:
        raise UserError(
            f"{checkpoint} does not say how its network sees an image: set "
            f"{', '.join(missing)} to what it was trained with, or put the .json file "
            "that its export wrote next to it"
        )
    view = View(values["size"], tuple(values["mean"]), tuple(values["std"]))
    check_size(view.size, key="view.")
    check_statistics(view.mean, view.std, key="view.")
    if not len(view.mean) == len(view.std) == channels:
        raise UserError(
            f"{checkpoint} takes images of {channels} channels, view.mean has "
            f"{len(view.mean)} values and view.std {len(view.std)}: give one per channel"
        )
    return view


class Bench(NamedTuple):
    """Holds the images that encoders are measured on.

    Attributes:
      runner: maps functions over devices.
      dataset: has labels in both splits: int [n], or targets int [n, C] where an image
        may have several classes.
      num_classes: C.
      view: what the encoder sees of an image.
      num_threads: number of threads that read streamed pictures.
      facts: what a card says about the data.
      remarks: sentences about labels that limit what scores mean.
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
        """Names, for each split, the part of an image seen without augmentation."""
        return {
            name: crop_of(getattr(self.dataset, name).images)
            for name in ("train", "held_out")
        }

    @property
    def has_pixels(self) -> bool:
        """Whether images are small enough for raw pixels to serve as features."""
        return self.view.size**2 * len(self.view.mean) <= MOST_PIXELS


def crop_of(images: np.ndarray | Pictures) -> str:
    """Names the part of these images that evaluation looks at."""
    share = images.share if isinstance(images, Pictures) else 1.0
    return "whole" if share == 1.0 else f"central {share:g}"


def make_bench(runner: Runner, dataset: Dataset, view: View, num_threads: int) -> Bench:
    """Makes a bench of labelled images.

    Raises:
      UserError: a split has no labels or no images, the training images are all of one
        class, or the number of channels is not the view's.
    """
    for purpose, split in (
        ("to learn from", dataset.train),
        ("to test on", dataset.held_out),
    ):
        if split is None or split.labels is None or not len(split.labels):
            raise UserError(
                f"data {dataset.name}: there are no images with labels {purpose}: "
                "choose another data.name or data.split (of an image folder: "
                "data.classes and data.held_out)"
            )
    channels = dataset.train.images.shape[-1]
    if channels != len(view.mean):
        raise UserError(
            f"{dataset.name} has images of {channels} channels, but the encoder takes "
            f"{len(view.mean)}: choose another data.name"
        )
    labels = (dataset.train.labels, dataset.held_out.labels)
    check_classes(labels[0], dataset.name)
    if labels[0].ndim == 2:
        num_classes = labels[0].shape[1]
    else:
        num_classes = 1 + max(int(part.max()) for part in labels)
    facts = _facts(dataset) | {"classes": num_classes}
    notes = remarks(*labels)
    return Bench(runner, dataset, num_classes, view, num_threads, facts, notes)


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
