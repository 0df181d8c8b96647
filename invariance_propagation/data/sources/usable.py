"""Looks at every picture of a folder once, before training: which can be used.

What is found is kept in the user's cache folder, so that it is done once: a picture is
looked at again when its size or one of its times has changed, and as long as it cannot
be used.
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
from invariance_propagation.errors import UserError, printable
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.cache import cache_path, keep_arrays, read_arrays
from invariance_propagation.phases import phase

HOW = ("decode", "headers")
# Raised when `decode` refuses or accepts other pictures than before.
VERSION = 1
# Of a larger file its mark takes the first, middle and last so many bytes.
PIECE = 16_384
AT_ONCE = 20_000  # pictures between two writes of the cache
NAMED = 5  # in a message


class Fault(NamedTuple):
    """A picture that cannot be used: its id, and why."""

    sample_id: str
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.sample_id}: {self.reason}")


class Looked(NamedTuple):
    """What a look at pictures has found.

    Attributes:
      marks: of each picture that can be used, 12 bytes that its content decides.
      faults: the others, in the order of the ids.
    """

    marks: dict[str, bytes]
    faults: list[Fault]


class _Seen(NamedTuple):
    """Size in bytes, times in ns and mark of a picture that can be used."""

    size: int
    modified: int
    changed: int
    crc: int


def look_at(
    root: Path,
    ids: Sequence[str],
    *,
    how: str = "decode",
    stretch_depth: bool = False,
    anew: bool = False,
) -> Looked:
    """Looks at the pictures `ids` of a folder, many at once, with a bar.

    Args:
      root: the folder.
      ids: paths relative to it.
      how: 'decode': each is read and decoded; 'headers': only its header is read.
      stretch_depth: as in `decode`.
      anew: looks at what the cache knows, too.

    Raises:
      UserError: `how` is neither.
    """
    if how not in HOW:
        raise UserError(f"data.scan={how!r}: choose one of {', '.join(HOW)}")
    path = _cache_of(root, how, stretch_depth)
    known = {} if anew else _read(path)
    seen: dict[str, _Seen] = {}
    faults = []

    def look(name: str) -> _Seen | Fault:
        try:
            return _look(root / name, known.get(name), how, stretch_depth)
        except Exception as error:  # whatever a decoder raises
            return Fault(name, reason_of(error))

    bar = tqdm.tqdm(total=len(ids), unit="picture", disable=None, leave=False)
    with phase(f"checking {len(ids):,} pictures"), ThreadPoolExecutor() as pool, bar:
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            for name, found in zip(some, pool.map(look, some), strict=True):
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    seen[name] = found
                bar.update()
            if any(known.get(name) != seen.get(name) for name in some):
                _keep(path, known | seen)
    marks = {name: _mark(x) for name, x in seen.items()}
    return Looked(marks, faults)


def check_share(looked: Looked, largest: float, where: Path) -> None:
    """Stops a run that would leave out more pictures than it may.

    Raises:
      UserError: more than the share `largest` of the pictures cannot be used, or none
        can; or it is no share.
    """
    if not 0 <= largest <= 1:
        raise UserError(f"data.max_unreadable={largest}: set it from 0 to 1")
    bad, count = len(looked.faults), len(looked.marks) + len(looked.faults)
    if bad > largest * count or not looked.marks:
        raise UserError(
            f"{bad:,} of {count:,} pictures in {where} cannot be used: "
            f"{name_some(looked.faults)}. Mend or remove them (--config.task=scan lists "
            f"all), or set data.max_unreadable (now {largest:g}) to the share that may "
            "be left out"
        )


def name_some(faults: Sequence[Fault]) -> str:
    """The first few of them, and how many more there are."""
    shown = "; ".join(map(str, faults[:NAMED]))
    more = len(faults) - NAMED
    return f"{shown}; and {more:,} more" if more > 0 else shown


def _look(path: Path, known: _Seen | None, how: str, stretch_depth: bool) -> _Seen:
    about = path.stat()
    now = about.st_size, about.st_mtime_ns, about.st_ctime_ns
    if known is not None and known[:3] == now:
        return known
    if how == "decode":
        content = read_file(path)
        decode(content, stretch_depth=stretch_depth)
        return _Seen(*now, _checksum(io.BytesIO(content), about.st_size))
    silence()
    with open_file(path) as file, Image.open(file, formats=known_formats()) as image:
        check_size(*image.size)
    with open_file(path) as file:  # once more, because Pillow may have closed it
        return _Seen(*now, _checksum(file, about.st_size))


def _checksum(file: io.IOBase, size: int) -> int:
    """CRC-32 of a small file, or of three pieces of a large one."""
    if size <= 3 * PIECE:
        return zlib.crc32(file.read())
    crc = 0
    for start in (0, (size - PIECE) // 2, size - PIECE):
        file.seek(start)
        crc = zlib.crc32(file.read(PIECE), crc)
    return crc


def _mark(seen: _Seen) -> bytes:
    return seen.size.to_bytes(8, "big") + seen.crc.to_bytes(4, "big")


def _cache_of(root: Path, how: str, stretch_depth: bool) -> Path:
    """Other decoders may find other pictures good."""
    decoders = PIL.__version__, cv2.__version__, simplejpeg.__version__
    facts = [os.path.realpath(root), how, str(stretch_depth), str(VERSION), *decoders]
    digest = hashlib.sha256(os.fsencode("\0".join(facts))).hexdigest()
    return cache_path(f"pictures-{digest[:16]}.npz")


def _read(path: Path) -> dict[str, _Seen]:
    arrays = read_arrays(path)
    try:
        names = os.fsdecode(arrays["names"].tobytes()).split("\0")
        rows = arrays["seen"].astype(np.int64, casting="safe")
    except (KeyError, TypeError):  # a file of another kind
        return {}
    if rows.shape != (len(names), len(_Seen._fields)):
        return {}
    return {name: _Seen(*map(int, row)) for name, row in zip(names, rows, strict=True)}


def _keep(path: Path, seen: dict[str, _Seen]) -> None:
    names = np.frombuffer(os.fsencode("\0".join(seen)), np.uint8)
    keep_arrays(path, names=names, seen=np.array(list(seen.values()), np.int64))
