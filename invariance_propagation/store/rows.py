"""Rows of sharded arrays in a checkpoint, each written by the process that holds them.

An array that outgrows one host cannot pass through process 0. With
`train.gather_checkpoints=False`, every process first writes files of its own rows. Then
process 0 writes the checkpoint, whose facts list these files with their first row, shape
and CRC-32. Nothing reads a file that no facts list.
"""

import math
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from invariance_propagation.errors import TrainingError
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.store.facts import checksum, map_named

PREFIX = "rows_"
SHARE = (
    "use a --workdir that all processes share, or "
    "--config.train.gather_checkpoints=True"
)


class MissingRows(ValueError):
    """Reports that a file of rows is not where the facts of a checkpoint say."""


def folder_of(folder: Path, step: int) -> Path:
    """Returns where the rows of a step are; `folder` is that of all checkpoints."""
    return folder / f"{PREFIX}{step}"


def paths_of(folder: Path, step: int) -> list[Path]:
    """Returns the folders that a checkpoint consists of; the one of the step is last."""
    rows = folder_of(folder, step)
    return [*([rows] if rows.exists() else []), folder / str(step)]


def write_rows(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    process: int,
    num_processes: int,
    first: int,
) -> list[dict[str, Any]]:
    """Writes one process's rows of each sharded array, and waits for the disk.

    Args:
      folder: as from `folder_of`; all processes write into the same one.
      arrays: by the name of the array, as `facts.leaves_of` names it.
      process, num_processes: they name the files. Runs with the same number of processes
        write the same bytes, so a late one can replace nothing by something else.
      first: the number of the first of these rows, in the whole array.

    Returns:
      What facts note about each file: array, file, first, shape, dtype, crc32.

    Raises:
      OSError: a file cannot be written.
    """
    pieces = []
    for number, (name, x) in enumerate(arrays.items()):
        file = f"{process}_of_{num_processes}_{number}"
        with draft_of(folder / file) as draft, draft.open("wb") as opened:
            opened.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
            opened.flush()
            # Orbax does the same for what lists these files.
            os.fsync(opened.fileno())
        piece = {"array": name, "file": file, "first": first, "crc32": checksum(x)}
        pieces.append(piece | {"shape": list(x.shape), "dtype": str(x.dtype)})
    return pieces


def check_seen(folder: Path, pieces: Sequence[Mapping[str, Any]]) -> None:
    """Checks that this process sees what the others have written.

    Raises:
      TrainingError: a file is not there.
    """
    for piece in pieces:
        if not (folder / piece["file"]).exists():
            raise TrainingError(
                f"another process has written {folder / piece['file']}, and process 0 "
                f"does not see it: {SHARE}"
            )


def describe_rows(pieces: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns whole arrays as `facts.describe_arrays` does, with files for a checksum.

    Args:
      pieces: what `write_rows` returned in all processes, in their order.
    """
    arrays: dict[str, dict[str, Any]] = {}
    for piece in pieces:
        fact = arrays.setdefault(
            piece["array"],
            {"shape": [0, *piece["shape"][1:]], "dtype": piece["dtype"], "rows": []},
        )
        fact["shape"][0] += piece["shape"][0]
        of_file = ("file", "first", "shape", "crc32")
        fact["rows"].append({name: piece[name] for name in of_file})
    return arrays


def in_files(arrays: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Names the arrays, of those that facts describe, whose rows are in files."""
    return {name for name, fact in arrays.items() if "rows" in fact}


def to_read(target: Any, arrays: Mapping[str, Mapping[str, Any]]) -> Any:
    """Returns what Orbax is to read: None for arrays whose rows are in files.

    Args:
      target: pytree of jax.ShapeDtypeStruct.
      arrays: what facts describe.
    """
    # NumPy leaves make Orbax return NumPy arrays, whatever devices wrote them.
    return jax.tree.map(
        lambda x: np.empty(x.shape, x.dtype), leave_out(in_files(arrays), target)
    )


def leave_out(names: Collection[str], tree: Any) -> Any:
    """Returns a tree with None in place of the arrays of these names."""
    return map_named(lambda name, x: None if name in names else x, tree)


def read_rows(
    folder: Path, fact: Mapping[str, Any], wanted: slice | None = None
) -> np.ndarray:
    """Reads rows of one array, and skips files that hold none of them.

    Args:
      folder: as from `folder_of`.
      fact: of the array, as from `describe_rows`.
      wanted: which rows; None for all.

    Returns:
      The rows, [wanted.stop - wanted.start, ...].

    Raises:
      MissingRows: a file is not there.
      ValueError: a file has changed since it was written, or no file has a row.
      OSError: a file cannot be read.
    """
    start, stop = (wanted.start, wanted.stop) if wanted else (0, fact["shape"][0])
    rows = np.empty((stop - start, *fact["shape"][1:]), fact["dtype"])
    next_row = start
    for piece, first, last in _overlapping(fact["rows"], start, stop):
        if first != next_row:
            break
        stored = _read_file(folder / Path(piece["file"]).name, piece, rows.dtype)
        offset = piece["first"]
        rows[first - start : last - start] = stored[first - offset : last - offset]
        next_row = last
    if next_row != stop:
        raise ValueError(f"no file of {folder.name} has row {next_row:,}")
    return rows


def fill_rows(
    state: Any,
    folder: Path,
    arrays: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, slice] = MappingProxyType({}),
) -> Any:
    """Returns a state with rows in place of None.

    Args:
      state: pytree of NumPy arrays, None where rows are in files.
      folder: as from `folder_of`.
      arrays: what facts describe.
      wanted: which rows of an array, by its name; all of those that it does not name.

    Raises:
      Exception: as `read_rows`.
    """
    filed = in_files(arrays)

    def fill(name: str, x: np.ndarray | None) -> np.ndarray | None:
        if name not in filed:
            return x
        return read_rows(folder, arrays[name], wanted.get(name))

    return map_named(fill, state)


def forget_rows(folder: Path, *, keep: Collection[int]) -> None:
    """Removes the folders of rows of all steps but those to keep.

    Args:
      folder: of all checkpoints.
      keep: steps that have a checkpoint, or will have one.
    """
    kept = {folder_of(folder, step).name for step in keep}
    for path in folder.glob(f"{PREFIX}*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _overlapping(
    pieces: Sequence[Mapping[str, Any]], start: int, stop: int
) -> Iterator[tuple[Mapping[str, Any], int, int]]:
    """Yields the pieces with rows from `start` to `stop`, and which of these they have."""
    for piece in sorted(pieces, key=lambda piece: piece["first"]):
        first = max(start, piece["first"])
        last = min(stop, piece["first"] + piece["shape"][0])
        if first < last:
            yield piece, first, last


def _read_file(path: Path, piece: Mapping[str, Any], dtype: np.dtype) -> np.ndarray:
    name = f"{path.parent.name}/{path.name}"
    try:
        found = path.stat()
    except FileNotFoundError:
        raise MissingRows(
            f"{name} is not there: it belongs beside the folder of the step"
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{name} is a pipe, socket or device")
    right = found.st_size == math.prod(piece["shape"]) * dtype.itemsize
    x = np.frombuffer(path.read_bytes(), np.uint8) if right else None
    if x is None or checksum(x) != piece["crc32"]:
        raise ValueError(f"{name} has changed since it was written")
    return x.view(dtype).reshape(piece["shape"])
