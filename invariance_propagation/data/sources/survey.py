"""Surveys a folder of pictures: what to train on, what to hold out, and the classes."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.sources.listing import Listing, list_pictures
from invariance_propagation.errors import UserError, plural, printable
from invariance_propagation.files.paths import local

# Usual names of the folder to train on and of those to test on: the first one present.
TRAIN = ("train", "training")
HELD_OUT = ("val", "valid", "validation", "test", "testing")

NAMED = 8  # classes in a line


class Division(NamedTuple):
    """A folder's pictures, divided by their use.

    Attributes:
      train, held_out: ids.
      depth: how many folders stand above those of the classes.
      unused: by folder, how many pictures are neither trained on nor tested on.
    """

    train: list[str]
    held_out: list[str]
    depth: int
    unused: Mapping[str, int]


class Survey(NamedTuple):
    """What a folder of pictures holds.

    Attributes:
      root: the folder.
      listing: its pictures and the files that were skipped.
      division: the pictures by their use.
      train_labels, held_out_labels: int32 [n], or None without classes.
      classes: names of the classes, by number.
    """

    root: Path
    listing: Listing
    division: Division
    train_labels: np.ndarray | None
    held_out_labels: np.ndarray | None
    classes: Sequence[str]

    def lines(self) -> list[str]:
        """Describes the pictures, what was skipped and the classes, for people."""
        lines = describe_pictures(self.root, self.listing, self.division)
        return lines + describe_classes(self.train_labels, self.classes)


def survey_folder(
    folder: str, *, classes: bool, held_out: float, outside_links: bool
) -> Survey:
    """Lists a folder's pictures and divides them; reads none of them.

    Args:
      folder, classes, held_out, outside_links: as in `sources.load`.

    Raises:
      UserError: no folder, no pictures, or options that do not fit what is there.
    """
    if not 0 <= held_out < 1:
        raise UserError(
            f"--config.data.held_out={held_out}: set it to 0 or above, below 1"
        )
    if not folder:
        raise UserError(
            "--config.data.folder=DIR is missing: name the folder that holds the pictures"
        )
    root = local(folder, key="--config.data.folder")
    listing = list_pictures(root, outside_links=outside_links)
    division = divide(listing.ids, held_out)
    if not classes:
        return Survey(root, listing, division, None, None, ())
    ids, count = [*division.train, *division.held_out], len(division.train)
    labels, names = classes_of(ids, division.depth)
    return Survey(root, listing, division, labels[:count], labels[count:], names)


def divide(ids: Sequence[str], held_out: float) -> Division:
    """Divides pictures by the folders train/ and val/, if present, else by a share.

    Args:
      ids: paths relative to the folder.
      held_out: the share to hold out.

    Raises:
      UserError: a share is set although there is a val/, or leaves nothing to train on.
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
                f"--config.data.held_out={held_out}, but the folder has {tests[0]}/, "
                "which is held out: leave it at 0, or set --config.data.folder to "
                f"{train}/ to hold out a share of that"
            )
        unused = {name: len(x) for name, x in tops.items() if name != train}
        del unused[tests[0]]
        return Division(tops[train], tops[tests[0]], 1, unused)
    kept = [name for name in ids if not is_held_out(name, held_out)]
    if not kept:
        raise UserError(
            f"--config.data.held_out={held_out} leaves none of the "
            f"{plural(len(ids), 'picture')} to train on: set it lower"
        )
    rest = [name for name in ids if is_held_out(name, held_out)]
    # train/ by itself is not a class.
    return Division(kept, rest, int(train is not None and len(tops) == 1), {})


def is_held_out(name: str, share: float) -> bool:
    """Returns whether to keep a picture from training; only its name and share matter."""
    number = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big")
    return number < share * 2**64


