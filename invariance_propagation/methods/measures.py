"""What several methods measure of a batch."""

import jax
import jax.numpy as jnp

from invariance_propagation import parallel


def mean_similarity(embeddings: jax.Array, *, axis_name: str | None) -> jax.Array:
    """Measures how alike embeddings are: the mean cosine of all pairs of a batch.

    Args:
      embeddings: float [b, d], this device's rows, all of about one length.
      axis_name: the device axis, or None for one device.

    Returns:
      A scalar: 1 if all rows are the same, about 1 / B for B directions at random (the
      pairs include each row with itself), 0 if all rows are zero.
    """
    center = parallel.pmean(embeddings.mean(axis=0), axis_name)
    square = parallel.pmean(jnp.square(embeddings).sum(axis=1).mean(), axis_name)
    least = jnp.finfo(square.dtype).tiny
    return jnp.square(center).sum() / jnp.maximum(square, least)
