"""Checks every picture of a folder once, before training: which of them can be used?

Results are kept in the user's cache folder. A picture is checked again if its size or one
of its times has changed, and for as long as it cannot be used.
"""

import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL
import simplejpeg
import tqdm
from PIL import Image

from invariance_propagation.data.load.decoding import (
    check_size,
    decode,
    known_formats,
    read_file,
    reason_of,
    silence,
)
from invariance_propagation.errors import UserError, plural, printable
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.cache import cache_path, keep_arrays, read_arrays
from invariance_propagation.phases import phase

HOW = ("decode", "headers")
# Increase this when `decode` refuses or accepts other pictures than before.
VERSION = 1
# The mark of a large file depends on its first, middle and last PIECE bytes.
PIECE = 16_384
AT_ONCE = 20_000  # pictures between two writes of the cache
NAMED = 5  # in a message
LARGEST = "--config.data.max_unreadable"


class Fault(NamedTuple):
    """A picture that cannot be used: its id, and why."""

    sample_id: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.sample_id}: {self.reason}")


class Checked(NamedTuple):
    """The result of checking pictures.

    Attributes:
      marks: by id of each usable picture, 12 bytes that depend on its content.
      faults: the unusable pictures, in the order of the ids.
    """

    marks: dict[str, bytes]
    faults: list[Fault]


class _Known(NamedTuple):
    """Size in bytes, times in ns and CRC-32 of a usable picture."""

    size: int
    modified: int
    changed: int
    crc: int


def check_pictures(
    root: Path,
    ids: Sequence[str],
    *,
    how: str = "decode",
    stretch_depth: bool = False,
    anew: bool = False,
) -> Checked:
    """Checks the pictures of a folder in several threads, with a progress bar.

    Args:
      root: the folder.
      ids: paths relative to the folder.
      how: 'decode' reads and decodes each picture; 'headers' reads only its header.
      stretch_depth: as in `decode`.
      anew: whether to check pictures again that the cache knows.

    Raises:
      UserError: `how` is neither.
    """
    if how not in HOW:
        raise UserError(f"--config.data.scan={how!r}: choose one of {', '.join(HOW)}")
    path = _cache_path(root, how, stretch_depth)
    known = {} if anew else _read(path)
    good: dict[str, _Known] = {}
    faults = []

    def check(name: str) -> _Known | Fault:
        try:
            return _check(root / name, known.get(name), how, stretch_depth)
        except Exception as error:  # decoders raise nearly everything
            return Fault(name, reason_of(error))

    bar = tqdm.tqdm(total=len(ids), unit="picture", disable=None, leave=False)
    with (
        phase(f"checking {plural(len(ids), 'picture')}"),
        ThreadPoolExecutor() as pool,
        bar,
    ):
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            for name, result in zip(some, pool.map(check, some), strict=True):
                if isinstance(result, Fault):
                    faults.append(result)
                else:
                    good[name] = result
                bar.update()
            if any(known.get(name) != good.get(name) for name in some):
                _keep(path, known | good)
    return Checked({name: _mark(x) for name, x in good.items()}, faults)


def check_share(checked: Checked, largest: float, where: Path) -> None:
    """Stops a run that would leave out too many pictures.

    Args:
      checked: the pictures.
      largest: the largest share of them that may be unusable.
      where: the folder, for the message.

    Raises:
      UserError: a larger share is unusable, or all pictures are; or `largest` is
        not between 0 and 1.
    """
    check_largest_share(largest)
    bad, count = len(checked.faults), len(checked.marks) + len(checked.faults)
    if bad > largest * count or not checked.marks:
        raise UserError(
            f"{bad:,} of {plural(count, 'picture')} in {where} cannot be used: "
            f"{name_some(checked.faults)}. Repair or remove them (--config.task=scan lists "
            f"all), or set {LARGEST} (now {largest:g}) to the share that may be left out"
        )


def check_largest_share(largest: float) -> None:
    """Raises UserError if the share that may be unusable is not between 0 and 1."""
    if not 0 <= largest <= 1:
        raise UserError(f"{LARGEST}={largest}: set it from 0 to 1")


def name_some(faults: Sequence[Fault]) -> str:
    """Names the first few faults, and says how many more there are."""
    shown = "; ".join(map(str, faults[:NAMED]))
    more = len(faults) - NAMED
    return f"{shown}; and {more:,} more" if more > 0 else shown


def _check(path: Path, known: _Known | None, how: str, stretch_depth: bool) -> _Known:
    about = path.stat()
    now = about.st_size, about.st_mtime_ns, about.st_ctime_ns
    if known is not None and known[:3] == now:
        return known
    if how == "decode":
        content = read_file(path)
        decode(content, stretch_depth=stretch_depth)
        return _Known(*now, checksum_of(io.BytesIO(content), about.st_size))
    silence()
    with open_file(path) as file, Image.open(file, formats=known_formats()) as image:
        check_size(*image.size)
    with open_file(path) as file:  # open it again, because Pillow may have closed it
        return _Known(*now, checksum_of(file, about.st_size))


def checksum_of(file: io.IOBase, size: int) -> int:
    """Returns the CRC-32 of a small file, or of three pieces of a large one."""
    if size <= 3 * PIECE:
        return zlib.crc32(file.read())
    crc = 0
    for start in (0, (size - PIECE) // 2, size - PIECE):
        file.seek(start)
        crc = zlib.crc32(file.read(PIECE), crc)
    return crc


def _mark(known: _Known) -> bytes:
    return known.size.to_bytes(8, "big") + known.crc.to_bytes(4, "big")


def _cache_path(root: Path, how: str, stretch_depth: bool) -> Path:
    # Other versions of the decoders may accept other pictures.
    decoders = PIL.__version__, cv2.__version__, simplejpeg.__version__
    facts = [os.path.realpath(root), how, str(stretch_depth), str(VERSION), *decoders]
    digest = hashlib.sha256(os.fsencode("\0".join(facts))).hexdigest()
    return cache_path(f"pictures-{digest[:16]}.npz")


def _read(path: Path) -> dict[str, _Known]:
    arrays = read_arrays(path)
    try:
        names = os.fsdecode(arrays["names"].tobytes()).split("\0")
        rows = arrays["seen"].astype(np.int64, casting="safe")
    except (KeyError, TypeError):  # a file of another kind
        return {}
    if rows.shape != (len(names), len(_Known._fields)):
        return {}
    return {name: _Known(*map(int, row)) for name, row in zip(names, rows, strict=True)}


def _keep(path: Path, known: dict[str, _Known]) -> None:
    names = np.frombuffer(os.fsencode("\0".join(known)), np.uint8)
    keep_arrays(path, names=names, seen=np.array(list(known.values()), np.int64))
