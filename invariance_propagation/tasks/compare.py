"""Finds what new pictures are most like: training images, or pictures of a folder.

Their features are embedded anew, not taken from a memory, whose rows may be averages of
what earlier networks made of random views. They are kept in a file for the next time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from invariance_propagation.errors import UserError, printable
from invariance_propagation.evaluation.kept import (
    VECTORS,
    Block,
    Damaged,
    Keeper,
    read_blocks,
    read_facts,
)
from invariance_propagation.evaluation.retrieval import (
    Found,
    look_through,
    nothing_found,
)
from invariance_propagation.tasks.gallery import INSTEAD, Gallery, differs

SHOWN = 5  # pictures left out that are named
LEFT_OUT = "left_out"
Blocks = Callable[[list[str]], Iterable[Block]]


def find_neighbors(
    gallery: Gallery,
    new: Mapping[str, np.ndarray],
    blocks: Blocks,
    *,
    by: str,
    num_neighbors: int,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Finds the images of a gallery that are most like each new picture.

    Args:
      gallery: to look through.
      new: `features` float32 [q, F] of the new pictures and, of an encoder with a head,
        `embeddings` float32 [q, d].
      blocks: embeds the images of the gallery; appends a line to the list for each
        that cannot be used.
      by: 'features' or 'embeddings'.
      num_neighbors: for each new picture, at most the number of images.

    Returns:
      `neighbors` int32 [q, k], `similarities` float32 [q, k] and, where the images
      have names, `neighbor_ids`, k being less than `num_neighbors` where fewer images
      can be used; and what these arrays are, as JSON.

    Raises:
      UserError: no image of the gallery can be used.
    """
    search = {"by": by, "num_neighbors": num_neighbors}
    found, is_kept = _in_kept(gallery, new[by], **search), True
    if found is None:
        num_bytes = sum(new[name][:1].nbytes for name in VECTORS if name in new)
        num_bytes *= gallery.count
        found, is_kept = _anew(gallery, new[by], blocks, num_bytes, **search)
    arrays = {
        "neighbors": found.rows.astype(np.int32),
        "similarities": found.similarities.astype(np.float32),
    }
    if gallery.ids is not None:
        names = [[gallery.ids[i] for i in row] for row in found.rows.tolist()]
        arrays["neighbor_ids"] = np.array(names)
    return arrays, {
        "images": gallery.title,
        "count": gallery.count,
        "by": by,
        "similarities": f"cosines of {by}",
        "neighbors": gallery.numbering,
        "features_kept_in": str(gallery.path) if is_kept else None,
    }


def _in_kept(
    gallery: Gallery, queries: np.ndarray, *, by: str, num_neighbors: int
) -> Found | None:
    """Searches the features that are kept; None if they must be made."""
    path = gallery.path
    try:
        kept = read_facts(path)
        if kept is None:
            return None
        difference = differs(kept, gallery.facts)
        if difference:
            print(printable(f"{path} is of {difference}: its features are made again"))
            return None
        title = printable(f"{gallery.title}, in {path}")
        print(f"comparing by {by} with {gallery.count:,} {title}")
        blocks = read_blocks(path, by)
        bar = tqdm.tqdm(blocks, unit="block", disable=None, leave=False)
        found = _search(bar, queries, num_neighbors)
        _name_left_out(kept[LEFT_OUT])
        return found
    except Damaged as error:
        if gallery.images is None:
            raise UserError(
                f"{path} cannot be read ({error}), and the {gallery.title} are gone: "
                f"{INSTEAD}"
            ) from error
        print(
            printable(f"{path} cannot be read ({error}): its features are made again")
        )
        return None


def _anew(
    gallery: Gallery,
    queries: np.ndarray,
    blocks: Blocks,
    num_bytes: int,
    *,
    by: str,
    num_neighbors: int,
) -> tuple[Found, bool]:
    """Embeds the images and searches them; also returns whether features are kept."""
    print(
        f"embedding {gallery.count:,} {printable(gallery.title)} to compare by {by}, once: "
        f"{_size(num_bytes)} of features are kept in {printable(str(gallery.path))}"
    )

    def report(line: str) -> None:
        print(
            f"{printable(line)}: the features are not kept, and are made again next time"
        )

    failed: list[str] = []

    def pairs(keeper: Keeper) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in blocks(failed):
            keeper.add(block)
            yield block.rows, getattr(block, by)

    with Keeper(gallery.path, num_bytes, report) as keeper:
        found = _search(pairs(keeper), queries, num_neighbors)
        _name_left_out(failed)
        if not found.rows.size:
            raise UserError(
                f"none of the {gallery.count:,} {gallery.title} can be used: {INSTEAD}"
            )
        return found, keeper.finish(gallery.facts | {LEFT_OUT: failed})


def _search(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    queries: np.ndarray,
    num_neighbors: int,
) -> Found:
    found = nothing_found(len(queries))
    for rows, vectors in pairs:
        found = look_through(found, queries, vectors, rows, num_neighbors=num_neighbors)
    return found


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB"


def _name_left_out(failed: Sequence[str]) -> None:
    for reason in failed[:SHOWN]:
        print(f"not compared with: {printable(reason)}")
    if len(failed) > SHOWN:
        print(f"not compared with: {len(failed) - SHOWN:,} more pictures")
