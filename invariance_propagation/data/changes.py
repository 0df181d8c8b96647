"""Finds what has changed between two sets of images, by their names and checksums."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from invariance_propagation.errors import printable

NAMED = 3  # of each kind, in a message
GONE = -1


class Known(NamedTuple):
    """What a run knows about the images of a split, in their order.

    Attributes:
      ids: the source's name of each image.
      checksums: uint32 [n], of each image's content; None if they are not known.
    """

    ids: Sequence[str]
    checksums: np.ndarray | None


class Changes(NamedTuple):
    """How one set of images differs from an earlier one.

    Attributes:
      rows: int32 [n], for each image the row of the same image in the earlier set; `GONE`
        for new images.
      added: names of images whose name and content are both new.
      removed: names of the earlier set whose content is gone too, or cannot be used.
      renamed: earlier and present name of the same content.
      changed: names whose content has changed.
      by_content: whether contents were compared, or only names.
    """

    rows: np.ndarray
    added: list[str]
    removed: list[str]
    renamed: list[tuple[str, str]]
    changed: list[str]
    by_content: bool

    def __str__(self) -> str:
        """Counts each kind of change and names the first few images, in one line."""
        renamed = [f"{old} -> {new}" for old, new in self.renamed]
        kinds = ("added", "gone", "renamed", "changed")
        names = self.added, self.removed, renamed, self.changed
        counts = [
            f"{len(x):,} {kind} ({_first(x)})"
            for kind, x in zip(kinds, names, strict=True)
            if x
        ]
        text = ", ".join(counts) or "the same images in another order"
        return text if self.by_content else f"{text}; compared by names only"


def compare(before: Known, now: Known) -> Changes:
    """Finds each image in an earlier set.

    First, images with the same name and content are matched; then images with the same
    content, which were renamed; then images with the same name, whose content changed. If
    the contents of a set are not known, names decide. If, then, all names are the same
    and in the same order, something else must have changed, and every image counts as
    changed.

    Args:
      before: the earlier set, whose digest differs from that of the present set.
      now: the present set.
    """
    by_content = before.checksums is not None and now.checksums is not None
    was = before.checksums.tolist() if by_content else [0] * len(before.ids)
    content = now.checksums.tolist() if by_content else [0] * len(now.ids)
    places = {name: place for place, name in enumerate(before.ids)}
    rows = np.full(len(now.ids), GONE, np.int32)
    if by_content or list(before.ids) != list(now.ids):
        for row, name in enumerate(now.ids):
            place = places.get(name)
            if place is not None and was[place] == content[row]:
                rows[row] = place
    kept = set(rows.tolist())
    left = {name: place for name, place in places.items() if place not in kept}
    renamed = _match_contents(left, was, now.ids, content, rows) if by_content else []
    new = [now.ids[row] for row in np.flatnonzero(rows == GONE).tolist()]
    changed = [name for name in new if name in left]
    for name in changed:
        del left[name]
    names = set(changed)
    added = [name for name in new if name not in names]
    return Changes(rows, added, list(left), renamed, changed, by_content)


def _match_contents(
    left: dict[str, int],
    was: list[int],
    ids: Sequence[str],
    content: list[int],
    rows: np.ndarray,
) -> list[tuple[str, str]]:
    """Fills rows that are `GONE` by content, and removes what it uses from `left`."""
    names: dict[int, list[str]] = {}
    for name in reversed(left):
        names.setdefault(was[left[name]], []).append(name)
    renamed = []
    for row in np.flatnonzero(rows == GONE).tolist():
        if names.get(content[row]):
            old = names[content[row]].pop()
            rows[row] = left.pop(old)
            renamed.append((old, ids[row]))
    return renamed


def _first(names: Sequence[str]) -> str:
    return printable(", ".join(names[:NAMED])) + ", ..." * (len(names) > NAMED)
