"""Opens a prepared data set of TFDS and reads its splits, without TensorFlow."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.decoding import decode
from invariance_propagation.data.load.pictures import CENTRAL, Pictures
from invariance_propagation.data.sources.tfds.stored import (
    OpenSplit,
    RecordIds,
    Records,
    cached_labels,
    content_of,
    label_of,
    read_all,
)
from invariance_propagation.errors import UserError
from invariance_propagation.files.archives import open_file

HELD_OUT = ("validation", "test")  # the first of these that a set has
# Images of one known size up to this many bytes are kept on every device.
RESIDENT_BYTES = 1_000_000_000
# Evaluation shows a square image whole up to this size, and the middle of others.
WHOLE_UP_TO = 128  # pixels
TFDS_MODULE = "tensorflow_datasets."


def open_set(place: Path, train: str, *, size: int, stretch_depth: bool) -> Dataset:
    """Opens a prepared set.

    Args:
      place: the folder of one version of the set.
      train: the split to train on.
      size: height and width of the crops of streamed pictures, in pixels.
      stretch_depth: as in `decode`.

    Raises:
      UserError: the set cannot be read here, or has no such split or no pictures.
      TrainingError: a picture is damaged.
      Exception: files are damaged; TFDS and its readers raise nearly everything.
    """
    # Imported here: it takes half a second, and other sources do not need it.
    import tensorflow_datasets as tfds

    for path in place.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a pipe, socket or device: remove it")
    _check_features(place / "features.json")
    builder = tfds.builder_from_directory(place)
    _check_readable(builder, tfds, place)
    others = (other for other in HELD_OUT if other in builder.info.splits)
    held_out = next((other for other in others if other not in train), None)
    opened = [_open_split(builder, tfds, x) for x in (train, held_out) if x]
    features = builder.info.features
    # Both splits or neither: evaluation must treat them in the same way.
    resident = _is_resident(features["image"].shape, opened)
    read = _read_resident if resident else _read_streamed
    splits = [read(builder, tfds, x, size, stretch_depth) for x in opened]
    return Dataset(
        builder.info.full_name,
        splits[0],
        splits[1] if held_out else None,
        features["label"].names if _has_labels(features, tfds) else (),
    )


def share_of(shape: tuple[int | None, ...]) -> float:
    """Returns the share of an image's shorter side that evaluation shows.

    Small square images of one size are shown whole; of all others, the middle.

    Args:
      shape: (H, W, C) as TFDS declares it, None where it varies.
    """
    height, width, _ = shape
    small = height is not None and height == width <= WHOLE_UP_TO
    return 1.0 if small else CENTRAL


def _check_readable(builder: Any, tfds: Any, place: Path) -> None:
    kind = builder.info.file_format.value
    if kind != "array_record":
        raise UserError(
            f"{place} is stored as {kind}, which only TensorFlow can read: convert it "
            "by 'tfds convert_format --out_file_format=array_record' (pip install "
            "apache-beam tensorflow-cpu), or prepare it anew in another "
            "--config.data.folder"
        )
    features = builder.info.features
    if not _has(features, "image", tfds.features.Image):
        raise UserError(
            f"{place} has no feature 'image' (it has {', '.join(features)}): choose a "
            "set of pictures"
        )


def _check_features(path: Path) -> None:
    """Raises UserError for features from outside TFDS, whose module TFDS would run."""
    with open_file(path) as file:
        waiting = [json.load(file)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for key in ("pythonClassName", "type"):
                name = node.get(key, TFDS_MODULE)
                if isinstance(name, str) and not name.startswith(TFDS_MODULE):
                    raise UserError(
                        f"{path} names {name}, which is not a feature of TFDS and would "
                        "be run: choose a set of pictures that has only TFDS's features"
                    )
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _has(features: Any, name: str, kind: type) -> bool:
    return name in features and isinstance(features[name], kind)


def _has_labels(features: Any, tfds: Any) -> bool:
    return _has(features, "label", tfds.features.ClassLabel)


def _open_split(builder: Any, tfds: Any, split: str) -> OpenSplit:
    try:
        instructions = builder.info.splits[split].file_instructions
        source = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"--config.data.split={split!r}: {builder.info.full_name} has {known}; you "
            "can name a part, as 'train[:10%]', or a union, as 'train+test'"
        ) from error
    files = [(Path(x.filename), x.skip, x.take) for x in instructions]
    for path, skip, take in files:
        if skip + take > path.stat().st_size:  # a record takes at least a byte
            raise ValueError(f"{path.name} is too short for {skip + take:,} records")
    ids = RecordIds([(path.name, skip, take) for path, skip, take in files])
    return OpenSplit(split, source, ids, files)


def _is_resident(shape: tuple[int | None, ...], opened: Sequence[OpenSplit]) -> bool:
    if share_of(shape) != 1.0:
        return False
    return max(len(x.ids) for x in opened) * math.prod(shape) <= RESIDENT_BYTES


def _read_resident(
    builder: Any, tfds: Any, opened: OpenSplit, size: int, stretch_depth: bool
) -> Split:
    """Reads all images and labels of a split into arrays."""
    del size
    features, title = builder.info.features, f"{builder.info.full_name} {opened.name}"
    images = _read_pixels(opened, features["image"].shape, title, stretch_depth)
    labels = None
    if _has_labels(features, tfds):
        labels = read_all(opened.source, label_of, "labels")
    return Split(images, _labels(labels), opened.ids)


def _read_streamed(
    builder: Any, tfds: Any, opened: OpenSplit, size: int, stretch_depth: bool
) -> Split:
    """Reads the labels of a split; its pictures are read when they are needed."""
    features, title = builder.info.features, f"{builder.info.full_name} {opened.name}"
    labels = cached_labels(opened, title) if _has_labels(features, tfds) else None
    pictures = Pictures(
        opened.ids,
        Records(opened.source, content_of(opened.source, labels)),
        size=size,
        where=builder.info.full_name,
        stretch_depth=stretch_depth,
        share=share_of(features["image"].shape),
    )
    return Split(pictures, _labels(labels), opened.ids)


def _read_pixels(
    opened: OpenSplit, shape: tuple[int, ...], title: str, stretch_depth: bool
) -> np.ndarray:
    """Returns uint8 [n, H, W, C]; raises TrainingError with the id of a damaged one."""

    def pixels(row: dict[str, Any]) -> np.ndarray:
        return decode(row["image"], stretch_depth=stretch_depth)[..., : shape[2]]

    try:
        return read_all(opened.source, pixels, title)
    except ValueError:
        encoded = Pictures(
            opened.ids,
            Records(opened.source, b""),
            size=shape[0],
            where=title,
            stretch_depth=stretch_depth,
        )
        for index in range(len(opened.ids)):
            encoded.read(index)  # raises for the damaged picture, with its id
        raise


def _labels(labels: np.ndarray | None) -> np.ndarray | None:
    """Returns None where TFDS writes -1, as for unlabelled images."""
    return None if labels is None or (labels < 0).any() else labels
