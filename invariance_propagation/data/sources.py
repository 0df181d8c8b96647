"""Data sets by name: arrays that live on the device, or files that are streamed.

An image's index is its position in the training split: the bank and the graph
are addressed by it, so a source always yields the same order.
"""

import gzip
import hashlib
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from invariance_propagation.data.folder import (
    classes_of,
    is_held_out,
    list_pictures,
)
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.errors import UserError

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
# Read as they are through TFDS and through image folders, which this version
# does not have yet.
PLANNED = ("imagenet", "cifar10", "cifar100", "svhn")


class Split(NamedTuple):
    """images uint8 [n, H, W, C]; labels int32 [n], or None where there are none."""

    images: np.ndarray | Pictures
    labels: np.ndarray | None


class Dataset(NamedTuple):
    """A training split and, for evaluation, a held-out one (None where absent)."""

    name: str
    train: Split
    held_out: Split | None

    def digest(self) -> str:
        """Names the training images and their order, 16 hex digits of SHA-256.

        Of files it is their names that count.
        """
        images = self.train.images
        if isinstance(images, Pictures):
            return hashlib.sha256("\0".join(images.ids).encode()).hexdigest()[:16]
        state = hashlib.sha256(str(images.shape).encode())
        state.update(np.ascontiguousarray(images).data)
        return state.hexdigest()[:16]


def load(
    *,
    name: str,
    folder: str,
    num_train: int,
    classes: bool = False,
    held_out: float = 0.0,
    size: int = 224,
) -> Dataset:
    """Loads a data set by name.

    Args:
      name: 'digits', 'fashion_mnist' or 'image_folder'.
      folder: where the files lie; '' for the usual place.
      num_train: keep only the first so many training images; 0 keeps all.
      classes: of an image folder, whether its topmost folders are classes.
      held_out: share of an image folder to keep from training, for kNN.
      size: height and width of the crops of streamed pictures.

    Raises:
      UserError: unknown name, missing or damaged files, num_train out of range.
    """
    if name in PLANNED:
        raise UserError(
            f"data.name='{name}': its data source comes with a later release; "
            f"until then train on one of {', '.join(LOADERS)}"
        )
    if not 0 <= held_out < 1:
        raise UserError(f"data.held_out={held_out}: set it to 0 or above, below 1")
    if name == "image_folder":
        dataset = _image_folder(folder, classes, held_out, size)
    elif name in LOADERS:
        dataset = LOADERS[name](folder)
    else:
        names = ", ".join((*LOADERS, "image_folder"))
        raise UserError(f"data.name={name!r}: choose one of {names}")
    count = len(dataset.train.images)
    if not 0 <= num_train <= count:
        raise UserError(
            f"data.num_train={num_train}, but {name} has {count} training images: "
            f"set it from 1 to {count}, or to 0 for all of them"
        )
    return dataset._replace(train=_first(dataset.train, num_train or count))


def _first(split: Split, count: int) -> Split:
    images, labels = split
    if isinstance(images, Pictures):
        images = Pictures(images.folder, images.ids[:count], images.size)
    else:
        images = images[:count]
    return Split(images, None if labels is None else labels[:count])


def _image_folder(folder: str, classes: bool, held_out: float, size: int) -> Dataset:
    if not folder:
        raise UserError("data.folder is missing: the folder that holds the pictures")
    root = Path(folder).absolute()
    ids = list_pictures(root)
    labels = np.array(classes_of(ids), np.int32) if classes else None
    kept = np.array([not is_held_out(name, held_out) for name in ids])

    def split(rows: np.ndarray) -> Split:
        names = [ids[i] for i in np.flatnonzero(rows)]
        pictures = Pictures(root, names, size)
        return Split(pictures, None if labels is None else labels[rows])

    return Dataset(root.name, split(kept), None if kept.all() else split(~kept))


def _digits(folder: str) -> Dataset:
    """scikit-learn's 1,797 digits, 8x8 grey; the last 450 are held out.

    The digits are in the order of their writers, so that most of those held out come
    from writers who are not in the training split.
    """
    if folder:
        raise UserError(
            f"data.folder={folder!r}: digits ship with scikit-learn; leave it ''"
        )
    # Imported here: scikit-learn takes a second to import and others need it not.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    cut = len(images) - 450
    return Dataset(
        "digits", Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    )


def _fashion_mnist(folder: str) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017) from its four idx.gz files, 28x28 grey."""
    path = Path(folder or FASHION_MNIST_FOLDER)

    def split(prefix: str) -> Split:
        images = read_idx(path / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(path / f"{prefix}-labels-idx1-ubyte.gz")
        if len(images) != len(labels):
            raise UserError(
                f"{path} has {len(images)} {prefix} images, but {len(labels)} labels: "
                "fetch its files again"
            )
        return Split(images[..., None], labels.astype(np.int32))

    return Dataset("fashion_mnist", split("train"), split("t10k"))


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    Raises:
      UserError: no such file, or it is damaged.
    """
    if not path.exists():
        raise UserError(
            f"{path} is missing: install Debian's package with 'apt-get install "
            "dataset-fashion-mnist', or set --config.data.folder to a folder that "
            "holds the four idx.gz files"
        )
    try:
        content = gzip.decompress(path.read_bytes())
        kind, rank = struct.unpack(">xxBB", content[:4])
        shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
        if kind != 8:
            raise ValueError(f"element type {kind}, not unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from error


LOADERS = {"digits": _digits, "fashion_mnist": _fashion_mnist}
