"""Converts pictures between the forms of the oracles and of the package."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources.folder import Files


def pictures_of(folder: Path, ids: Sequence[str], size: int) -> Pictures:
    """Returns the files `ids` of a folder as pictures."""
    return Pictures(ids, Files(folder, ids), size=size, where=str(folder))


def planes(image: np.ndarray) -> jax.Array:
    """Turns [height, width, C] in [0, 1] into planes."""
    return jnp.asarray(np.moveaxis(image, -1, 0), jnp.float32)


def picture(planes: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(planes, np.float64), 0, -1)


def unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) / 255
