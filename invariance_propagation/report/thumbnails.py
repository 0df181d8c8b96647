"""Shows galleries as HTML: thumbnails with similarity, label and marks."""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import printable
from invariance_propagation.methods import Strip
from invariance_propagation.methods.measures import most_similar
from invariance_propagation.report import page
from invariance_propagation.report.draw import THUMBNAIL, thumbnail
from invariance_propagation.report.health import spread, unit_rows
from invariance_propagation.report.record import Record, embed_images

ANCHORS, QUERIES = 8, 10
# Thumbnails in a row: as many as fit into half of a usual screen.
MOST = NEAREST = 8
CAPTION = (
    "Below each picture are its cosine similarity, if the method keeps embeddings, and its "
    "label, if it is known, marked "
    "\N{MULTIPLICATION X} if it differs from the {whose}'s."
)
NEAREST_LEGEND = page.paragraph(
    "Held-out pictures, each with the training images whose rows of the memory are most "
    "similar to its embedding. " + CAPTION.format(whose="picture")
)


def method_legend(records: Sequence[Record], title: str) -> str:
    """Says how to read the gallery with this title."""
    galleries = [r.notes.gallery for r in records if r.notes.gallery is not None]
    galleries = [gallery for gallery in galleries if gallery.title == title]
    meanings: dict[str, dict[str, None]] = {}
    for gallery in galleries:
        for kind, meaning in gallery.marks.items():
            meanings.setdefault(kind, {})[meaning] = None  # in order, without repeats
    legend = f"{galleries[0].legend} {CAPTION.format(whose='anchor')}"
    marks = (page.mark(kind, " or ".join(each)) for kind, each in meanings.items())
    return page.paragraph(legend) + "".join(marks)


def method_gallery(record: Record) -> list[str]:
    """Shows some anchors with the images that the method puts beside them."""
    if record.memory is None or record.dataset is None:
        return []
    shown = Thumbnails(record.dataset, record.dataset.train)
    known = record.notes.gallery.anchors
    if known is None:
        anchors = spread(record.facts["num_examples"], ANCHORS)
    else:
        anchors = known(record.memory.tree)
        anchors = anchors[spread(len(anchors), ANCHORS)]
    if record.memory.rows is None:
        return [_anchor(shown, record, index, None) for index in anchors]
    rows = unit_rows(record.memory.rows)
    return [_anchor(shown, record, index, rows @ rows[index]) for index in anchors]


def nearest_gallery(record: Record) -> list[str]:
    """Shows some held-out images with the training images whose rows are nearest."""
    if record.rows_of_memory is None or record.dataset is None:
        return []
    if record.dataset.held_out is None:
        return []
    train, held_out = record.dataset.train, record.dataset.held_out
    shown, queries = (Thumbnails(record.dataset, x) for x in (train, held_out))
    indices = spread(len(held_out.images), QUERIES)
    images = np.concatenate([held_out.images[i : i + 1] for i in indices])
    embeddings = embed_images(record, images)
    if embeddings is None:
        return []
    similarities = unit_rows(embeddings) @ unit_rows(record.rows_of_memory).T
    anchors = []
    for index, row in zip(indices, similarities, strict=True):
        label = queries.label(index)
        nearest = [
            shown.show(i, row[i], label) for i in most_similar(row, count=NEAREST)
        ]
        strips = [
            page.strip("held out", [queries.show(index)]),
            page.strip("nearest", nearest),
        ]
        anchors.append(page.block("anchor", strips))
    return anchors


class Thumbnails:
    """Makes thumbnails of a split, each only once."""

    def __init__(self, dataset: Dataset, split: Split):
        self._dataset, self._split = dataset, split
        self._uri = functools.cache(self._encode)

    def label(self, index: int) -> int | None:
        """Returns the label of an image; None if the split has no labels."""
        labels = self._split.labels
        return None if labels is None else int(labels[index])

    def show(
        self,
        index: int,
        similarity: float | None = None,
        expected: int | None = None,
        kind: str = "",
    ) -> str:
        """Shows an image above its similarity and label.

        Args:
          index: the image.
          similarity: to write below the image; None to leave it out.
          expected: the label to compare with; another one is marked.
          kind: how to frame the image; see `page.mark`.
        """
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


def _anchor(
    shown: Thumbnails, record: Record, anchor: int, similarities: np.ndarray | None
) -> str:
    label = shown.label(anchor)
    gallery = record.notes.gallery
    strips, note = gallery.strips(record.memory.tree, anchor, similarities)

    def pictures(strip: Strip, indices: np.ndarray) -> Iterator[str]:
        marked = set(strip.marked.tolist())
        for i in indices:
            kind = "chosen" if int(i) in marked else strip.kind
            similarity = None if similarities is None else similarities[i]
            yield shown.show(i, similarity, label, kind)

    rows = [page.strip("anchor", [shown.show(anchor)])]
    for strip in strips:
        count = len(strip.indices)
        some = strip.indices[spread(count, MOST)] if count else strip.indices
        title = f"{strip.title}: {_count(len(some), count)}"
        rows.append(page.strip(title, pictures(strip, some)))
    return page.block("anchor", [*rows, page.note(note)])


def _count(shown: int, there: int) -> str:
    if not there:
        return "nothing new"
    return str(there) if shown == there else f"{shown} of {there}"
