"""Describes a data set by the number and size of its images, without reading it."""

import numpy as np

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.tfds.splits import RESIDENT_BYTES, WHOLE_UP_TO
from invariance_propagation.errors import UserError


def described(name: str, num_examples: int, *, size: int, channels: int) -> Dataset:
    """Returns a data set whose images have a shape, but cannot be read.

    They are kept on the devices or streamed as those of a TFDS set would be.

    Args:
      name: of the data set.
      num_examples: N, at least 1.
      size: height and width of the images, in pixels.
      channels: C.

    Raises:
      UserError: N is below 1, or too large for int32 ids.
    """
    if num_examples < 1:
        raise UserError(
            f"--config.data.num_examples={num_examples}: set it to the number of training "
            "images, or to 0 to read the data set"
        )
    if num_examples >= 2**31:  # ids are int32
        raise UserError(
            f"--config.data.num_examples={num_examples}: set it to at most {2**31 - 1}"
        )
    shape = (num_examples, size, size, channels)
    images = np.broadcast_to(np.uint8(0), shape)  # one byte of memory
    if size > WHOLE_UP_TO or images.nbytes > RESIDENT_BYTES:
        images = Pictures(range(num_examples), _unread, size=size, where=name)
    return Dataset(name, Split(images, None), None)


def _unread(index: int) -> bytes:
    raise AssertionError(f"image {index} is of a data set that is not here")
