"""Finds where the background ends: the M-th largest similarity over all devices.

Nothing here sorts a row of similarities. A small sample shows roughly where the M-th largest
value lies. A few passes, each of which counts the entries above eight values at once,
then find it exactly.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel

# Expected place of the background's end in a sample of the columns. Evenly spread columns
# are a fair sample also where similar images lie side by side, as in a sorted folder.
RANK = 64
# How far from that place we look for it, in standard deviations. A value that is too small
# costs passes, but not exactness.
SPREAD = 4.0
GUESS_ROUNDS, GUESS_ARITY = 3, 16
# Where to count next, in standard deviations around the interpolated place.
STRAYS = (-4.0, -1.6, -0.6, 0.0, 0.6, 1.6, 4.0)
# With few entries left in a bracket, a standard deviation is as wide as the bracket. The
# values are then spread over it.
MOST_STRAY, EDGE = 0.14, 0.02
# How many parts of the rows a pass down the columns adds up side by side.
PARTS = 8


class Threshold(NamedTuple):
    """Says where the background ends, per row.

    Attributes:
      value: float32 [B]; entries above it belong to the background.
      tie_weight: float32 [B] in [0, 1], how much each entry equal to `value` counts:
        (M - above) / tied, so that the result depends neither on order nor on D.
    """

    value: jax.Array
    tie_weight: jax.Array

    def weights(self, similarities: jax.Array, axis: int = 1) -> jax.Array:
        """Returns how much each similarity counts, float32 of the same shape.

        A NaN counts fully, so that it shows in the loss.

        Args:
          similarities: float32 [B, n], or [n, B] with `axis` 0.
          axis: along which those of one row lie.
        """
        value = jnp.expand_dims(self.value, axis)
        tie_weight = jnp.expand_dims(self.tie_weight, axis)
        not_below = jnp.where(similarities == value, tie_weight, 1.0)
        return jnp.where(similarities < value, 0.0, not_below)


class Bracket(NamedTuple):
    """Encloses the end of the background, per row.

    At least M entries lie above `low`, fewer than M above `high`. Both ends are integers
    that sort like the floats. With floats the bracket might never shrink near zero,
    because processors that flush subnormal numbers treat them as zero.
    """

    low: jax.Array  # int32 [B], keys
    high: jax.Array
    above_low: jax.Array  # int32 [B], number of entries above it
    above_high: jax.Array


class Pass(NamedTuple):
    """Holds what one pass hands to the next.

    `values` is carried along because XLA may recompute it in another kernel and round
    differently; the bracket would then record other values than were counted.
    """

    bracket: Bracket
    values: jax.Array  # float32 [B, c], where to count next
    begun: jax.Array  # bool [], whether there was a pass


def background_threshold(
    rest: jax.Array,
    few: jax.Array,
    maxima: jax.Array,
    size: int,
    axis_name: str | None,
    axis: int,
) -> Threshold:
    """Finds where the `size` largest entries of each row end, over all devices.

    Narrows a bracket until it holds only the M-th value, or the gap below it.
    Interpolation needs a handful of passes. Halving the bracket in the order of the bit
    patterns as well limits them to 32, whatever the distribution.

    Args:
      rest: float32 [B, n], this device's similarities to rows of the bank; -inf for
        padding and for entries listed in `few`.
      few: float32 [B, m], entries looked up beforehand; -inf on other devices.
      maxima: float32 [B, blocks], the largest entry of each block of columns of `rest`.
      size: M, from 1 to the number of entries of a row.
      axis_name: the device axis, or None for one device.
      axis: along which a pass adds up: 1, along the rows of `rest`, or 0, down the columns
        of its transpose.

    Returns:
      The threshold, the same on every device.
    """

    # Turned once: inside of the loop, XLA would keep a copy of all similarities.
    count = partial(_count_above, rest) if axis == 1 else partial(_count_down, rest.T)

    def count_above(values: jax.Array) -> jax.Array:  # [B, c] -> int32 [B, c]
        return parallel.psum(count(values) + _count_above(few, values), axis_name)

    def narrow(last: Pass) -> Pass:
        bracket = _narrow(last.bracket, last.values, count_above(last.values), size)
        return Pass(bracket, _proposals(bracket, size), jnp.bool_(True))

    stride = max(1, size // RANK)
    sample = rest[:, ::stride]
    largest = jnp.maximum(jnp.max(maxima, axis=1), jnp.max(few, axis=1))
    lowest = jnp.min(jnp.where(sample == -jnp.inf, jnp.inf, sample), axis=1)
    largest, lowest = parallel.pmax(jnp.stack([largest, -lowest]), axis_name)
    lowest = jnp.minimum(-lowest, largest)  # finite also where the sample is empty
    guess = _guess(sample, size / stride, lowest, largest, axis_name)
    values = jnp.linspace(guess[:, 0], guess[:, 1], len(STRAYS), axis=1)
    nothing = jnp.full_like(largest, -jnp.inf)
    everything = jnp.full(largest.shape, jnp.iinfo(jnp.int32).max, jnp.int32)
    bracket = Bracket(
        _key(nothing), _key(largest), everything, jnp.zeros_like(everything)
    )
    values = jnp.concatenate([nothing[:, None], values], axis=1)
    bracket, *_ = lax.while_loop(
        lambda last: ~last.begun | jnp.any(_undecided(last.bracket, size)),
        narrow,
        Pass(bracket, values, jnp.bool_(False)),
    )
    cut_at_low = bracket.above_low == size
    value = _value(jnp.where(cut_at_low, bracket.low, bracket.high))
    tied = jnp.maximum(bracket.above_low - bracket.above_high, 1)
    share = (size - bracket.above_high).astype(jnp.float32) / tied
    return Threshold(value, jnp.where(cut_at_low, 0.0, share))


def _count_above(entries: jax.Array, values: jax.Array) -> jax.Array:
    """Counts the entries of each row [B, n] above values [B, c], int32 [B, c].

    A single reduction with c operands reads `entries` once and writes nothing else. With
    c separate sums, XLA on a CPU makes a [B, n] array for each and calls a library, which
    took 60 times as long for 4 counts.
    """
    above = [entries > values[:, i, None] for i in range(values.shape[1])]
    return _add_up([x.astype(jnp.int32) for x in above], axis=1)


def _count_down(entries: jax.Array, values: jax.Array) -> jax.Array:
    """Counts the entries of each column [n, B] above values [B, c], int32 [B, c]."""
    columns, pieces = range(values.shape[1]), parts(entries)
    above = [[x > values[:, i] for x in pieces] for i in columns]
    return _add_up([sum(x.astype(jnp.int32) for x in each) for each in above], axis=0)


def _add_up(counts: list[jax.Array], axis: int) -> jax.Array:
    zeros = [np.int32(0)] * len(counts)
    sums = lax.reduce(counts, zeros, lambda x, y: [*map(jnp.add, x, y)], (axis,))
    return jnp.stack(sums, axis=1)


def parts(entries: jax.Array) -> list[jax.Array]:
    """Cuts [n, B] into `PARTS` equal ones, of whole registers; one if it cannot be cut.

    A TPU reads a register of each in one turn of its loop. That hides how long an
    addition takes: a pass is 1.7 times as fast.
    """
    count = 1 if len(entries) % (8 * PARTS) else PARTS
    return list(entries.reshape(count, -1, entries.shape[1]))


def _guess(
    sample: jax.Array,
    rank: float,
    low: jax.Array,
    high: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Guesses values, float32 [B, 2], between which the background ends.

    Args:
      sample: float32 [B, c], this device's sample.
      rank: how many samples of all devices to expect above the end of the background.
      low: float32 [B], the smallest sample of all devices.
      high: float32 [B], at least the largest of them.
      axis_name: the device axis, or None for one device.
    """
    ranks = [rank + SPREAD * rank**0.5, rank - SPREAD * rank**0.5]
    ranks = jnp.array(ranks, jnp.float32)
    fractions = jnp.arange(1, GUESS_ARITY, dtype=jnp.float32)
    low, high = (
        jnp.repeat(low[:, None], 2, axis=1),
        jnp.repeat(high[:, None], 2, axis=1),
    )
    for _ in range(GUESS_ROUNDS):
        step = (high - low) / GUESS_ARITY
        values = low[:, :, None] + step[:, :, None] * fractions
        above = _count_above(sample, values.reshape(len(values), -1))
        above = parallel.psum(above, axis_name).reshape(values.shape)
        place = jnp.sum(above >= ranks[:, None], axis=2, dtype=jnp.int32)
        low = low + step * place
        high = low + step
    return jnp.stack([low[:, 0], high[:, 1]], axis=1)


