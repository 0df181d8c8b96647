"""Folders of pictures, nested or flat, with or without classes."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.decoding import read_file
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.listing import Listing, list_pictures
from invariance_propagation.data.sources.usable import (
    Looked,
    check_share,
    look_at,
    name_some,
)
from invariance_propagation.errors import UserError, printable
from invariance_propagation.files.paths import local

# What people call the folder to train on, and those to test on: the first that is there.
TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test", "testing")

NAMED = 8  # classes in a line


class Files(NamedTuple):
    """Reads the picture of an index."""

    folder: Path
    ids: Sequence[str]
    marks: Mapping[str, bytes] = {}

    def __call__(self, index: int) -> bytes:
        return read_file(self.folder / self.ids[index])

    def mark(self, index: int) -> bytes:
        """What the picture's content decides; nothing where it was not looked at."""
        return self.marks.get(self.ids[index], b"")

    @property
    def marks_each(self) -> bool:
        """Whether pictures of another content have another mark."""
        return bool(self.marks)


class Parts(NamedTuple):
    """A folder's pictures by what they are for.

    Attributes:
      train, held_out: ids.
      depth: how many folders stand above those of the classes.
      unused: by folder, how many pictures are neither trained on nor tested on.
    """

    train: list[str]
    held_out: list[str]
    depth: int
    unused: Mapping[str, int]


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
    """The pictures below a folder; see `sources.load`."""
    root = root_of(folder)
    listing = list_pictures(root, outside_links=outside_links)
    parts = parts_of(listing.ids, held_out)
    labels, names = _labels_of(parts) if classes else ((None, None), ())
    looked = look_at(
        root, [*parts.train, *parts.held_out], how=scan, stretch_depth=stretch_depth
    )
    check_share(looked, max_unreadable, root)

    def split(ids: list[str], labels: np.ndarray | None) -> Split | None:
        rows = [i for i, name in enumerate(ids) if name in looked.marks]
        own = [ids[i] for i in rows]
        pictures = Pictures(
            own,
            Files(root, own, looked.marks),
            size=size,
            where=str(root),
            stretch_depth=stretch_depth,
        )
        return Split(pictures, None if labels is None else labels[rows], own)

    train = split(parts.train, labels[0])
    rest = split(parts.held_out, labels[1]) if parts.held_out else None
    if not train.ids:
        raise UserError(f"{root}: no picture to train on can be used")
    found = notes(root, listing, parts) + remarks(train.labels, names)
    found += left_out(looked)
    return Dataset(root.name, train, rest, names, found)


def two_folders(folder: str, *, size: int) -> Dataset:
    """train/ to learn from and val/ to test, in both a folder per class.

    The pictures' headers are read, as with data.scan='headers'.

    Raises:
      UserError: no such folders, or other classes in the one than in the other.
    """
    root = local(folder, key="other.places")
    ids = {
        part: list_pictures(root / part, key="other.places").ids
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
        looked = look_at(root / part, ids[part], how="headers")
        check_share(looked, 0.0, root / part)
        files = Files(root / part, ids[part], looked.marks)
        where = str(root / part)
        pictures = Pictures(ids[part], files, size=size, where=where)
        return Split(pictures, labels, ids[part])

    return Dataset(root.name, split("train", train_labels), split("val", labels), names)


def root_of(folder: str) -> Path:
    """Raises UserError where data.folder is not given."""
    if not folder:
        raise UserError("data.folder is missing: the folder that holds the pictures")
    return local(folder, key="data.folder")


def parts_of(ids: Sequence[str], held_out: float) -> Parts:
    """Parts a folder's pictures: by train/ and val/ if it has them, else by a share.

    Raises:
      UserError: a share is asked for besides val/, or it leaves nothing to train on.
    """
    tops: dict[str, list[str]] = {}
    for name in ids:
        top, slash, _ = name.partition("/")
        tops.setdefault(top if slash else "", []).append(name)
    known = {name.lower(): name for name in reversed(sorted(tops))}
    train = next((known[name] for name in TRAIN if name in known), None)
    tests = [known[name] for name in HELD_OUT if name in known]
    if train is not None and tests:
        if held_out:
            raise UserError(
                f"data.held_out={held_out}, but the folder has {tests[0]}/, which is "
                f"what is held out: leave it at 0, or set data.folder to {train}/ to "
                "hold out a share of that"
            )
        unused = {name: len(x) for name, x in tops.items() if name != train}
        del unused[tests[0]]
        return Parts(tops[train], tops[tests[0]], 1, unused)
    kept = [name for name in ids if not is_held_out(name, held_out)]
    if not kept:
        raise UserError(
            f"data.held_out={held_out} leaves none of the {len(ids)} pictures to train "
            "on: set it lower"
        )
    rest = [name for name in ids if is_held_out(name, held_out)]
    # train/ alone is no class.
    return Parts(kept, rest, int(train is not None and len(tops) == 1), {})


def _labels_of(parts: Parts) -> tuple[tuple[np.ndarray, np.ndarray], list[str]]:
    """The labels of both parts, and the classes' names.

    Raises:
      UserError: a picture that lies in no folder of a class, or is held out of a class
        that nothing is trained on.
    """
    count = len(parts.train)
    labels, names = classes_of([*parts.train, *parts.held_out], parts.depth)
    if parts.depth:
        extra = np.setdiff1d(labels[count:], labels[:count])
        if len(extra):
            raise UserError(
                f"{parts.held_out[0].split('/')[0]}/ has a class {names[extra[0]]}, "
                f"{parts.train[0].split('/')[0]}/ has not: give both the same classes, "
                "or set data.classes=False to train without labels"
            )
    return (labels[:count], labels[count:]), names


def classes_of(ids: Sequence[str], depth: int = 0) -> tuple[np.ndarray, list[str]]:
    """Each picture's class, by its topmost folder, int32 [n]; the classes' names.

    Args:
      ids: paths.
      depth: how many folders stand above those of the classes.

    Raises:
      UserError: a picture that lies in no folder.
    """
    flat = [name for name in ids if name.count("/") <= depth]
    if flat:
        raise UserError(
            f"{flat[0]} lies in no folder of a class: put each class into a folder of "
            "its own, or set data.classes=False to train without labels"
        )
    folders = [name.split("/", depth + 1)[depth] for name in ids]
    names = sorted(set(folders))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[name] for name in folders], np.int32), names


