"""Data sets of TFDS: found on disk, or prepared on first use, and read by record.

Reading them needs no TensorFlow; preparing one does, in a process of its own.
"""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.decoding import decode
from invariance_propagation.data.load.pictures import CENTRAL, Pictures
from invariance_propagation.data.sources import prepare
from invariance_propagation.data.sources.stored import (
    Part,
    RecordIds,
    Records,
    cached_labels,
    content_of,
    label_of,
    read_all,
)
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.paths import local, reason
from invariance_propagation.signals import undone_at_end

TFDS = "tfds:"
HELD_OUT = ("validation", "test")  # the first that a set has
# Images of one known size are kept on every device up to so many bytes.
RESIDENT_BYTES = 1_000_000_000
# Larger ones are looked at in the middle, as pictures of any size are.
WHOLE_UP_TO = 128  # pixels
# It would take all of a GPU, and has much to say.
QUIET_TENSORFLOW = {
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


class Stock(NamedTuple):
    """What TFDS calls a set, with its config, and the split to train on."""

    name: str
    train: str = "train"


STOCK = {
    "imagenet": Stock("imagenet2012"),
    "imagenet_1pct": Stock("imagenet2012_subset/1pct"),
    "imagenet_10pct": Stock("imagenet2012_subset/10pct"),
    "cifar10": Stock("cifar10"),
    "cifar100": Stock("cifar100"),
    "svhn": Stock("svhn_cropped"),
    "stl10": Stock("stl10", "unlabelled"),
}


def load_records(
    name: str, folder: str, *, split: str, size: int, stretch_depth: bool = False
) -> Dataset:
    """A data set of TFDS, prepared if it is not there; see `sources.load`."""
    stock = STOCK.get(name) or Stock(name.removeprefix(TFDS))
    # Imported here: it takes half a second, and other sources need it not.
    import tensorflow_datasets as tfds

    root = _root(folder)
    if folder and not root.is_dir():  # a slip of the pen must start no download
        raise UserError(
            f"there is no folder {root}: make it, or name the one that TFDS's sets are "
            "in (data.folder; in an evaluation of other data other.tfds_folder)"
        )
    place = _find(stock.name, root)
    if place is None:
        _prepare(stock.name, root)
        place = _find(stock.name, root)
    with damage_named(place):
        return _open_set(tfds, place, split or stock.train, size, stretch_depth)


@contextlib.contextmanager
def damage_named(place: object) -> Iterator[None]:
    """Raises UserError for whatever TFDS and its readers raise where files are damaged."""
    try:
        yield
    except (UserError, TrainingError):
        raise
    except Exception as error:
        raise UserError(
            f"{place} cannot be read ({reason(error)}): if its files are damaged, move "
            "them away, so that TFDS prepares them anew"
        ) from error


def _open_set(
    tfds: Any, place: Path, chosen: str, size: int, stretch_depth: bool
) -> Dataset:
    for path in place.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a pipe, socket or device: remove it")
    _check_features(place / "features.json")
    builder = tfds.builder_from_directory(place)
    _check_readable(builder, tfds, place)
    others = (other for other in HELD_OUT if other in builder.info.splits)
    held_out = next((other for other in others if other not in chosen), None)
    parts = [
        _open_split(builder, tfds, name) for name in filter(None, (chosen, held_out))
    ]
    features = builder.info.features
    # Both or neither: one set is seen in one way.
    resident = _is_resident(features["image"].shape, parts)
    train, *rest = (
        _read_split(builder, tfds, x, size, resident, stretch_depth) for x in parts
    )
    return Dataset(
        builder.info.full_name,
        train,
        rest[0] if rest else None,
        features["label"].names if _has_labels(features, tfds) else (),
    )


def is_prepared(name: str, folder: str) -> bool:
    """Whether a data set of TFDS lies there, so that nothing would be downloaded."""
    stock = STOCK.get(name) or Stock(name.removeprefix(TFDS))
    return _find(stock.name, _root(folder)) is not None


def _root(folder: str) -> Path:
    import tensorflow_datasets as tfds

    return local(folder or tfds.core.constants.DATA_DIR, key="data.folder")


def _find(name: str, root: Path) -> Path | None:
    """Where the newest version of a prepared set lies."""
    found = [path.parent for path in (root / name).glob("*.*.*/dataset_info.json")]
    versions = {
        tuple(map(int, path.name.split("."))): path
        for path in found
        if path.name.replace(".", "").isdecimal()
    }
    return versions[max(versions)] if versions else None


def _prepare(name: str, root: Path) -> None:
    print(f"{name} is not in {root} yet: TFDS downloads and prepares it, once")
    process = subprocess.Popen(
        # Not as a script in its folder, whose modules would hide others.
        [sys.executable, "-P", prepare.__file__, name, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET_TENSORFLOW,
        start_new_session=True,  # a terminal's Ctrl-C is for this process
    )
    with process, undone_at_end(process.kill):
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = " ".join(output.split()) or f"status {process.returncode}"
        raise UserError(
            f"TFDS could not prepare {name} in {root}: {reason[:600]}; if it lies "
            "elsewhere, name the folder that holds it (data.folder; in an evaluation "
            "of other data other.tfds_folder)"
        )


def _check_readable(builder: Any, tfds: Any, place: Path) -> None:
    kind = builder.info.file_format.value
    if kind != "array_record":
        raise UserError(
            f"{place} is stored as {kind}, which only TensorFlow can read: convert it "
            "by 'tfds convert_format --out_file_format=array_record' (pip install "
            "apache-beam tensorflow-cpu), or prepare it anew in another data.folder"
        )
    features = builder.info.features
    if not _has(features, "image", tfds.features.Image):
        raise UserError(
            f"{place} has no feature 'image' (it has {', '.join(features)}): choose a "
            "set of pictures"
        )


def _check_features(path: Path) -> None:
    """Raises UserError for features that are not TFDS's, whose module TFDS would run."""
    with open_file(path) as file:
        waiting = [json.load(file)]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            for key in ("pythonClassName", "type"):
                name = found.get(key, "tensorflow_datasets.")
                if isinstance(name, str) and not name.startswith(
                    "tensorflow_datasets."
                ):
                    raise UserError(
                        f"{path} names {name}, which is no feature of TFDS and would be "
                        "run: choose a set of pictures with TFDS's features alone"
                    )
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _has(features: Any, name: str, kind: type) -> bool:
    return name in features and isinstance(features[name], kind)


def _has_labels(features: Any, tfds: Any) -> bool:
    return _has(features, "label", tfds.features.ClassLabel)


def _open_split(builder: Any, tfds: Any, split: str) -> Part:
    try:
        instructions = builder.info.splits[split].file_instructions
        source = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"data.split={split!r}: {builder.info.full_name} has {known}, of which "
            "'train[:10%]' is a part and 'train+test' a union"
        ) from error
    files = [(Path(x.filename), x.skip, x.take) for x in instructions]
    for path, skip, take in files:
        if skip + take > path.stat().st_size:  # a record takes a byte or more
            raise ValueError(f"{path.name} is too short for {skip + take:,} records")
    ids = RecordIds([(path.name, skip, take) for path, skip, take in files])
    return Part(split, source, ids, files)


def share_of(shape: tuple[int | None, ...]) -> float:
    """Which part of an image's shorter side evaluation looks at, by the kind of set.

    Small images of one size are looked at as a whole; of pictures and of large images
    it is the middle.
    """
    small = None not in shape and max(shape[:2]) <= WHOLE_UP_TO
    return 1.0 if small else CENTRAL


def _is_resident(shape: tuple[int | None, ...], parts: Sequence[Part]) -> bool:
    if share_of(shape) != 1.0:
        return False
    return max(len(part.ids) for part in parts) * math.prod(shape) <= RESIDENT_BYTES


def _read_split(
    builder: Any,
    tfds: Any,
    part: Part,
    size: int,
    resident: bool,
    stretch_depth: bool,
) -> Split:
    features, title = builder.info.features, f"{builder.info.full_name} {part.name}"
    source, shape = part.source, features["image"].shape
    has_labels = _has_labels(features, tfds)
    if resident:
        images = _read_pixels(source, part.ids, shape, title, stretch_depth)
        labels = read_all(source, label_of, "labels") if has_labels else None
        return Split(images, _labels(labels), part.ids)
    labels = cached_labels(part, title) if has_labels else None
    pictures = Pictures(
        part.ids,
        Records(source, content_of(source, labels)),
        size=size,
        where=builder.info.full_name,
        stretch_depth=stretch_depth,
        share=share_of(shape),
    )
    return Split(pictures, _labels(labels), part.ids)


def _read_pixels(
    source: Any,
    ids: Sequence[str],
    shape: tuple[int, ...],
    title: str,
    stretch_depth: bool,
) -> np.ndarray:
    """uint8 [n, H, W, C]; raises TrainingError with the id of a damaged one."""
    try:
        return read_all(source, lambda row: _pixels(row, shape, stretch_depth), title)
    except ValueError:
        encoded = Pictures(
            ids,
            Records(source, b""),
            size=shape[0],
            where=title,
            stretch_depth=stretch_depth,
        )
        for index in range(len(ids)):
            encoded.read(index)  # one of them raises, by name
        raise


def _pixels(
    row: dict[str, Any], shape: tuple[int, ...], stretch_depth: bool
) -> np.ndarray:
    return decode(row["image"], stretch_depth=stretch_depth)[..., : shape[2]]


def _labels(labels: np.ndarray | None) -> np.ndarray | None:
    """None where TFDS writes -1, as for unlabelled images."""
    return None if labels is None or (labels < 0).any() else labels
