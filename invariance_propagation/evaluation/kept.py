"""Keeps the features of many images in one file, written and read in blocks.

The file is an .npz with one member per block, so that writing and reading need no more
memory than one block. A CRC-32 per member detects damaged bytes.
"""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from invariance_propagation.files.archives import open_arrays
from invariance_propagation.files.atomic import draft_of

FACTS = "facts"
BLOCKS = "blocks"  # key of the number of blocks among the facts
ROWS = "rows"
VECTORS = ("features", "embeddings")


class Block(NamedTuple):
    """Holds the features of some images.

    Attributes:
      rows: int64 [n], positions of these images among all images.
      features: float32 [n, F], from the backbone.
      embeddings: float32 [n, d], from the head; None for a backbone without one.
    """

    rows: np.ndarray
    features: np.ndarray
    embeddings: np.ndarray | None


class Damaged(Exception):
    """Says that a file of features cannot be read."""


def read_facts(path: Path) -> dict[str, Any] | None:
    """Reads the facts that a file of features holds; None if there is no such file.

    Raises:
      Damaged: the file cannot be read.
    """
    if not path.exists():
        return None
    with _damage_named(), open_arrays(path) as arrays:
        return dict(json.loads(str(arrays[FACTS])))


def read_blocks(path: Path, by: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows int64 [n] and vectors float32 [n, F or d] of each block.

    Args:
      path: the file.
      by: which of `VECTORS` to read.

    Raises:
      Damaged: the file cannot be read, or ends early.
    """
    with contextlib.ExitStack() as stack:
        with _damage_named():
            arrays = stack.enter_context(open_arrays(path))
            count = json.loads(str(arrays[FACTS]))[BLOCKS]
        for number in range(count):
            with _damage_named():
                block = arrays[f"{ROWS}-{number}"], arrays[f"{by}-{number}"]
            yield block


class Keeper:
    """Writes blocks into a file that gets its name once it is complete.

    If writing fails, this is reported once, in one line, and later blocks are ignored.
    Use it as a context manager; without `finish` no file is left.
    """

    def __init__(self, path: Path, num_bytes: int, report: Callable[[str], None]):
        """Prepares to write.

        Args:
          path: the file; its folder is created.
          num_bytes: estimate of the file's size, checked against the free space.
          report: called with a line if writing fails.
        """
        self._path, self._num_bytes, self._report = path, num_bytes, report
        self._stack = contextlib.ExitStack()
        self._archive: zipfile.ZipFile | None = None
        self._count = 0

    def __enter__(self) -> "Keeper":
        with self._given_up():
            draft = self._stack.enter_context(draft_of(self._path))
            free = shutil.disk_usage(draft.parent).free
            if free < self._num_bytes:
                raise OSError(
                    f"it takes {self._num_bytes / 1e6:,.1f} MB, {free / 1e6:,.1f} are "
                    "free"
                )
            self._archive = self._stack.enter_context(zipfile.ZipFile(draft, "w"))
        return self

    def add(self, block: Block) -> None:
        """Writes one more block."""
        with self._given_up():
            self._write(ROWS, block.rows)
            for name in VECTORS:
                if getattr(block, name) is not None:
                    self._write(name, getattr(block, name))
            self._count += 1

    def finish(self, facts: Mapping[str, Any]) -> bool:
        """Writes the facts and gives the file its name; returns whether that worked."""
        if self._archive is None:
            return False
        with self._given_up():
            facts = dict(facts) | {BLOCKS: self._count}
            self._write_member(FACTS, np.array(json.dumps(facts)))
            self._archive = None
            self._stack.close()
            return True
        return False

    def __exit__(self, *error: Any) -> None:
        if self._archive is not None:
            self._discard(RuntimeError("not finished"))

    def _write(self, name: str, array: np.ndarray) -> None:
        self._write_member(f"{name}-{self._count}", array)

    def _write_member(self, name: str, array: np.ndarray) -> None:
        if self._archive is not None:
            with self._archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

    @contextlib.contextmanager
    def _given_up(self) -> Iterator[None]:
        """Reports an OSError and gives up writing the file."""
        try:
            yield
        except OSError as error:
            self._report(f"{self._path} cannot be written ({error})")
            self._discard(error)

    def _discard(self, error: Exception) -> None:
        """Removes the draft, in whatever state it is."""
        self._archive = None
        with contextlib.suppress(type(error), OSError, ValueError):
            self._stack.__exit__(type(error), error, error.__traceback__)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    # zipfile and NumPy raise a dozen kinds of errors for a file that is not theirs.
    try:
        yield
    except Exception as error:
        first, *_ = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(first[:200]) from error
