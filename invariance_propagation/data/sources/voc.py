"""PASCAL VOC 2007 for classification: which of 20 kinds of things an image shows."""

from typing import Any

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.tfds.records import TfdsSet, damage_named
from invariance_propagation.data.sources.tfds.stored import read_all

CLASSES = 20
IGNORED = -1
VOC = TfdsSet("voc/2007", train="train+validation")


def voc2007(folder: str, *, size: int) -> Dataset:
    """Loads trainval as the training split and test as the held-out split.

    Args:
      folder, size: as for `sources.load`.

    Returns:
      A data set whose labels are targets, int8 [n, 20]: 1 where a class is shown, -1
      where VOC marks all objects of the class as difficult, 0 where it is not shown.
    """
    dataset = VOC(folder, size=size)
    train, held_out = (_with_targets(x) for x in (dataset.train, dataset.held_out))
    return dataset._replace(train=train, held_out=held_out)


def targets_of(row: dict[str, Any]) -> np.ndarray:
    """Returns the targets int8 [20] of a record of TFDS."""
    targets = np.zeros(CLASSES, np.int8)
    targets[np.asarray(row["labels"], int)] = IGNORED
    targets[np.asarray(row["labels_no_difficult"], int)] = 1
    return targets


def _with_targets(split: Split) -> Split:
    source = split.images.content.source
    with damage_named(split.images.where):
        labels = read_all(source, targets_of, "labels of VOC 2007")
    return split._replace(labels=labels)
