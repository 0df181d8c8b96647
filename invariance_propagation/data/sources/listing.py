"""Lists the pictures below a folder, and counts the files that it skips."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from invariance_propagation.data.load.formats import NEEDS, readable_suffixes
from invariance_propagation.errors import UserError, printable

# Folders that operating systems and file servers create by themselves.
SYSTEM = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found"}
SYSTEM |= {"System Volume Information"}
HIDDEN, BROKEN, NO_FILE = "hidden", "broken link", "pipe, socket or device"
AGAIN = "link to what is listed already"
OUTSIDE = "link that leads out of the folder"
CLOSED = "folder that may not be read"
NO_SUFFIX = "without a suffix"
SEVERAL = {
    BROKEN: "broken links",
    NO_FILE: "pipes, sockets or devices",
    AGAIN: "links to what is listed already",
    OUTSIDE: "links that lead out of the folder",
    CLOSED: "folders that may not be read",
}
KINDS_SHOWN = 12


class Listing(NamedTuple):
    """The pictures below a folder.

    Attributes:
      ids: paths relative to the folder, sorted, with '/' between their parts.
      links: how many pictures were reached by a link.
      passed: by kind, how many files were skipped.
    """

    ids: list[str]
    links: int
    passed: Mapping[str, int]

    def about_links(self) -> str:
        """Says how many pictures were reached by links; '' if none."""
        return f"{self.links:,} of them by links" if self.links else ""

    def passed_over(self) -> str:
        """Says what was skipped, the most frequent kind first; '' if nothing."""
        kinds = sorted(self.passed.items(), key=lambda kind: (-kind[1], kind[0]))
        shown = [
            f"{count:,} {_name(kind, count)}" for kind, count in kinds[:KINDS_SHOWN]
        ]
        rest = sum(count for _, count in kinds[KINDS_SHOWN:])
        if rest:
            shown.append(f"{rest:,} of other kinds")
        return printable(", ".join(shown))


def list_pictures(
    folder: Path, *, key: str = "data.folder", outside_links: bool = True
) -> Listing:
    """Lists all pictures below a folder, in a fixed order.

    Skips hidden files and folders, and those that operating systems create. Follows links
    to files and folders. A file or folder with several names is listed once: by its
    name without a link, if it has one below `folder`, else by the first of its names.
    This also ends loops of links.

    Args:
      folder: the folder to list.
      key: of the config, which names the folder in messages.
      outside_links: whether to follow links that lead out of the folder.

    Raises:
      UserError: there is no such folder, or it holds no picture.
    """
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: set --config.{key} to the one that holds "
            "the pictures"
        )
    walk = _Walk(str(folder), outside_links)
    walk.all()
    listing = Listing(sorted(walk.ids), walk.linked, dict(walk.passed))
    if not listing.ids:
        passed = listing.passed_over()
        raise UserError(
            f"{folder} holds no pictures ({', '.join(sorted(readable_suffixes()))})"
            + (f", but {passed}" if passed else "")
            + ": name the folder that holds them"
        )
    return listing


def is_hidden(name: str) -> bool:
    """Returns whether to skip a file or folder of this name, with all it holds."""
    return name.startswith(".") or name in SYSTEM


def suffix_of(name: str) -> str:
    """Returns a file name from its last dot on, in lower case; '' without a dot."""
    return os.path.splitext(name)[1].lower()


class _Walk:
    """Walks through folders first, then links to folders, then links to files."""

    def __init__(self, folder: str, outside_links: bool):
        self.ids: list[str] = []
        self.linked, self.passed = 0, Counter()
        self._folder, self._outside_links = folder, outside_links
        self._root = os.path.realpath(folder)
        self._folders: set[str] = set()  # real paths of those already listed
        self._targets: set[str] = set()  # real paths of files listed by a link
        self._waiting: list[str] = []  # links to follow, relative to the folder

    def all(self) -> None:
        self._below("", self._root, linked=False)
        files = []
        while self._waiting:
            links, self._waiting = sorted(self._waiting), []
            for link in links:
                target = os.path.realpath(os.path.join(self._folder, link))
                if os.path.isdir(target):
                    self._folder_link(link, target)
                else:
                    files.append((link, target))
        for link, target in sorted(files):
            self._file_link(link, target)

    def _below(self, name: str, real: str, *, linked: bool) -> None:
        """Lists a folder and the folders in it."""
        waiting = [(name, real)]
        while waiting:
            name, real = waiting.pop()
            if real in self._folders:
                self.passed[AGAIN] += 1
                continue
            self._folders.add(real)
            try:
                entries = list(os.scandir(real))
            except OSError:
                self.passed[CLOSED] += 1
                continue
            for entry in entries:
                path = f"{name}/{entry.name}" if name else entry.name
                if is_hidden(entry.name):
                    self.passed[HIDDEN] += _count_files(entry)
                elif entry.is_symlink():
                    self._waiting.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((path, entry.path))
                elif entry.is_file(follow_symlinks=False):
                    self._file(path, linked=linked)
                else:
                    self.passed[NO_FILE] += 1

    def _file(self, name: str, *, linked: bool) -> None:
        suffix = suffix_of(name)
        if suffix in readable_suffixes():
            self.ids.append(name)
            self.linked += linked
        else:
            self.passed[suffix or NO_SUFFIX] += 1

    def _folder_link(self, link: str, target: str) -> None:
        if not self._may_follow(target):
            self.passed[OUTSIDE] += 1
        elif target in self._folders:
            self.passed[AGAIN] += 1
        else:
            self._below(link, target, linked=True)

    def _file_link(self, link: str, target: str) -> None:
        if not os.path.exists(target):
            self.passed[BROKEN] += 1
        elif not os.path.isfile(target):
            self.passed[NO_FILE] += 1
        elif not self._may_follow(target):
            self.passed[OUTSIDE] += 1
        elif suffix_of(link) in readable_suffixes() and self._is_listed(target):
            self.passed[AGAIN] += 1
        else:
            self._targets.add(target)
            self._file(link, linked=True)

    def _may_follow(self, target: str) -> bool:
        inside = os.path.join(self._root, "")
        return self._outside_links or (target + os.sep).startswith(inside)

    def _is_listed(self, target: str) -> bool:
        if target in self._targets:
            return True
        folder, name = os.path.split(target)
        visible = not is_hidden(name) and suffix_of(name) in readable_suffixes()
        return visible and folder in self._folders


def _count_files(entry: os.DirEntry) -> int:
    """Counts the files in a hidden folder; a file counts as 1."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def _name(kind: str, count: int) -> str:
    if kind in NEEDS:
        return f"{kind} (pip install '{NEEDS[kind]}')"
    return kind if count == 1 else SEVERAL.get(kind, kind)
