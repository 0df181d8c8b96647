"""Exact selection from similarities whose columns are spread over devices.

Nothing here sorts a row of the bank. One pass takes the largest of each block of
columns: the nearest columns lie in the few best blocks, and the blocks' order tells
where the background ends to within a fraction of a percent. A few passes that count
what lies above a value do the rest.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel

# More columns per block leave less to look at, but say less about the background.
MAX_BLOCK = 64
# How far from its expected rank among the blocks the background's end is looked
# for, in standard deviations; too small costs passes, never exactness.
SPREAD = 4.0
SAMPLE = 4096  # maxima to guess from
GUESS_ROUNDS, GUESS_ARITY = 4, 8
STRAYS = (
    -4.0,
    -1.6,
    -0.6,
    0.0,
    0.6,
    1.6,
    4.0,
)  # where to count next, around the interpolated place


class Entries(NamedTuple):
    """This device's similarities of B anchors, as two arrays.

    Attributes:
      rest: float32 [B, n], to the columns of the bank; -inf where there is nothing,
        and where an entry is listed in `few`.
      maxima: float32 [B, blocks], the largest of each block of `rest`.
      few: float32 [B, m], entries looked up beforehand; -inf where not ours.
    """

    rest: jax.Array
    maxima: jax.Array
    few: jax.Array


class Nearest(NamedTuple):
    """The most similar columns of B anchors, in descending order.

    Attributes:
      values: float32 [B, c].
      columns: int32 [B, c], global; the lower one first among equal values.
    """

    values: jax.Array
    columns: jax.Array


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


class Bracket(NamedTuple):
    """What is known per row: at least M entries lie above low, fewer above high.

    The ends are kept as integers in the order of the floats: floats next to zero
    are zero to a processor that flushes them, and the bracket would not get smaller.
    """

    low: jax.Array  # int32 [B], keys
    high: jax.Array
    above_low: jax.Array  # int32 [B], how many
    above_high: jax.Array


def block_size(columns: int, size: int) -> int:
    """Columns per block, so that most blocks hold at most one of the M largest."""
    wanted = max(1, min(MAX_BLOCK, columns // size))
    return 1 << (wanted.bit_length() - 1)


def block_maxima(rest: jax.Array, block: int) -> jax.Array:
    """float32 [B, n] -> [B, ceil(n / block)]: the largest of each block."""
    rows, columns = rest.shape
    whole = columns // block * block
    maxima = jnp.max(rest[:, :whole].reshape(rows, -1, block), axis=2)
    if whole == columns:
        return maxima
    last = jnp.max(rest[:, whole:], axis=1, keepdims=True)
    return jnp.concatenate([maxima, last], axis=1)


def background_threshold(
    entries: Entries, size: int, axis_name: str | None
) -> Threshold:
    """Where the `size` largest entries of each row end, over all devices.

    Args:
      entries: this device's.
      size: M, from 1 to the number of entries of a row.
      axis_name: the device axis, or None.

    Returns:
      The threshold, the same on every device.

    Narrows a bracket until nothing but the M-th value, or the gap below it, is left
    in it. Interpolation makes that a handful of passes; halving the ordered bit
    patterns as well bounds them at 32, whatever the distribution.
    """

    def count_above(values: jax.Array) -> jax.Array:  # [B, c] -> int32 [B, c]
        local = _count_above(entries.rest, values) + _count_above(entries.few, values)
        return parallel.psum(local, axis_name)

    def narrow(bracket: Bracket, values: jax.Array) -> Bracket:
        return _narrow(bracket, values, count_above(values), size)

    largest = jnp.maximum(jnp.max(entries.maxima, axis=1), jnp.max(entries.few, axis=1))
    largest = parallel.pmax(largest, axis_name)
    nothing = jnp.full_like(largest, -jnp.inf)
    columns = entries.rest.shape[1]
    guess = _guess(entries.maxima, columns, size, largest, axis_name)
    everything = jnp.full(largest.shape, jnp.iinfo(jnp.int32).max)
    bracket = Bracket(
        _key(nothing), _key(largest), everything, jnp.zeros_like(everything)
    )
    bracket = lax.while_loop(
        lambda bracket: jnp.any(_undecided(bracket, size)),
        lambda bracket: narrow(bracket, _proposals(bracket, size)),
        narrow(bracket, jnp.concatenate([nothing[:, None], guess], axis=1)),
    )
    cut_at_low = bracket.above_low == size
    value = _value(jnp.where(cut_at_low, bracket.low, bracket.high))
    tied = jnp.maximum(bracket.above_low - bracket.above_high, 1)
    share = (size - bracket.above_high).astype(jnp.float32) / tied
    return Threshold(value, jnp.where(cut_at_low, 0.0, share))


def nearest(
    entries: Entries,
    few_columns: jax.Array,
    block: int,
    count: int,
    axis_name: str | None,
) -> Nearest:
    """The `count` most similar of this device's columns, or all if there are fewer.

    Args:
      entries: this device's; every column at most once.
      few_columns: int32 [B, m], the global columns of `entries.few`.
      block: columns per block of `entries.maxima`.
      count: k.
      axis_name: the device axis, or None.
    """
    rest, maxima, few = entries
    # A column that is among the k best lies in one of the k best blocks.
    _, blocks = lax.top_k(maxima, min(count, maxima.shape[1]))
    columns = jnp.sort(blocks, axis=1)[:, :, None] * block + jnp.arange(block)
    columns = columns.reshape(len(rest), -1)
    row = jnp.arange(len(rest))[:, None]
    values = rest.at[row, columns].get(mode="fill", fill_value=-jnp.inf)
    # top_k prefers the lower of equals, and the columns ascend.
    values, place = lax.top_k(values, min(count, values.shape[1]))
    columns = jnp.take_along_axis(columns, place, axis=1)
    columns = columns + parallel.first_row(rest.shape[1], axis_name)

    values = jnp.concatenate([values, few], axis=1)
    columns = jnp.concatenate([columns, few_columns], axis=1)
    return _best(Nearest(values, columns), count)


def nearest_of_all(found: Nearest, count: int, axis_name: str | None) -> jax.Array:
    """Every device's nearest for all B anchors -> int32 [b, k], those of our own.

    Most similar first; among equal values the lower column comes first.
    """
    if axis_name is None:
        return found.columns
    parts = Nearest(*(parallel.own_parts(x, axis_name) for x in found))
    return _best(parts, count).columns


def _best(found: Nearest, count: int) -> Nearest:
    # A few passes over a short row; a sort by two keys took as long on a CPU as the
    # product with the bank.
    values, columns = found
    beyond = jnp.iinfo(columns.dtype).max
    picked = []
    for _ in range(min(count, values.shape[1])):
        value = jnp.max(values, axis=1, keepdims=True)
        tied = jnp.where(values == value, columns, beyond)
        column = jnp.min(tied, axis=1, keepdims=True)
        picked.append((value, column))
        values = jnp.where(columns == column, -jnp.inf, values)
    return Nearest(*(jnp.concatenate(x, axis=1) for x in zip(*picked, strict=True)))


def _count_above(entries: jax.Array, values: jax.Array) -> jax.Array:
    """int32 [B, c]: how many of each row of [B, n] are above values [B, c].

    One reduction of c operands reads `entries` once and writes nothing else. c sums
    do not: on a CPU XLA hands each to a library, with a [B, n] array made for it,
    and 4 counts took 60 times as long.
    """
    above = [
        (entries > values[:, i : i + 1]).astype(jnp.int32)
        for i in range(values.shape[1])
    ]
    zeros = [np.int32(0)] * len(above)
    counts = lax.reduce(above, zeros, lambda x, y: [*map(jnp.add, x, y)], (1,))
    return jnp.stack(counts, axis=1)


def _guess(
    maxima: jax.Array,
    columns: int,
    size: int,
    largest: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """Values [B, 2] between which the `size`-th entry probably lies.

    Were the columns in random order, as many blocks would hold one of the `size`
    largest as binomial chance gives; a sample of the maxima says which value that is.
    """
    devices = 1 if axis_name is None else lax.axis_size(axis_name)
    sample = maxima[:, :: max(1, maxima.shape[1] * devices // SAMPLE)]
    # All of the columns have no logarithm.
    member = min(size / (columns * devices), 1 - 1e-6)
    share = -math.expm1(columns / maxima.shape[1] * math.log1p(-member))
    rank = sample.shape[1] * devices * share
    ranks = jnp.array([rank + SPREAD * rank**0.5, rank - SPREAD * rank**0.5])

    lowest = jnp.min(jnp.where(sample == -jnp.inf, jnp.inf, sample), axis=1)
    low = -parallel.pmax(-lowest, axis_name)[:, None]
    low, high = jnp.repeat(low, 2, axis=1), jnp.repeat(largest[:, None], 2, axis=1)
    for _ in range(GUESS_ROUNDS):
        step = (high - low) / GUESS_ARITY
        values = low[:, :, None] + step[:, :, None] * jnp.arange(1, GUESS_ARITY)
        above = _count_above(sample, values.reshape(len(values), -1))
        above = parallel.psum(above, axis_name).reshape(values.shape)
        place = jnp.sum(above >= ranks[:, None], axis=2)
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
    # The key of a NaN may lie below that of -inf: such a row must end too.
    return (bracket.above_low != size) & (bracket.low < bracket.high) & (gap > 1)


def _proposals(bracket: Bracket, size: int) -> jax.Array:
    """Values [B, c] to count at next: around the linear interpolation, and halfway."""
    low, high = bracket.low[:, None], bracket.high[:, None]
    halfway = (low >> 1) + (high >> 1) + (low & high & 1)

    inside = (bracket.above_low - bracket.above_high).astype(jnp.float32)[:, None]
    part = (bracket.above_low - size)[:, None] / inside
    # Of `inside` entries spread evenly, this is how far counts stray.
    stray = jnp.sqrt((part * (1 - part) + 0.25 / inside) / inside)
    span = _value(high) - _value(low)
    values = _value(low) + span * (part + stray * jnp.array(STRAYS))
    # Inside the bracket, or it would not get smaller; an infinite end gives a NaN.
    keys = jnp.where(jnp.isfinite(values), _key(values), halfway)
    keys = jnp.clip(keys, low + 1, high - 1)
    return _value(jnp.concatenate([keys, halfway], axis=1))


def _key(value: jax.Array) -> jax.Array:
    """float32 -> int32 in the same order."""
    bits = lax.bitcast_convert_type(value, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _value(key: jax.Array) -> jax.Array:
    """The inverse of `_key`, which is its own inverse on the bits."""
    return lax.bitcast_convert_type(key ^ ((key >> 31) & 0x7FFFFFFF), jnp.float32)
