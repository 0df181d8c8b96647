"""What a data set is to the rest: images, labels and ids of a split, by index."""

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.order import random_rows
from invariance_propagation.errors import printable

# Sets the draw of a sample apart from what else a seed decides.
SAMPLE = 0x5A3B1E


class Split(NamedTuple):
    """Images and what is known of them.

    Attributes:
      images: uint8 [n, H, W, C], or pictures that are decoded when looked at.
      labels: int32 [n], or None where there are none.
      ids: what the source calls each image, or None where it has no names.
      columns: by name, int32 [n]: facts about each image that a method may train on,
        such as its domain, counted from 0.
    """

    images: np.ndarray | Pictures
    labels: np.ndarray | None
    ids: Sequence[str] | None = None
    columns: Mapping[str, np.ndarray] = {}

    def sample(self, count: int, *, seed: int) -> "Split":
        """Draws `count` images at random, and keeps their order.

        The same seed draws the same ones of as many, and a smaller count some of
        those that a larger one draws.
        """
        if count == len(self.images):
            return self
        own = {"num_examples": len(self.images), "seed": seed, "purpose": SAMPLE}
        return self.take(random_rows(count, **own))

    def take(self, rows: np.ndarray) -> "Split":
        """Returns the images `rows`, int [m], in this order."""
        images, labels, ids, columns = self
        streamed = isinstance(images, Pictures)
        return Split(
            images.take(rows) if streamed else images[rows],
            None if labels is None else labels[rows],
            None if ids is None else [ids[int(i)] for i in rows],
            {name: column[rows] for name, column in columns.items()},
        )

    def categories(self) -> dict[str, int]:
        """Counts the values that each column can have."""
        return {name: int(x.max()) + 1 for name, x in self.columns.items()}

    def digest(self) -> str:
        """Names the images and their order, 16 hex digits of SHA-256.

        Of arrays it is their values that count; of files and records their names and
        the marks of their content. Columns count, as methods train on them.
        """
        images, ids = self.images, self.ids
        if isinstance(images, Pictures):
            state = hashlib.sha256()
            for index, name in enumerate(ids):
                own = os.fsencode(name) + b"\0" + images.mark(index)
                state.update(len(own).to_bytes(8, "big") + own)
        else:
            state = hashlib.sha256(str(images.shape).encode())
            state.update(np.ascontiguousarray(images).data)
        for name, column in sorted(self.columns.items()):
            state.update(os.fsencode(name) + np.ascontiguousarray(column).tobytes())
        return state.hexdigest()[:16]

    def checksums(self) -> np.ndarray | None:
        """Names the content of each image by 4 bytes, without reading a file.

        Two different images have the same checksum once in 4 billion pairs.

        Returns:
          uint32 [n], CRC-32; None where an image's content is not known by itself.
        """
        if isinstance(self.images, Pictures):
            return self.images.checksums()
        values = (zlib.crc32(np.ascontiguousarray(x)) for x in self.images)
        return np.fromiter(values, np.uint32, len(self.images))


class Dataset(NamedTuple):
    """A training split and, for evaluation, a held-out one (None where absent).

    Attributes:
      name: of the set.
      train, held_out: its splits.
      classes: the name of each label, by number; () where they have none.
      notes: what people should know of it before a run, a line each.
    """

    name: str
    train: Split
    held_out: Split | None
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()

    def class_name(self, label: int) -> str:
        """Its number where it has no name."""
        return printable(self.classes[label]) if self.classes else str(label)

    def digest(self) -> str:
        """Names the training images and their order, as `Split.digest` does."""
        return self.train.digest()

    def has_digest(self, digest: str) -> bool:
        """Whether a run that noted `digest` was trained on these images.

        Runs of earlier versions knew files and records by their names alone, which is
        all that can be compared then.
        """
        if digest == self.digest():
            return True
        images, ids = self.train.images, self.train.ids
        if not isinstance(images, Pictures):
            return False
        names = os.fsencode("\0".join(ids))
        return digest == hashlib.sha256(names).hexdigest()[:16]