def classes_of(ids: Sequence[str], depth: int = 0) -> tuple[np.ndarray, list[str]]:
    """Takes the topmost folder of each picture as its class.

    Args:
      ids: paths.
      depth: how many folders stand above those of the classes.

    Returns:
      The class of each picture, int32 [n], and the names of the classes.

    Raises:
      UserError: a picture is not in a folder.
    """
    flat = [name for name in ids if name.count("/") <= depth]
    if flat:
        raise UserError(
            f"{flat[0]} is not in the folder of a class: put each class into a separate "
            "folder, or set --config.data.classes=False to train without labels"
        )
    folders = [name.split("/", depth + 1)[depth] for name in ids]
    names = sorted(set(folders))
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[name] for name in folders], np.int32), names


def check_classes(survey: Survey) -> None:
    """Raises UserError if val/ has a class that train/ does not have."""
    division = survey.division
    if survey.train_labels is None or not division.depth:
        return
    extra = np.setdiff1d(survey.held_out_labels, survey.train_labels)
    if len(extra):
        train, test = (x[0].split("/")[0] for x in (division.train, division.held_out))
        raise UserError(
            f"{test}/ has a class {survey.classes[extra[0]]}, {train}/ has not: give "
            "both the same classes, or set --config.data.classes=False to train "
            "without labels"
        )


def describe_pictures(root: Path, listing: Listing, division: Division) -> list[str]:
    """Describes what was found in a folder and what was skipped, a line each."""
    count = plural(len(listing.ids), "picture")
    pictures = ", ".join(filter(None, (count, listing.about_links())))
    lines = [printable(f"found {pictures}, in {root}")]
    if division.depth and division.held_out:
        counts = len(division.train), len(division.held_out)
        train, test = (x[0].split("/")[0] for x in (division.train, division.held_out))
        line = f"{train}/ is trained on ({counts[0]:,}), {test}/ is held out "
        lines.append(printable(f"{line}({counts[1]:,})"))
        for name, number in division.unused.items():
            where = f"{name}/" if name else "no folder"
            what = (
                f"picture in {where} is" if number == 1 else f"pictures in {where} are"
            )
            line = f"{number:,} {what} not used: only {train}/ and {test}/ are"
            lines.append(printable(line))
    lines += _ask_about_splits(division)
    passed = listing.passed_over()
    return [*lines, f"skipped: {passed}"] if passed else lines


def _ask_about_splits(division: Division) -> list[str]:
    """Asks whether a folder with the name of a test split is meant to be trained on."""
    folders = {name.rpartition("/")[0] for name in division.train}
    tests = sorted(
        match[0]
        for folder in folders
        if (match := re.match(rf"(?i:(?:.*/)?(?:{'|'.join(HELD_OUT)})(?=/|$))", folder))
    )
    if not tests:
        return []
    return [
        printable(
            f"question: {tests[0]}/ is used for training; is that intended? To hold it "
            "out, put it beside train/ in --config.data.folder"
        )
    ]


def describe_classes(labels: np.ndarray | None, names: Sequence[str]) -> list[str]:
    """Says how many classes there are, and asks about what is rarely meant."""
    if labels is None:
        return ["no classes (--config.data.classes=False)"]
    some = ", ".join(names[:NAMED]) + ", ..." * (len(names) > NAMED)
    count = f"{len(names):,} class" + "es" * (len(names) != 1)
    lines = [printable(f"{count}: {some}")]
    if len(names) == 1:
        lines.append(
            f"question: is {printable(names[0])} the only class? With a single one "
            "scores by labels mean nothing, they are 100 % for any network. Set "
            "--config.data.folder to the folder that holds a folder for each class, or "
            "--config.data.classes=False"
        )
    counts = np.bincount(labels, minlength=len(names))
    single = [printable(names[i]) for i in np.flatnonzero(counts == 1)]
    if single and len(names) > 1:
        some = ", ".join(single[:NAMED]) + ", ..." * (len(single) > NAMED)
        have = "has" if len(single) == 1 else "have"
        lines.append(
            f"question: {len(single):,} of the classes {have} a single picture to train "
            f"on ({some}): is that intended? No other picture of its class can be found "
            "for it"
        )
    return lines
