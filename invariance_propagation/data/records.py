"""Data sets of TFDS: found on disk, or prepared on first use, and read by record.

Reading them needs no TensorFlow; preparing one does, in a process of its own.
"""

import hashlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm

from invariance_propagation.data import prepare
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.pictures import Pictures, decode
from invariance_propagation.drafts import draft_of
from invariance_propagation.errors import UserError
from invariance_propagation.paths import local

TFDS = "tfds:"
HELD_OUT = ("validation", "test")  # the first that a set has
# Images of one known size are kept on every device up to so many bytes.
RESIDENT_BYTES = 1_000_000_000
RECORDS_AT_ONCE = 256
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


class Records(NamedTuple):
    """Reads the encoded picture of an index."""

    source: Any  # of TFDS

    def __call__(self, index: int) -> bytes:
        return self.source[index]["image"]


class RecordIds(Sequence):
    """TFDS's ids, 'FILE__PLACE', made when they are asked for: there may be millions."""

    def __init__(self, files: Sequence[tuple[str, int, int]]):
        """`files`: name, first record and number of records of each."""
        self._files = files
        self._ends = list(itertools.accumulate(count for _, _, count in files))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[str]:
        for name, first, count in self._files:
            yield from (f"{name}__{first + i}" for i in range(count))

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        file = int(np.searchsorted(self._ends, place, side="right"))
        name, first, count = self._files[file]
        return f"{name}__{first + place - self._ends[file] + count}"


def load_records(name: str, folder: str, *, split: str, size: int) -> Dataset:
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
    builder = tfds.builder_from_directory(place)
    _check_readable(builder, tfds, place)
    chosen = split or stock.train
    train = _read_split(builder, tfds, chosen, size)
    others = (other for other in HELD_OUT if other in builder.info.splits)
    held_out = next((other for other in others if other not in chosen), None)
    features = builder.info.features
    return Dataset(
        builder.info.full_name,
        train,
        held_out and _read_split(builder, tfds, held_out, size),
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
    versions = {tuple(map(int, path.name.split("."))): path for path in found}
    return versions[max(versions)] if versions else None


def _prepare(name: str, root: Path) -> None:
    print(f"{name} is not in {root} yet: TFDS downloads and prepares it, once")
    process = subprocess.run(
        # Not as a script in its folder, whose modules would hide others.
        [sys.executable, "-P", prepare.__file__, name, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET_TENSORFLOW,
    )
    if process.returncode:
        reason = " ".join(process.stdout.split()) or f"status {process.returncode}"
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


def _has(features: Any, name: str, kind: type) -> bool:
    return name in features and isinstance(features[name], kind)


def _has_labels(features: Any, tfds: Any) -> bool:
    return _has(features, "label", tfds.features.ClassLabel)


def _read_split(builder: Any, tfds: Any, split: str, size: int) -> Split:
    try:
        files = builder.info.splits[split].file_instructions
        source = builder.as_data_source(
            split, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except ValueError as error:
        known = ", ".join(builder.info.splits)
        raise UserError(
            f"data.split={split!r}: {builder.info.full_name} has {known}, of which "
            "'train[:10%]' is a part and 'train+test' a union"
        ) from error
    features, name = builder.info.features, builder.info.full_name
    ids = RecordIds([(Path(f.filename).name, f.skip, f.take) for f in files])
    pictures = Pictures(ids, Records(source), size=size, where=name)
    has_labels = _has_labels(features, tfds)
    shape = features["image"].shape
    if None not in shape and len(ids) * math.prod(shape) <= RESIDENT_BYTES:
        images = read_all(source, lambda row: _pixels(row, shape), f"{name} {split}")
        labels = read_all(source, _label, "labels") if has_labels else None
        return Split(images, _labels(labels), ids)
    labels = _cached_labels(source, ids, f"{name} {split}") if has_labels else None
    return Split(pictures, _labels(labels), ids)


def _label(row: dict[str, Any]) -> np.int32:
    return np.int32(row["label"])


def _pixels(row: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    return decode(row["image"])[..., : shape[2]]


def _labels(labels: np.ndarray | None) -> np.ndarray | None:
    """None where TFDS writes -1, as for unlabelled images."""
    return None if labels is None or (labels < 0).any() else labels


def read_all(
    source: Any, part: Callable[[dict[str, Any]], np.ndarray], title: str
) -> np.ndarray:
    """That part of each record, stacked."""

    def read(start: int) -> np.ndarray:
        rows = range(start, min(start + RECORDS_AT_ONCE, len(source)))
        return np.stack([part(row) for row in source.__getitems__(rows)])

    starts = range(0, len(source), RECORDS_AT_ONCE)
    bar = {"desc": title, "unit_scale": RECORDS_AT_ONCE, "unit": "image"}
    with ThreadPoolExecutor() as pool:
        found = pool.map(read, starts)
        parts = tqdm.tqdm(found, total=len(starts), disable=None, leave=False, **bar)
        return np.concatenate(list(parts))


def _cached_labels(source: Any, ids: RecordIds, title: str) -> np.ndarray:
    """Labels lie within the records: they are read once, and kept in a cache."""
    name = hashlib.sha256("\0".join([title, *ids]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "invariance_propagation" / f"labels-{name}.npy"
    try:
        labels = np.load(path, allow_pickle=False)
        if labels.shape == (len(ids),):
            return labels
    except (OSError, ValueError, EOFError):
        pass
    labels = read_all(source, _label, f"labels of {title}")
    try:
        with draft_of(path) as draft, draft.open("wb") as file:
            np.save(file, labels)
    except OSError:  # read again next time
        pass
    return labels
