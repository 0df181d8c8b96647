"""scikit-learn's handwritten digits, the smallest data set: it needs no download."""

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import UserError

HELD_OUT = 450


def digits(folder: str) -> Dataset:
    """Loads scikit-learn's 1,797 digits, 8x8 grey; the last 450 are held out.

    The digits are in the order of their writers, so most of the held-out digits come from
    writers who are not in the training split.
    """
    if folder:
        raise UserError(
            f"--config.data.folder={folder!r}: digits ship with scikit-learn; leave "
            "it ''"
        )
    # Imported here: scikit-learn takes a second to import, and other sets do not need it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    cut = len(images) - HELD_OUT
    return Dataset(
        "digits", Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    )
