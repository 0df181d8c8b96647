"""Files that others may have made: opened if they are files, read if they are arrays.

Nothing in them is run: no pickle is loaded, and no size that they claim is believed.
"""

import contextlib
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

SUFFIX = ".npy"  # of an .npz file's members
# How pickles begin, by their protocol.
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading. A pipe, socket or device is not opened: it may never end.

    Raises:
      OSError: it cannot be opened, or is no regular file.
    """
    _check_regular(os.stat(path))
    # What took its place since then neither blocks nor is read.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(opened))
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def _check_regular(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is no regular file")


class Arrays:
    """The arrays of an .npz file, each read when it is asked for by its name.

    Attributes:
      names: of the arrays, in the order of the file.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None):
        """Reads which arrays there are.

        Raises:
          ValueError: they take more than `max_bytes`; or without it, more than the file.
          Exception: this is no .npz file.
        """
        self._archive = zipfile.ZipFile(file)
        members = self._archive.infolist()
        limit = os.fstat(file.fileno()).st_size if max_bytes is None else max_bytes
        claimed = sum(member.file_size for member in members)
        if claimed > limit:
            raise ValueError(f"it unpacks to {claimed:,} bytes, more than {limit:,}")
        self.names = [x.filename.removesuffix(SUFFIX) for x in members]

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads an array.

        Raises:
          ValueError: it holds Python objects, or is not as large as it claims.
          Exception: it is damaged, or there is none.
        """
        member = self._archive.getinfo(name + SUFFIX)
        with self._archive.open(member) as file:
            shape, dtype = _read_header(file)
            held = member.file_size - file.tell()
        if dtype.hasobject:
            raise ValueError(
                f"{name} is a pickle of Python objects, which could run code"
            )
        if min(shape, default=0) < 0 or dtype.itemsize * math.prod(shape) != held:
            raise ValueError(f"{name} has {held:,} bytes, which is not what it claims")
        with self._archive.open(member) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it has arrays of NumPy's version {version}")
    if not dtype.itemsize:
        raise ValueError("it has an array of a type without a size")
    return shape, dtype


@contextlib.contextmanager
def open_arrays(path: Path, *, max_bytes: int | None = None) -> Iterator[Arrays]:
    """Opens an .npz file, without pickles, for the time of a block.

    Args:
      path: of the file.
      max_bytes: that its arrays may take; None where nothing was compressed, and so no
        more than the file itself.

    Raises:
      OSError: it cannot be read.
      Exception: as `Arrays` does.
    """
    with open_file(path) as file:
        yield Arrays(file, max_bytes)


def holds_pickle(path: Path) -> bool:
    """Returns whether a file is a pickle, or an archive with one, as PyTorch's are."""
    try:
        with open_file(path) as file:
            head = file.read(9)
            # A .safetensors file begins with a length, and that with any byte.
            if head.startswith(PICKLES) and not head.endswith(b"{"):
                return True
            file.seek(0)
            return any(x.endswith("data.pkl") for x in zipfile.ZipFile(file).namelist())
    except Exception:  # a damaged archive, of which its reader tells
        return False
