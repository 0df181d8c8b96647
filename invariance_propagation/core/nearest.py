"""Finds the most similar columns when the columns lie on several devices.

One pass takes the largest entry of each block of columns. The k nearest lie in the k
best blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel

BLOCK = 128  # columns


class Nearest(NamedTuple):
    """Holds the most similar columns of B anchors, in descending order.

    Attributes:
      values: float32 [B, c].
      columns: int32 [B, c], global numbers; the lower one first among equal values.
    """

    values: jax.Array
    columns: jax.Array


def block_maxima(rest: jax.Array, block: int) -> jax.Array:
    """Takes the largest of each block of columns: [B, n] -> [B, ceil(n / block)]."""
    window, padding = (1, block), ((0, 0), (0, -rest.shape[1] % block))
    return lax.reduce_window(rest, -jnp.inf, lax.max, window, window, padding)


def nearest(
    rest: jax.Array,
    maxima: jax.Array,
    few: Nearest,
    count: int,
    axis_name: str | None,
) -> Nearest:
    """Finds the `count` most similar of this device's columns, or all if there are fewer.

    Args:
      rest: float32 [B, n]; -inf for columns listed in `few`.
      maxima: float32 [B, ceil(n / BLOCK)], the largest entry of each block of `rest`.
      few: columns looked up beforehand, in any order; -inf on other devices.
      count: k.
      axis_name: the device axis, or None for one device.
    """
    # One of the k best columns lies in one of the k best blocks; of equal blocks, top_k
    # prefers the lower.
    _, blocks = lax.top_k(maxima, min(count, maxima.shape[1]))
    columns = blocks[:, :, None] * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    columns = columns.reshape(len(rest), -1)
    row = jnp.arange(len(rest), dtype=jnp.int32)[:, None]
    values = rest.at[row, columns].get(mode="fill", fill_value=-jnp.inf)
    columns = columns + parallel.first_row(rest.shape[1], axis_name)
    values = jnp.concatenate([values, few.values], axis=1)
    columns = jnp.concatenate([columns, few.columns], axis=1)
    return _best(Nearest(values, columns), count)


def nearest_of_all(here: Nearest, count: int, axis_name: str | None) -> jax.Array:
    """Combines the nearest columns of all devices, for this device's anchors.

    Args:
      here: this device's nearest columns for all B anchors.
      count: k.
      axis_name: the device axis, or None for one device.

    Returns:
      int32 [b, k], most similar first; among equal values the lower column first.
    """
    if axis_name is None:
        return here.columns
    everywhere = Nearest(*(parallel.all_to_all(x, axis_name) for x in here))
    return _best(everywhere, count).columns


def _best(candidates: Nearest, count: int) -> Nearest:
    # A few passes over a short row. On a CPU, sorting by two keys took as long as the
    # whole product with the bank.
    values, columns = candidates
    beyond = jnp.iinfo(columns.dtype).max
    picked = []
    for _ in range(min(count, values.shape[1])):
        value = jnp.max(values, axis=1, keepdims=True)
        tied = jnp.where(values == value, columns, beyond)
        column = jnp.min(tied, axis=1, keepdims=True)
        picked.append((value, column))
        values = jnp.where(columns == column, -jnp.inf, values)
    return Nearest(*(jnp.concatenate(x, axis=1) for x in zip(*picked, strict=True)))
