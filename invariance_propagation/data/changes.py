"""What has changed between two sets of images, told by their names and checksums."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from invariance_propagation.errors import printable

NAMED = 3  # of each kind, in a message
GONE = -1


class Known(NamedTuple):
    """What a run knows of the images of a split, in their order.

    Attributes:
      ids: what the source calls each.
      checksums: uint32 [n], of each image's content; None where it is not known.
    """

    ids: Sequence[str]
    checksums: np.ndarray | None


class Changes(NamedTuple):
    """How one set of images differs from an earlier one.

    Attributes:
      rows: int32 [n], the place in the earlier set of each image whose content was in it;
        `GONE` for each that is new.
      added: names whose content was not in the earlier set, nor their name.
      removed: names of the earlier set that are gone, with their content.
      renamed: earlier and present name of the same content.
      changed: names with another content than in the earlier set.
      by_content: whether contents were compared, or names alone.
    """

    rows: np.ndarray
    added: list[str]
    removed: list[str]
    renamed: list[tuple[str, str]]
    changed: list[str]
    by_content: bool

    def __str__(self) -> str:
        """Counts each kind and names the first few of it, in one line."""
        renamed = [f"{old} -> {new}" for old, new in self.renamed]
        kinds = ("added", "removed", "renamed", "changed")
        names = self.added, self.removed, renamed, self.changed
        parts = [
            f"{len(x):,} {kind} ({_first(x)})"
            for kind, x in zip(kinds, names, strict=True)
            if x
        ]
        text = ", ".join(parts) or "the same images in another order"
        return text if self.by_content else f"{text}; told by names alone"


def compare(before: Known, now: Known) -> Changes:
    """Finds for each image the one of an earlier set that it is.

    An image of the same name and content is the same. What is left is matched by content,
    which is then a new name for it, and only then by name, which is then another content.
    Where the contents of either set are not known, names decide; if all names are the
    same, in the same order, something else must have changed, and every image counts as
    changed.

    Args:
      before: the earlier set, of which a digest says that it is not the present one.
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
    """Gives rows without a place one of the same content, and takes it out of `left`."""
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
