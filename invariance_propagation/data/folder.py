"""Folders of pictures, nested or flat, with or without classes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.errors import UserError
from invariance_propagation.paths import local

# What Pillow reads and people call a picture.
SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .jp2 .png .ppm .tif .tiff .webp".split())


class Files(NamedTuple):
    """Reads the picture of an index."""

    folder: Path
    ids: Sequence[str]

    def __call__(self, index: int) -> bytes:
        return (self.folder / self.ids[index]).read_bytes()


def image_folder(folder: str, *, classes: bool, held_out: float, size: int) -> Dataset:
    """The pictures below a folder; see `sources.load`."""
    if not folder:
        raise UserError("data.folder is missing: the folder that holds the pictures")
    root = local(folder, key="data.folder")
    ids = list_pictures(root)
    labels, names = classes_of(ids) if classes else (None, ())
    kept = np.array([not is_held_out(name, held_out) for name in ids])

    def split(rows: np.ndarray) -> Split:
        own = [ids[i] for i in np.flatnonzero(rows)]
        pictures = Pictures(own, Files(root, own), size=size, where=str(root))
        return Split(pictures, None if labels is None else labels[rows], own)

    if not kept.any():
        raise UserError(
            f"data.held_out={held_out} leaves none of the {len(ids)} pictures to train "
            "on: set it lower"
        )
    rest = None if kept.all() else split(~kept)
    return Dataset(root.name, split(kept), rest, names)


def two_folders(folder: str, *, size: int) -> Dataset:
    """train/ to learn from and val/ to test, in both a folder per class.

    Raises:
      UserError: no such folders, or other classes in the one than in the other.
    """
    root = local(folder, key="other.places")
    ids = {
        part: list_pictures(root / part, key="other.places")
        for part in ("train", "val")
    }
    (train_labels, names), (labels, others) = map(classes_of, ids.values())
    if names != others:
        other = min(set(names) ^ set(others))
        raise UserError(
            f"{root}: train/ and val/ do not have the same classes, {other} is in one "
            "of them: mend that"
        )

    def split(part: str, labels: np.ndarray) -> Split:
        files = Files(root / part, ids[part])
        where = str(root / part)
        pictures = Pictures(ids[part], files, size=size, where=where)
        return Split(pictures, labels, ids[part])

    return Dataset(root.name, split("train", train_labels), split("val", labels), names)


def list_pictures(folder: Path, *, key: str = "data.folder") -> list[str]:
    """Relative paths of all pictures below `folder`, in a fixed order.

    Args:
      folder: to look into.
      key: of the config, which names it.

    Raises:
      UserError: no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: set --config.{key} to the one that holds "
            "the pictures"
        )
    ids = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not ids:
        raise UserError(
            f"{folder} holds no pictures ({', '.join(sorted(SUFFIXES))}): name "
            "the folder that does"
        )
    return ids


def classes_of(ids: list[str]) -> tuple[np.ndarray, list[str]]:
    """Each picture's class, by its topmost folder, int32 [n]; the classes' names.

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
    return np.array([number[name.split("/")[0]] for name in ids], np.int32), names


def is_held_out(name: str, share: float) -> bool:
    """Whether a picture is kept from training: by its name, whatever else there is."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return number < share * 2**64
