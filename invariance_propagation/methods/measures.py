"""Measurements that several methods and the report share."""

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation import parallel


def mean_similarity(embeddings: jax.Array, *, axis_name: str | None) -> jax.Array:
    """Measures how alike the embeddings of a batch are: the mean cosine of all pairs.

    Args:
      embeddings: float [b, d], this device's rows, all of about the same length.
      axis_name: the device axis, or None for one device.

    Returns:
      A scalar: 1 if all rows are equal, about 1 / B for B random directions (a row is
      paired with itself too), 0 if all rows are zero.
    """
    center = parallel.pmean(embeddings.mean(axis=0), axis_name)
    square = parallel.pmean(jnp.square(embeddings).sum(axis=1).mean(), axis_name)
    least = jnp.finfo(square.dtype).tiny
    return jnp.square(center).sum() / jnp.maximum(square, least)


def most_similar(
    similarities: np.ndarray,
    *,
    among: np.ndarray | None = None,
    count: int | None = None,
) -> np.ndarray:
    """Orders images by similarity, the most similar first; ties keep their order.

    Args:
      similarities: float [N].
      among: int [n], the images to order, in which one may repeat; None for all.
      count: how many to return; None for all.

    Returns:
      int [n], or int [count].
    """
    ids = np.arange(len(similarities)) if among is None else among
    return ids[np.argsort(-similarities[ids], kind="stable")][:count]
