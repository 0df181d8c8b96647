"""The memory bank: one embedding per training image, rows sharded over devices.

On D devices each holds Np / D rows; row r of shard s is image s * Np / D + r.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.arguments import (
    check_ids,
    check_vectors,
    integer,
    real,
)


def init_bank(key: jax.Array, num_examples: int, dim: int) -> jax.Array:
    """Draws random rows of expected squared norm 1, as the authors' code does.

    Returns:
      float32 [N, d], uniform in (-a, a) with a = 1 / sqrt(d / 3), not normalised.

    Raises:
      ValueError: N or d is below 1.
    """
    num_examples, dim = integer("num_examples", num_examples), integer("dim", dim)
    bound = (3 / dim) ** 0.5
    return jax.random.uniform(
        key, (num_examples, dim), jnp.float32, minval=-bound, maxval=bound
    )


def normalize(x: jax.Array) -> jax.Array:
    """Scales the rows of float [..., d] to unit length; a zero row stays zero.

    Rows of any finite length work, even if the square of an entry would overflow or
    vanish. A row with NaN or infinity becomes NaN. The gradient is finite everywhere,
    although the gradient of a norm at 0 is NaN.
    """
    # The result does not depend on the scale, so no gradient needs to flow through it.
    x = x * lax.stop_gradient(safe_scale(x))
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squared, 1e-24))


def safe_scale(x: jax.Array) -> jax.Array:
    """Returns a factor per row that keeps the squares of its entries in range.

    The factor is a power of two, float [..., 1], that brings the largest entry of a row
    of float [..., d] near 1. Multiplying by a power of two does not round, so ordinary
    rows keep every bit. It is 1 for rows of zeros and rows with NaN or infinity.
    """
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 0))
    most = jnp.finfo(x.dtype).maxexp - 2  # so that neither end is subnormal
    return jnp.ldexp(jnp.ones_like(largest), -jnp.clip(exponent, -most, most))


def update_bank(
    bank: jax.Array,
    indices: jax.Array,
    embeddings: jax.Array,
    *,
    momentum: float = 0.5,
    axis_name: str | None = None,
) -> jax.Array:
    """Moves the anchors' rows towards their embeddings and normalises them (8).

    Args:
      bank: float32 [N, d], or this device's rows [Np / D, d].
      indices: int [b], this device's anchors; all ids differ over all devices.
      embeddings: float [b, d], normalised here.
      momentum: m in [0, 1], the weight of the old row.
      axis_name: the device axis, or None for one device.

    Returns:
      The bank, float32 of the same shape, with bank[i] = normalize(m * bank[i] +
      (1 - m) * v_i) for each anchor i. Other rows are unchanged.

    Raises:
      ValueError: momentum is outside [0, 1]; an id is not in [0, N) or occurs twice
        (checked only outside of `jit`, where ids are known); a dtype or shape is wrong.
    """
    momentum = real("momentum", momentum)
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum}: set it from 0 to 1")
    check_vectors("bank", bank, like=(None, None))
    below = len(bank) if axis_name is None else None
    check_ids("indices", indices, ndim=1, below=below, unique=True)
    check_vectors("embeddings", embeddings, like=(len(indices), np.shape(bank)[1]))
    bank = jnp.asarray(bank, jnp.float32)
    embeddings = normalize(jnp.asarray(embeddings, jnp.float32))
    embeddings = parallel.all_gather(embeddings, axis_name)
    indices = parallel.all_gather(jnp.asarray(indices), axis_name)
    rows = parallel.local_rows(indices, bank.shape[0], axis_name)
    old = bank.at[rows].get(mode="fill", fill_value=0.0)
    new = normalize(momentum * old + (1 - momentum) * embeddings)
    return bank.at[rows].set(new, mode="drop")
