"""The galleries as HTML: thumbnails with similarity and label, and marks."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import printable
from invariance_propagation.report import page
from invariance_propagation.report.draw import THUMBNAIL, thumbnail
from invariance_propagation.report.gallery import Reached, nearest, reach
from invariance_propagation.report.health import spread, unit_rows
from invariance_propagation.report.record import Record, embed_images

ANCHORS, QUERIES = 8, 10
# In a row: as many as fit beside each other in half of a usual screen.
PER_HOP = NEGATIVES = NEAREST = 8
CAPTION = (
    "Below a picture stand its cosine similarity and, where it is known, its label; "
    "\N{MULTIPLICATION X} where that is another than the {whose}'s."
)
NEAREST_LEGEND = page.paragraph(
    "Pictures that were not trained on, each with the training images whose rows of the "
    "bank are most similar to its embedding. " + CAPTION.format(whose="picture")
)


def propagation_legend(records: Sequence[Record]) -> str:
    """How to read the gallery."""
    known = (r.positives for r in records if r.memory is not None)
    kinds = dict.fromkeys(x["positives"] for x in known if x is not None)
    chosen = {"hard": "least", "easy": "most"}
    which = " or ".join(f"the {chosen[kind]} similar positives" for kind in kinds)
    return (
        page.paragraph(
            "Some training images, evenly spread, as anchors. A hop goes from each image "
            "to its nearest neighbours; all that is reached counts as a positive. A "
            "picture stands where it is reached first. "
            + CAPTION.format(whose="anchor")
        )
        + page.mark("chosen", f"{which}: the propagation loss pulls these in")
        + page.mark("negative", "nearest negatives: most similar, but not reached")
    )


def propagation_gallery(record: Record) -> list[str]:
    """Some anchors with what propagation reaches from them, hop by hop."""
    if record.memory is None or record.dataset is None or record.positives is None:
        return []
    shown = Thumbnails(record.dataset, record.dataset.train)
    rows, graph = unit_rows(record.memory.bank), record.memory.graph
    options = record.positives | {"num_negatives": NEGATIVES}
    return [
        _anchor(shown, reach(rows, graph, index, **options))
        for index in spread(len(rows), ANCHORS)
    ]


def nearest_gallery(record: Record) -> list[str]:
    """Some held-out images with the training images whose rows are nearest."""
    if record.dataset is None or record.dataset.held_out is None:
        return []
    train, held_out = record.dataset.train, record.dataset.held_out
    shown, queries = (Thumbnails(record.dataset, x) for x in (train, held_out))
    indices = spread(len(held_out.images), QUERIES)
    images = np.concatenate([held_out.images[i : i + 1] for i in indices])
    embeddings = unit_rows(embed_images(record, images))
    similarities = embeddings @ unit_rows(record.memory.bank).T
    parts = []
    for index, row in zip(indices, similarities, strict=True):
        label = queries.label(index)
        found = [shown.show(i, row[i], label) for i in nearest(row, NEAREST)]
        strips = [
            page.strip("held out", [queries.show(index)]),
            page.strip("nearest", found),
        ]
        parts.append(page.block("anchor", strips))
    return parts


class Thumbnails:
    """Thumbnails of a split, each made once."""

    def __init__(self, dataset: Dataset, split: Split):
        self._dataset, self._split = dataset, split
        self._uri = functools.cache(self._encode)

    def label(self, index: int) -> int | None:
        """None where there are none."""
        labels = self._split.labels
        return None if labels is None else int(labels[index])

    def show(
        self,
        index: int,
        similarity: float | None = None,
        expected: int | None = None,
        kind: str = "",
    ) -> str:
        """The image above its similarity and label, one other than `expected` marked."""
        label, ids = self.label(index), self._split.ids
        return page.picture(
            self._uri(int(index)),
            f"image {index}" if ids is None else printable(ids[index]),
            "" if similarity is None else f"{similarity:.2f}",
            "" if label is None else self._dataset.class_name(label),
            wrong=label is not None and expected is not None and label != expected,
            kind=kind,
            pixelated=max(self._split.images.shape[1:3]) < THUMBNAIL,
        )

    def _encode(self, index: int) -> str:
        return thumbnail(self._split.images[index : index + 1][0])


def _anchor(shown: Thumbnails, reached: Reached) -> str:
    label, similarities = shown.label(reached.anchor), reached.similarities
    pulled = set(reached.chosen.tolist())

    def pictures(ids: np.ndarray) -> Iterator[str]:
        for i in ids:
            kind = "chosen" if i in pulled else ""
            yield shown.show(i, similarities[i], label, kind)

    strips = [page.strip("anchor", [shown.show(reached.anchor)])]
    for number, ids in enumerate(reached.hops, 1):
        some = ids[spread(len(ids), PER_HOP)] if len(ids) else ids
        title = f"hop {number}: {_count(len(some), len(ids))}"
        strips.append(page.strip(title, pictures(some)))
    negatives = (
        shown.show(i, similarities[i], label, "negative") for i in reached.negatives
    )
    strips.append(page.strip("nearest negatives", negatives))
    total, count = sum(map(len, reached.hops)), len(pulled)
    note = f"{total} positives, {'all' if count == total else count} of them pulled in"
    return page.block("anchor", [*strips, page.note(note) if total else ""])


def _count(shown: int, there: int) -> str:
    if not there:
        return "nothing new"
    return str(there) if shown == there else f"{shown} of {there}"
