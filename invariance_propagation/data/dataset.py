"""What a data set is to the rest: images, labels and ids of a split, by index."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.pictures import Pictures


class Split(NamedTuple):
    """Images and what is known of them.

    Attributes:
      images: uint8 [n, H, W, C], or pictures that are decoded when looked at.
      labels: int32 [n], or None where there are none.
      ids: what the source calls each image, or None where it has no names.
    """

    images: np.ndarray | Pictures
    labels: np.ndarray | None
    ids: Sequence[str] | None = None

    def first(self, count: int) -> "Split":
        """The first so many of it."""
        images, labels, ids = self
        streamed = isinstance(images, Pictures)
        return Split(
            images.first(count) if streamed else images[:count],
            None if labels is None else labels[:count],
            None if ids is None else ids[:count],
        )

    def take(self, rows: np.ndarray) -> "Split":
        """These of it, int [m], in this order."""
        images, labels, ids = self
        streamed = isinstance(images, Pictures)
        return Split(
            images.take(rows) if streamed else images[rows],
            None if labels is None else labels[rows],
            None if ids is None else [ids[int(i)] for i in rows],
        )


class Dataset(NamedTuple):
    """A training split and, for evaluation, a held-out one (None where absent).

    Attributes:
      name: of the set.
      train, held_out: its splits.
      classes: the name of each label, by number; () where they have none.
    """

    name: str
    train: Split
    held_out: Split | None
    classes: Sequence[str] = ()

    def class_name(self, label: int) -> str:
        """Its number where it has no name."""
        return self.classes[label] if self.classes else str(label)

    def digest(self) -> str:
        """Names the training images and their order, 16 hex digits of SHA-256.

        Of files and records it is their names that count.
        """
        images, _, ids = self.train
        if isinstance(images, Pictures):
            return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:16]
        state = hashlib.sha256(str(images.shape).encode())
        state.update(np.ascontiguousarray(images).data)
        return state.hexdigest()[:16]
