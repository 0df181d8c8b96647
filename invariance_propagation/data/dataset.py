"""Defines a data set: the images, labels and ids of its splits, by index."""

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.order import random_rows
from invariance_propagation.errors import printable

# Makes the draw of a sample independent of the seed's other uses.
SAMPLE = 0x5A3B1E


class Split(NamedTuple):
    """Images and what is known about them.

    Attributes:
      images: uint8 [n, H, W, C], or pictures that are decoded on access.
      labels: int32 [n], or None if there are none.
      ids: the source's name of each image, or None if it has no names.
      columns: by name, int32 [n]: facts about each image that a method may train on,
        such as its domain, counted from 0.
    """

    images: np.ndarray | Pictures
    labels: np.ndarray | None
    ids: Sequence[str] | None = None
    columns: Mapping[str, np.ndarray] = {}

    def sample(self, count: int, *, seed: int) -> "Split":
        """Draws `count` images at random, and keeps their order.

        The same seed draws the same images, and a smaller count draws a subset of what a
        larger count draws.
        """
        if count == len(self.images):
            return self
        size = len(self.images)
        return self.take(
            random_rows(count, num_examples=size, seed=seed, purpose=SAMPLE)
        )

    def take(self, rows: np.ndarray) -> "Split":
        """Returns the images `rows`, int [m], in this order."""
        images, labels, ids, columns = self
        return Split(
            images.take(rows) if isinstance(images, Pictures) else images[rows],
            None if labels is None else labels[rows],
            None if ids is None else [ids[int(i)] for i in rows],
            {name: column[rows] for name, column in columns.items()},
        )

    def categories(self) -> dict[str, int]:
        """Returns the number of values that each column can have."""
        return {name: int(x.max()) + 1 for name, x in self.columns.items()}

    def digest(self) -> str:
        """Names the images and their order by 16 hex digits of SHA-256.

        The digest covers the values of arrays; for files and records, their names and the
        marks of their content. It covers columns, because methods train on them.
        """
        images, ids = self.images, self.ids
        if isinstance(images, Pictures):
            assert ids is not None  # files and records have names
            state = hashlib.sha256()
            for index, name in enumerate(ids):
                image = os.fsencode(name) + b"\0" + images.mark(index)
                state.update(len(image).to_bytes(8, "big") + image)
        else:
            state = hashlib.sha256(str(images.shape).encode())
            state.update(np.ascontiguousarray(images).data)
        for name, column in sorted(self.columns.items()):
            state.update(os.fsencode(name) + np.ascontiguousarray(column).tobytes())
        return state.hexdigest()[:16]

    def labels_digest(self) -> str | None:
        """Names the labels by 16 hex digits of SHA-256; None if there are none."""
        if self.labels is None:
            return None
        return hashlib.sha256(np.ascontiguousarray(self.labels).data).hexdigest()[:16]

    def checksums(self) -> np.ndarray | None:
        """Returns the CRC-32 of each image's content, without reading a file.

        Two different images share a checksum once in 4 billion pairs.

        Returns:
          uint32 [n]; None if the contents of single images are not known.
        """
        if isinstance(self.images, Pictures):
            return self.images.checksums()
        values = (zlib.crc32(np.ascontiguousarray(x).data) for x in self.images)
        return np.fromiter(values, np.uint32, len(self.images))


class Dataset(NamedTuple):
    """A training split and, for evaluation, a held-out split (None if there is none).

    Attributes:
      name: of the set.
      train, held_out: its splits.
      classes: the name of each label, by number; () if labels have no names.
      notes: what people should know about the set before a run, a line each.
    """

    name: str
    train: Split
    held_out: Split | None
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()

    def class_name(self, label: int) -> str:
        """Returns the name of a label; its number if it has no name."""
        return printable(self.classes[label]) if self.classes else str(label)

    def digest(self) -> str:
        """Names the training images and their order, as `Split.digest` does."""
        return self.train.digest()

    def has_digest(self, digest: str) -> bool:
        """Returns whether a run that noted `digest` was trained on these images.

        Earlier versions made digests of files and records from their names only.
        """
        if digest == self.digest():
            return True
        images, ids = self.train.images, self.train.ids
        if not isinstance(images, Pictures) or ids is None:
            return False
        names = os.fsencode("\0".join(ids))
        return digest == hashlib.sha256(names).hexdigest()[:16]
