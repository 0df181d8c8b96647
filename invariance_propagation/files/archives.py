"""Opens files that strangers may have made, and reads arrays from them.

Nothing in them is run: no pickle is loaded, and the sizes that they claim are checked.
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

SUFFIX = ".npy"  # of the members of an .npz file
# The first bytes of pickles, by protocol.
PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))


def open_file(path: Path) -> BinaryIO:
    """Opens a file for reading, but no pipe, socket or device: those may never end.

    Raises:
      OSError: it cannot be opened, or is not a regular file.
    """
    _check_regular(os.stat(path))
    # If something else has taken its place since, this neither blocks nor reads it.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_regular(os.fstat(opened))
        return os.fdopen(opened, "rb")
    except BaseException:
        os.close(opened)
        raise


def _check_regular(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise OSError("it is not a regular file")


class Arrays:
    """Reads the arrays of an .npz file by name, each on access.

    Attributes:
      names: of the arrays, in the order of the file.
    """

    def __init__(self, file: BinaryIO, max_bytes: int | None):
        """Reads the names of the arrays.

        Raises:
          ValueError: they take more than `max_bytes`; if that is None, more than the file.
          Exception: it is not an .npz file.
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
          Exception: it is damaged, or does not exist.
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
    """Opens an .npz file, without pickles, for the duration of a block.

    Args:
      path: of the file.
      max_bytes: the most that its arrays may take; None: no more than the file, as
        without compression.

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
            # A .safetensors file begins with a length, whose first byte can be any.
            if head.startswith(PICKLES) and not head.endswith(b"{"):
                return True
            file.seek(0)
            return any(x.endswith("data.pkl") for x in zipfile.ZipFile(file).namelist())
    except Exception:  # a damaged archive; whoever reads it reports that
        return False
