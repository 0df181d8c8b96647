"""Sets in four idx.gz files: Fashion-MNIST as Debian packages it, and letters."""

import gzip
import math
import string
import struct
import zlib
from pathlib import Path

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import UserError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.paths import local, reason

FASHION_MNIST_FOLDER = "/usr/share/datasets/fashion-mnist"
LETTERS_FOLDER = "runs/letters_data"
MAX_BYTES = 2**30  # of an array; Fashion-MNIST's largest has 47 million
FASHION_MNIST_CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def fashion_mnist(folder: str) -> Dataset:
    """Loads Fashion-MNIST (Xiao et al. 2017), 28x28 grey."""
    return _read_set(
        "fashion_mnist",
        folder or FASHION_MNIST_FOLDER,
        FASHION_MNIST_CLASSES,
        remedy="install Debian's package with 'apt-get install dataset-fashion-mnist', "
        "or set --config.data.folder to a folder that holds the four idx.gz files",
    )


def letters(folder: str) -> Dataset:
    """Loads capital letters in many fonts, 28x28 grey, as benchmarks/letters.py makes them.

    The families of fonts of the held-out letters are not those of the training letters.
    """
    folder = folder or LETTERS_FOLDER
    return _read_set(
        "letters",
        folder,
        tuple(string.ascii_uppercase),
        remedy=f"'python benchmarks/letters.py {folder}' makes the four files",
    )


def _read_set(
    name: str, folder: str, classes: tuple[str, ...], *, remedy: str
) -> Dataset:
    path = local(folder, key="--config.data.folder")

    def split(prefix: str) -> Split:
        images = read_idx(path / f"{prefix}-images-idx3-ubyte.gz", remedy=remedy)
        labels = read_idx(path / f"{prefix}-labels-idx1-ubyte.gz", remedy=remedy)
        if (images.ndim, labels.ndim) != (3, 1):
            raise UserError(
                f"{path} is damaged: its {prefix} files do not hold images and labels"
            )
        if len(images) != len(labels):
            raise UserError(
                f"{path} has {len(images)} {prefix} images, but {len(labels)} labels: "
                "fetch its files again"
            )
        return Split(images[..., None], labels.astype(np.int32))

    train, held_out = split("train"), split("t10k")
    return Dataset(name, train, held_out, classes)


def read_idx(
    path: Path, *, remedy: str = "set --config.data.folder to the folder that holds it"
) -> np.ndarray:
    """Reads a gzipped idx file of unsigned bytes.

    Args:
      path: the file.
      remedy: what to do if there is no such file, for the message.

    Raises:
      UserError: no such file, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: {remedy}")
    try:
        with open_file(path) as packed, gzip.GzipFile(fileobj=packed) as file:
            kind, rank = struct.unpack(">xxBB", file.read(4))
            if kind != 8:
                raise ValueError(f"element type {kind}, not unsigned bytes")
            shape = struct.unpack(f">{rank}I", file.read(4 * rank))
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise ValueError(f"it claims {size:,} bytes, more than {MAX_BYTES:,}")
            # Read to the end, where the checksum is, but at most one byte too many.
            content = file.read(size + 1)
            return np.frombuffer(content, np.uint8).reshape(shape)
    except (gzip.BadGzipFile, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
