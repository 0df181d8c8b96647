"""Checks features and labels, and says what limits the meaning of a score."""

from itertools import repeat

import numpy as np

from invariance_propagation.data.changes import Known
from invariance_propagation.data.dataset import Split
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.classifier.head import TOP

# Smaller differences, relative to the largest feature, are due to rounding.
ROUNDING = 1e-6


def check_finite(features: np.ndarray, what: str) -> None:
    """Raises an error if a feature is NaN or infinite.

    Args:
      features: float [n, F].
      what: names the images in the error, such as 'training images'.

    Raises:
      TrainingError: names the first row that is not finite.
    """
    features = np.asarray(features)
    # Features may take 10 GB, and a mask of all of them another quarter.
    known = np.isfinite(features.max(axis=1)) & np.isfinite(features.min(axis=1))
    if not known.all():
        first = int(np.argmin(known))
        raise TrainingError(
            f"the features of {np.sum(~known):,} of {len(known):,} {what} are NaN or "
            f"infinite, first those of number {first}: look at that image, or train "
            "with a smaller learning rate"
        )


def all_alike(features: np.ndarray) -> bool:
    """Tells whether every row of float [n, F] is the same, up to rounding."""
    features = np.asarray(features)
    lowest, highest = features.min(axis=0), features.max(axis=0)
    largest = np.maximum(np.abs(lowest), np.abs(highest)).max()
    # Halved: the difference of two finite numbers may overflow.
    return bool((highest / 2 - lowest / 2).max() <= ROUNDING * largest)


def check_classes(labels: np.ndarray, name: str) -> None:
    """Raises an error if all images are of one class.

    Args:
      labels: of the training images: int [n], or targets int [n, C] as in
        `data.sources.voc`, which are not checked.
      name: of the data set.

    Raises:
      UserError: all labels are of one class.
    """
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise UserError(
            f"data {name}: all {len(labels):,} training images are of one class, so "
            "every answer is right: choose data with two classes or more (of an image "
            "folder, a folder for each class; of a small data.num_train, a larger one)"
        )


def remarks(labels: np.ndarray, held_out: np.ndarray) -> list[str]:
    """Says which properties of the labels limit what scores mean.

    Args:
      labels: of the training images: int [n], or targets int [n, C] as in
        `data.sources.voc`.
      held_out: of the held-out images, likewise.

    Returns:
      Sentences without a full stop; none if the labels are as usual.
    """
    if labels.ndim == 2:
        counts = [np.sum(x == 1, axis=0) for x in (labels, held_out)]
        missing = int(np.sum(np.minimum(*counts) == 0))
        return [f"{missing} of {labels.shape[1]} classes are left out"] * bool(missing)
    found, trained, tested = [], np.unique(labels), np.unique(held_out)
    if len(trained) == 1:
        found.append("one class: every answer is right, whatever was learnt")
    elif len(tested) == 1:
        found.append("all held-out images are of one class")
    classes = 1 + max(int(trained.max()), int(tested.max()))
    if len(trained) < 2 * TOP <= classes:
        found.append(
            f"only {len(trained)} of {classes} classes have training images, so top5 "
            "says little"
        )
    unknown = int(np.sum(~np.isin(held_out, trained)))
    if unknown:
        found.append(
            f"{unknown:,} of {len(held_out):,} held-out images belong to classes without "
            "training images, so none of them can be classified correctly"
        )
    return found


def remarks_on_seen(trained_on: Known | None, tested: Split) -> list[str]:
    """Says how many held-out images the network was trained on.

    Args:
      trained_on: names and checksums of the run's images; None if it noted none.
      tested: the held-out images. Of two images with one name, those of one content are the
        same; where contents are unknown, both are.
    """
    if trained_on is None or tested.ids is None:
        return []
    now, then = tested.checksums(), trained_on.checksums
    by_content = now is not None and then is not None
    contents = dict(zip(tested.ids, now if by_content else repeat(0), strict=False))
    before = zip(trained_on.ids, then if by_content else repeat(0), strict=False)
    count = sum(name in contents and contents[name] == x for name, x in before)
    if not count:
        return []
    return [
        f"{count:,} of {len(tested.ids):,} held-out images are among those that the "
        "network was trained on: scores of new images may be lower"
    ]


def remarks_on_few(targets: np.ndarray, count: int) -> list[str]:
    """Says if a class has fewer than `count` images, by targets int [n, C], 1 or not."""
    smallest = int(np.sum(targets == 1, axis=0).min())
    if smallest >= count:
        return []
    return [
        f"the smallest class has {smallest} training images: scores by more images per "
        f"class, up to {count}, use all of them"
    ]


def remarks_on_votes(num_neighbors: int, labels: np.ndarray) -> list[str]:
    """Says if no class of labels int [n] has enough images to win a vote of K."""
    largest = int(np.bincount(labels).max())
    if num_neighbors < 2 * largest:
        return []
    return [
        f"K = {num_neighbors}, but no class has more than {largest} training images: "
        "most votes are of other classes; set a smaller knn.num_neighbors"
    ]