def is_held_out(name: str, share: float) -> bool:
    """Whether a picture is kept from training: by its name, whatever else there is."""
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return number < share * 2**64


def notes(root: Path, listing: Listing, parts: Parts) -> list[str]:
    """Says what was found in a folder, and what was passed over."""
    count = f"{len(listing.ids):,} picture" + "s" * (len(listing.ids) != 1)
    found = ", ".join(filter(None, (count, listing.about_links())))
    lines = [printable(f"found {found}, in {root}")]
    if parts.depth and parts.held_out:
        train, test = (x[0].split("/")[0] for x in (parts.train, parts.held_out))
        lines.append(
            printable(
                f"{train}/ is trained on ({len(parts.train):,}), {test}/ is held out "
                f"({len(parts.held_out):,})"
            )
        )
    for name, number in parts.unused.items():
        where = f"{name}/" if name else "no folder"
        pictures = "picture in {} is" if number == 1 else "pictures in {} are"
        text = f"{number:,} {pictures.format(where)} not used, beside train/"
        lines.append(printable(text))
    passed = listing.passed_over()
    return [*lines, f"passed over: {passed}"] if passed else lines


def remarks(labels: np.ndarray | None, names: Sequence[str]) -> list[str]:
    """Says how many classes there are, and asks about what is seldom meant."""
    if labels is None:
        return ["no classes (data.classes=False)"]
    some = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    count = f"{len(names):,} class" + "es" * (len(names) != 1)
    lines = [printable(f"{count}: {some}")]
    if len(names) == 1:
        lines.append(
            f"question: is {printable(names[0])} the only class? With a single one "
            "scores by labels mean nothing, they are 100 % for any network. Set "
            "data.folder "
            "to the folder that holds a folder for each class, or data.classes=False"
        )
    counts = np.bincount(labels, minlength=len(names))
    single = [printable(names[i]) for i in np.flatnonzero(counts == 1)]
    if single and len(names) > 1:
        some = ", ".join(single[:NAMED]) + ", ..." * (len(single) > NAMED)
        have = "has" if len(single) == 1 else "have"
        lines.append(
            f"question: {len(single):,} of the classes {have} a single picture to train "
            f"on ({some}): is that meant? Nothing of the same class can be found for it"
        )
    return lines


def left_out(looked: Looked) -> list[str]:
    """Names the pictures that cannot be used."""
    bad = looked.faults
    if not bad:
        return []
    what = (
        "picture that cannot be used is"
        if len(bad) == 1
        else ("pictures that cannot be used are")
    )
    return [f"{len(bad):,} {what} left out: {name_some(bad)}"]
