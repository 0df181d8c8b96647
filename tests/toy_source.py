"""A data set as somebody would add one: one module, and one line of `LOADERS`."""

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split

NUM_TRAIN, NUM_HELD_OUT = 64, 16


def stripes(folder: str, *, split: str = "", size: int = 224) -> Dataset:
    """Draws stripes, 8x8 grey, whose direction is their class.

    Args:
      folder: not used; stripes are drawn.
      split: 'noisy' adds noise.
      size: not used; the images have a fixed size.
    """
    del folder, size
    random = np.random.default_rng(0)
    count = NUM_TRAIN + NUM_HELD_OUT
    labels = np.arange(count, dtype=np.int32) % 2
    phase = random.integers(0, 8, (count, 1, 1))
    rows, columns = np.mgrid[:8, :8]
    along = np.where(labels[:, None, None] == 0, rows, columns)
    images = np.where((along + phase) % 4 < 2, 60, 190)
    if split == "noisy":
        images = images + random.integers(-20, 20, images.shape)
    images = images.astype(np.uint8)[..., None]
    return Dataset(
        "stripes",
        Split(images[:NUM_TRAIN], labels[:NUM_TRAIN]),
        Split(images[NUM_TRAIN:], labels[NUM_TRAIN:]),
        ("rows", "columns"),
    )
