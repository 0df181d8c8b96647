"""The memory bank: one embedding per training image, rows sharded over devices.

On D devices each holds Np / D rows; row r of shard s is image s * Np / D + r.
"""

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel


def init_bank(key: jax.Array, num_examples: int, dim: int) -> jax.Array:
    """Random rows of expected squared norm 1, not normalised, as released.

    Returns:
      float32 [N, d], uniform in (-a, a) with a = 1 / sqrt(d / 3).
    """
    bound = (3 / dim) ** 0.5
    return jax.random.uniform(key, (num_examples, dim), minval=-bound, maxval=bound)


def normalize(x: jax.Array) -> jax.Array:
    """Scales the rows of float [..., d] to unit length; a zero row stays zero.

    The gradient is finite everywhere: that of a norm at 0 would be NaN.
    """
    squared = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squared, 1e-24))


def update_bank(
    bank: jax.Array,
    indices: jax.Array,
    embeddings: jax.Array,
    *,
    momentum: float = 0.5,
    axis_name: str | None = None,
) -> jax.Array:
    """Moves the anchors' rows towards their embeddings and normalises them.

    Args:
      bank: float32 [N, d], or this device's rows [Np / D, d].
      indices: int [b], this device's anchors; no id twice over all devices.
      embeddings: float [b, d], normalised here.
      momentum: m in [0, 1], the weight of the old row.
      axis_name: the device axis, or None.

    Returns:
      The bank with bank[i] = normalize(m * bank[i] + (1 - m) * v_i); all other
      rows are untouched.

    Raises:
      ValueError: momentum outside [0, 1].
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum={momentum}: the bank's momentum is in [0, 1]")
    bank = jnp.asarray(bank, jnp.float32)
    embeddings = normalize(jnp.asarray(embeddings, jnp.float32))
    embeddings = parallel.all_gather(embeddings, axis_name)
    indices = parallel.all_gather(jnp.asarray(indices), axis_name)
    rows = parallel.local_rows(indices, bank.shape[0], axis_name)
    old = bank.at[rows].get(mode="fill", fill_value=0.0)
    new = normalize(momentum * old + (1 - momentum) * embeddings)
    return bank.at[rows].set(new, mode="drop")
