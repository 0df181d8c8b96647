"""A folder of the user's own pictures, nested or flat, with or without classes."""

import hashlib
from pathlib import Path

from invariance_propagation.errors import UserError

# What Pillow reads and people call a picture.
SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .jp2 .png .ppm .tif .tiff .webp".split())


def list_pictures(folder: Path) -> list[str]:
    """Relative paths of all pictures below `folder`, in a fixed order.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: set --config.data.folder to the one that "
            "holds the pictures"
        )
    ids = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not ids:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): set "
            "--config.data.folder to the folder that does"
        )
    return ids


def classes_of(ids: list[str]) -> list[int]:
    """Each picture's class, by its topmost folder, numbered by name.

    Raises:
      UserError: a picture that lies in no folder.
    """
    flat = [name for name in ids if "/" not in name]
    if flat:
        raise UserError(
            f"{flat[0]} lies in no folder of a class: put each class into a folder of "
            "its own, or set data.classes=False to train without labels"
        )
    names = sorted({name.split("/")[0] for name in ids})
    number = {name: i for i, name in enumerate(names)}
    return [number[name.split("/")[0]] for name in ids]


def is_held_out(name: str, share: float) -> bool:
    """Whether a picture is kept from training: by its name, whatever else there is."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return number < share * 2**64
