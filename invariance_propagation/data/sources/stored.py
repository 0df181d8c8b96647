"""Records of TFDS as they lie in their files: their ids, labels and a digest of them."""

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
      source: of TFDS.
      content: a digest of what the source holds.
    """

    source: Any
    content: bytes

    def __call__(self, index: int) -> bytes:
        return self.source[index]["image"]

    def mark(self, index: int) -> bytes:
        """The same for each: to read all of them would take as long as an epoch."""
        del index
        return self.content

    marks_each = False


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


class Part(NamedTuple):
    """A split that has been opened.

    Attributes:
      name: of the split.
      source: of TFDS, its records.
      ids: of them.
      files: that hold them, with the first record and the number of each.
    """

    name: str
    source: Any
    ids: RecordIds
    files: list[tuple[Path, int, int]]


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


def label_of(row: dict[str, Any]) -> np.int32:
    return np.int32(row["label"])


def cached_labels(part: Part, title: str) -> np.ndarray:
    """Labels lie within the records: they are read once, and kept in a cache.

    They are read again when one of the files has changed, or lies elsewhere.
    """
    state = hashlib.sha256(title.encode())
    for path, skip, take in part.files:
        about = path.stat()
        times = about.st_mtime_ns, about.st_ctime_ns, about.st_ino
        own = (os.fsencode(path), skip, take, about.st_size, *times)
        state.update(repr(own).encode())
    path = cache_path(f"labels-{state.hexdigest()[:16]}.npz")
    labels = read_arrays(path).get("labels")
    if labels is None or labels.dtype != np.int32 or labels.shape != (len(part.ids),):
        labels = read_all(part.source, label_of, f"labels of {title}")
        keep_arrays(path, labels=labels)
    return labels


def content_of(source: Any, labels: np.ndarray | None) -> bytes:
    """A digest of all labels, and of so many pictures, evenly spread, as they lie."""
    state = hashlib.sha256(b"" if labels is None else labels.tobytes())
    count = len(source)
    rows = np.linspace(0, count - 1, min(count, PICTURES_IN_DIGEST)).round()
    for row in source.__getitems__(rows.astype(int).tolist()) if count else ():
        state.update(hashlib.sha256(row["image"]).digest())
    return state.digest()
