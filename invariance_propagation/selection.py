"""Exact selection from similarities whose columns are spread over devices.

Nothing here sorts a row: the background needs only the value of its M-th
member, which is found by counting, and neighbours are a top-k of k = 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel


class Threshold(NamedTuple):
    """Where the background ends, per row.

    Attributes:
      value: float32 [B]; entries above it belong to the background.
      tie_weight: float32 [B] in [0, 1]: how much each entry equal to it counts,
        (M - above) / tied, so that the result depends neither on order nor on D.
    """

    value: jax.Array
    tie_weight: jax.Array

    def weights(self, similarities: jax.Array) -> jax.Array:
        """How much each of [B, n] similarities counts, float32 [B, n].

        A NaN counts fully, so that it shows in the loss.
        """
        value, tie_weight = self.value[:, None], self.tie_weight[:, None]
        not_below = jnp.where(similarities == value, tie_weight, 1.0)
        return jnp.where(similarities < value, 0.0, not_below)


def background_threshold(
    others: jax.Array, anchor: jax.Array, size: int, axis_name: str | None
) -> Threshold:
    """The `size` largest entries of each row, the anchor's own included.

    Args:
      others: float32 [B, n], this device's columns; -inf where there is none.
      anchor: float32 [B], one more entry of each row, the same on all devices.
      size: M, from 1 to the number of entries of a row.
      axis_name: the device axis, or None.

    Returns:
      The threshold, the same on every device.

    Bisects the ordered bit patterns of float32, so that it always ends on the
    exact M-th value; a row that has been cut between two values stops earlier.
    """

    def count_above(value: jax.Array) -> jax.Array:
        local = jnp.sum(others > value[:, None], axis=1, dtype=jnp.int32)
        return parallel.psum(local, axis_name) + (anchor > value)

    class Bracket(NamedTuple):
        low: jax.Array  # keys; at least `size` entries lie above low,
        high: jax.Array  # at most `size` above high
        above_low: jax.Array
        above_high: jax.Array

    def undecided(bracket: Bracket) -> jax.Array:
        cut = (bracket.above_low == size) | (bracket.above_high == size)
        # Compared as unsigned: the distance of two keys may exceed an int32.
        gap = lax.bitcast_convert_type(bracket.high - bracket.low, jnp.uint32)
        # The key of a NaN may lie below that of -inf: such a row must end too.
        return ~cut & (bracket.low < bracket.high) & (gap > 1)

    def halve(bracket: Bracket) -> Bracket:
        low, high, above_low, above_high = bracket
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        above = count_above(_value(middle))
        active = undecided(bracket)
        up = active & (above >= size)
        down = active & (above < size)
        return Bracket(
            jnp.where(up, middle, low),
            jnp.where(down, middle, high),
            jnp.where(up, above, above_low),
            jnp.where(down, above, above_high),
        )

    largest = jnp.maximum(parallel.pmax(jnp.max(others, axis=1), axis_name), anchor)
    nothing = jnp.full_like(largest, -jnp.inf)
    bracket = lax.while_loop(
        lambda bracket: jnp.any(undecided(bracket)),
        halve,
        Bracket(
            _key(nothing),
            _key(largest),
            count_above(nothing),
            jnp.zeros_like(largest, dtype=jnp.int32),
        ),
    )
    cut_at_low = bracket.above_low == size
    value = _value(jnp.where(cut_at_low, bracket.low, bracket.high))
    tied = jnp.maximum(bracket.above_low - bracket.above_high, 1)
    share = (size - bracket.above_high).astype(jnp.float32) / tied
    return Threshold(value, jnp.where(cut_at_low, 0.0, share))


def nearest(
    others: jax.Array, count: int, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
    """The `count` most similar columns of our own rows, over all devices.

    Args:
      others: float32 [B, n], this device's columns; -inf where there is none.
      count: k.
      axis_name: the device axis, or None.

    Returns:
      values float32 [b, k], descending, and their global columns int32 [b, k];
      among equal values the lower column comes first.
    """
    values, columns = lax.top_k(others, min(count, others.shape[1]))
    columns = columns + parallel.first_row(others.shape[1], axis_name)
    if axis_name is None:
        return values, columns
    values = parallel.own_parts(values, axis_name)
    columns = parallel.own_parts(columns, axis_name)
    # Devices come in the order of their columns, so ties still favour the lower.
    values, place = lax.top_k(values, count)
    return values, jnp.take_along_axis(columns, place, axis=1)


def _key(value: jax.Array) -> jax.Array:
    """float32 -> int32 in the same order."""
    bits = lax.bitcast_convert_type(value, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(key: jax.Array) -> jax.Array:
    """The inverse of `_key`, which is its own inverse on the bits."""
    return lax.bitcast_convert_type(key ^ ((key >> 31) & 0x7FFFFFFF), jnp.float32)