def _narrow(
    bracket: Bracket, values: jax.Array, above: jax.Array, size: int
) -> Bracket:
    enough, keys = above >= size, _key(values)
    limits = jnp.iinfo(jnp.int32)
    largest = partial(jnp.max, axis=1, initial=limits.min)
    smallest = partial(jnp.min, axis=1, initial=limits.max)
    return Bracket(
        jnp.maximum(bracket.low, largest(keys, where=enough)),
        jnp.minimum(bracket.high, smallest(keys, where=~enough)),
        jnp.minimum(bracket.above_low, smallest(above, where=enough)),
        jnp.maximum(bracket.above_high, largest(above, where=~enough)),
    )


def _undecided(bracket: Bracket, size: int) -> jax.Array:
    # Compared as unsigned: the distance of two keys may exceed an int32.
    gap = lax.bitcast_convert_type(bracket.high - bracket.low, jnp.uint32)
    # The key of a NaN may lie below that of -inf; such a row must end as well.
    return (bracket.above_low != size) & (bracket.low < bracket.high) & (gap > 1)


def _proposals(bracket: Bracket, size: int) -> jax.Array:
    """Proposes values [B, c] to count at: around the interpolation, and halfway."""
    low, high = bracket.low[:, None], bracket.high[:, None]
    halfway = (low >> 1) + (high >> 1) + (low & high & 1)

    inside = (bracket.above_low - bracket.above_high).astype(jnp.float32)[:, None]
    part = (bracket.above_low - size)[:, None] / inside
    # If `inside` entries are spread evenly, this is how far counts deviate.
    stray = jnp.sqrt((part * (1 - part) + 0.25 / inside) / inside)
    stray = jnp.minimum(stray, MOST_STRAY) * jnp.array(STRAYS, jnp.float32)
    span = _value(high) - _value(low)
    values = _value(low) + span * jnp.clip(part + stray, EDGE, 1 - EDGE)
    # Stay inside the bracket, or it would not shrink; an infinite end gives a NaN.
    keys = jnp.where(jnp.isfinite(values), _key(values), halfway)
    keys = jnp.clip(keys, low + 1, high - 1)
    return _value(jnp.concatenate([keys, halfway], axis=1))


def _key(value: jax.Array) -> jax.Array:
    """Maps float32 to int32 that sort in the same order."""
    bits = lax.bitcast_convert_type(value, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(key: jax.Array) -> jax.Array:
    """Inverts `_key`: the same operation on the bits."""
    return lax.bitcast_convert_type(key ^ ((key >> 31) & 0x7FFFFFFF), jnp.float32)
