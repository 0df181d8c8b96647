"""Folders of pictures, nested or flat, with or without classes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.decoding import read_file
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.listing import list_pictures
from invariance_propagation.data.sources.survey import (
    check_classes,
    classes_of,
    survey_folder,
)
from invariance_propagation.data.sources.usable import (
    Fault,
    check_pictures,
    check_share,
    name_some,
)
from invariance_propagation.errors import UserError
from invariance_propagation.files.paths import local


class Files(NamedTuple):
    """Reads the picture file of an index.

    Attributes:
      folder: that the ids are relative to.
      ids: of the pictures.
      marks: by id, bytes that depend on the content; {} if nobody has checked it.
    """

    folder: Path
    ids: Sequence[str]
    marks: Mapping[str, bytes] = {}

    def __call__(self, index: int) -> bytes:
        """Returns the content of the file."""
        return read_file(self.folder / self.ids[index])

    def mark(self, index: int) -> bytes:
        """Returns bytes that depend on the content; b"" if nobody has checked it."""
        return self.marks.get(self.ids[index], b"")

    def stamp(self, index: int) -> bytes:
        """Returns the size and time of change of the file as it is now.

        Raises:
          OSError: the file is gone.
        """
        about = os.stat(os.path.join(self.folder, self.ids[index]))
        return f"{about.st_size} {about.st_mtime_ns}".encode()

    @property
    def marks_each(self) -> bool:
        """Whether pictures with different content have different marks."""
        return bool(self.marks)


def image_folder(
    folder: str,
    *,
    classes: bool,
    held_out: float,
    size: int,
    stretch_depth: bool = False,
    outside_links: bool = True,
    scan: str = "decode",
    max_unreadable: float = 0.001,
) -> Dataset:
    """Loads the pictures below a folder; the arguments are those of `sources.load`."""
    survey = survey_folder(
        folder, classes=classes, held_out=held_out, outside_links=outside_links
    )
    check_classes(survey)
    root, division = survey.root, survey.division
    ids = [*division.train, *division.held_out]
    checked = check_pictures(root, ids, how=scan, stretch_depth=stretch_depth)
    check_share(checked, max_unreadable, root)

    def split(ids: list[str], labels: np.ndarray | None) -> Split:
        rows = [i for i, name in enumerate(ids) if name in checked.marks]
        usable = [ids[i] for i in rows]
        pictures = Pictures(
            usable,
            Files(root, usable, checked.marks),
            size=size,
            where=str(root),
            stretch_depth=stretch_depth,
        )
        return Split(pictures, None if labels is None else labels[rows], usable)

    train, rest = split(division.train, survey.train_labels), None
    if division.held_out:
        rest = split(division.held_out, survey.held_out_labels)
    if not train.ids:
        raise UserError(f"{root}: no picture to train on can be used")
    usable_only = survey._replace(train_labels=train.labels)
    notes = usable_only.lines() + _left_out(checked.faults)
    return Dataset(root.name, train, rest, survey.classes, notes)


def two_folders(folder: str, *, size: int) -> Dataset:
    """Loads train/ as the training split and val/ as the held-out split.

    Both hold a folder per class. Only the headers of the pictures are checked, as with
    data.scan='headers'.

    Raises:
      UserError: there are no such folders, or their classes differ.
    """
    key = "other.places"
    root = local(folder, key=f"--config.{key}")
    ids = {name: list_pictures(root / name, key=key).ids for name in ("train", "val")}
    (train_labels, names), (labels, others) = map(classes_of, ids.values())
    if names != others:
        other = min(set(names) ^ set(others))
        raise UserError(
            f"{root}: train/ and val/ do not have the same classes, {other} is in "
            "one of them only: give both the same classes"
        )

    def split(name: str, labels: np.ndarray) -> Split:
        checked = check_pictures(root / name, ids[name], how="headers")
        check_share(checked, 0.0, root / name)
        files = Files(root / name, ids[name], checked.marks)
        pictures = Pictures(ids[name], files, size=size, where=str(root / name))
        return Split(pictures, labels, ids[name])

    return Dataset(root.name, split("train", train_labels), split("val", labels), names)


def _left_out(faults: Sequence[Fault]) -> list[str]:
    """Names the pictures that cannot be used."""
    if not faults:
        return []
    one, several = "picture that cannot be used is", "pictures that cannot be used are"
    what = one if len(faults) == 1 else several
    return [f"{len(faults):,} {what} left out: {name_some(faults)}"]
