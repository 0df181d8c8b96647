"""Finds the images that new pictures are most like, in training data or a folder.

The images are embedded again: the rows of a method's memory may be averages of what
earlier networks made of random views. Their features are kept in a file for next time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from invariance_propagation.errors import UserError, in_bytes, printable
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

SHOWN = 5  # how many of the pictures left out are named
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
      gallery: the images to search.
      new: `features`, float32 [q, F], of the new pictures and, if the encoder has a
        head, `embeddings`, float32 [q, d].
      blocks: embeds the images of the gallery; appends a line to its argument for each
        image that cannot be used.
      by: 'features' or 'embeddings'.
      num_neighbors: neighbours per new picture, at most the number of images.

    Returns:
      `neighbors` int32 [q, k], `similarities` float32 [q, k] and, if the images have
      names, `neighbor_ids` [q, k]; and a description of these arrays, as JSON. k is less
      than `num_neighbors` if fewer images can be used.

    Raises:
      UserError: no image of the gallery can be used.
    """
    search = {"by": by, "num_neighbors": num_neighbors}
    nearest, is_kept = _in_kept(gallery, new[by], **search), True
    if nearest is None:
        num_bytes = sum(new[name][:1].nbytes for name in VECTORS if name in new)
        num_bytes *= gallery.count
        nearest, is_kept = _anew(gallery, new[by], blocks, num_bytes, **search)
    arrays = {
        "neighbors": nearest.rows.astype(np.int32),
        "similarities": nearest.similarities.astype(np.float32),
    }
    if gallery.ids is not None:
        names = [[gallery.ids[i] for i in row] for row in nearest.rows.tolist()]
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
    """Searches the kept features; returns None if they must be made first."""
    path = gallery.path
    try:
        kept = read_facts(path)
        if kept is None:
            return None
        difference = differs(kept, gallery.facts)
        if difference:
            print(
                printable(f"{path} holds features of {difference}: they are made again")
            )
            return None
        title = printable(f"{gallery.title}, in {path}")
        print(f"comparing by {by} with {gallery.count:,} {title}")
        blocks = read_blocks(path, by)
        bar = tqdm.tqdm(blocks, unit="block", disable=None, leave=False)
        nearest = _search(bar, queries, num_neighbors)
        name_left_out(kept[LEFT_OUT])
        return nearest
    except Damaged as error:
        if gallery.images is None:
            raise UserError(
                f"{path} cannot be read ({error}), and the {gallery.title} are no longer "
                f"there: {INSTEAD}"
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
    """Embeds the images and searches them; also returns whether features were kept."""
    print(
        f"embedding {gallery.count:,} {printable(gallery.title)} to compare by {by}, once: "
        f"{in_bytes(num_bytes)} of features are kept in {printable(str(gallery.path))}",
        flush=True,
    )

    def report(line: str) -> None:
        print(
            f"{printable(line)}: the features are not kept and must be made again next time"
        )

    failed: list[str] = []

    def pairs(keeper: Keeper) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in blocks(failed):
            keeper.add(block)
            yield block.rows, getattr(block, by)

    with Keeper(gallery.path, num_bytes, report) as keeper:
        nearest = _search(pairs(keeper), queries, num_neighbors)
        name_left_out(failed)
        if not nearest.rows.size:
            raise UserError(
                f"none of the {gallery.count:,} {gallery.title} can be used: {INSTEAD}"
            )
        return nearest, keeper.finish(gallery.facts | {LEFT_OUT: failed})


def _search(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    queries: np.ndarray,
    num_neighbors: int,
) -> Found:
    nearest = nothing_found(len(queries))
    for rows, vectors in pairs:
        nearest = look_through(
            nearest, queries, vectors, rows, num_neighbors=num_neighbors
        )
    return nearest


def name_left_out(failed: Sequence[str]) -> None:
    """Prints why the first few images cannot be compared with, and how many more."""
    for reason in failed[:SHOWN]:
        print(f"not compared with: {printable(reason)}")
    if len(failed) > SHOWN:
        print(f"not compared with: {len(failed) - SHOWN:,} more pictures")
