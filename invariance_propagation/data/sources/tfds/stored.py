"""Reads the records of TFDS from their files: ids, labels, and a digest of them."""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm

from invariance_propagation.files.cache import cache_path, keep_arrays, read_arrays

RECORDS_AT_ONCE = 256
PICTURES_IN_DIGEST = 256


class Records(NamedTuple):
    """Reads the encoded picture of an index.

    Attributes:
      source: the data source of TFDS.
      content: a digest of what the source holds.
    """

    source: Any
    content: bytes

    def __call__(self, index: int) -> bytes:
        """Returns the encoded picture."""
        return self.source[index]["image"]

    def mark(self, index: int) -> bytes:
        """Returns the digest of the whole set, the same for every picture.

        Reading each picture for a mark of its content would take as long as an epoch.
        """
        del index
        return self.content

    marks_each = False


class RecordIds(Sequence):
    """TFDS's ids, 'FILE__PLACE', made on demand: there may be millions."""

    def __init__(self, files: Sequence[tuple[str, int, int]]):
        """Takes the name, first record and number of records of each file."""
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


class OpenSplit(NamedTuple):
    """A split whose records can be read.

    Attributes:
      name: of the split.
      source: the data source of TFDS.
      ids: of the records.
      files: path, first record and number of records of each file.
    """

    name: str
    source: Any
    ids: RecordIds
    files: list[tuple[Path, int, int]]


def read_all(
    source: Any, extract: Callable[[dict[str, Any]], np.ndarray], title: str
) -> np.ndarray:
    """Reads all records with a bar; returns what `extract` takes from each, stacked."""

    def read(start: int) -> np.ndarray:
        rows = range(start, min(start + RECORDS_AT_ONCE, len(source)))
        return np.stack([extract(row) for row in source.__getitems__(rows)])

    starts = range(0, len(source), RECORDS_AT_ONCE)
    bar = {"desc": title, "unit_scale": RECORDS_AT_ONCE, "unit": "image"}
    with ThreadPoolExecutor() as pool:
        batches = tqdm.tqdm(
            pool.map(read, starts),
            total=len(starts),
            disable=None,
            leave=False,
            **bar,
        )
        return np.concatenate(list(batches))


def label_of(row: dict[str, Any]) -> np.int32:
    """Returns the label of a record."""
    return np.int32(row["label"])


def cached_labels(split: OpenSplit, title: str) -> np.ndarray:
    """Reads the labels of a split, int32 [n], once; later calls take them from a cache.

    Labels are inside the records. They are read again when a file has changed or moved.
    """
    state = hashlib.sha256(title.encode())
    for path, skip, take in split.files:
        about = path.stat()
        times = about.st_mtime_ns, about.st_ctime_ns, about.st_ino
        facts = (os.fsencode(path), skip, take, about.st_size, *times)
        state.update(repr(facts).encode())
    path = cache_path(f"labels-{state.hexdigest()[:16]}.npz")
    labels = read_arrays(path).get("labels")
    if labels is None or labels.dtype != np.int32 or labels.shape != (len(split.ids),):
        labels = read_all(split.source, label_of, f"labels of {title}")
        keep_arrays(path, labels=labels)
    return labels


def content_of(source: Any, labels: np.ndarray | None) -> bytes:
    """Returns a digest of all labels and of up to 256 evenly spread pictures."""
    state = hashlib.sha256(b"" if labels is None else labels.tobytes())
    count = len(source)
    rows = np.linspace(0, count - 1, min(count, PICTURES_IN_DIGEST)).round()
    for row in source.__getitems__(rows.astype(int).tolist()) if count else ():
        state.update(hashlib.sha256(row["image"]).digest())
    return state.digest()
