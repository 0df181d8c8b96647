"""The memory bank: one embedding per training image, rows sharded over devices.

On D devices each holds Np / D rows; row r of shard s is image s * Np / D + r.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.selection import (
    Threshold,
    background_threshold,
    nearest,
)


class Reading(NamedTuple):
    """What one look at the bank tells about B anchors.

    Attributes:
      anchor: float32 [B], similarity of the anchor to its own row. Like `slots`
        it is 0 on the devices that do not hold the row.
      slots: float32 [B, slots], similarity to each slot.
      log_rest: float32 [B], log of the sum of e(similarity / temperature) over
        the background on this device, without the rows that were left out.
      threshold: of the background, the same on every device.
      neighbors: int32 [b, k], our own anchors' nearest rows over all devices.
    """

    anchor: jax.Array
    slots: jax.Array
    log_rest: jax.Array
    threshold: Threshold
    neighbors: jax.Array


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
    rows = _local_rows(indices, bank.shape[0], axis_name)
    old = bank.at[rows].get(mode="fill", fill_value=0.0)
    new = normalize(momentum * old + (1 - momentum) * embeddings)
    return bank.at[rows].set(new, mode="drop")


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7, 8, 9))
def read_bank(
    anchors: jax.Array,
    bank: jax.Array,
    indices: jax.Array,
    slots: jax.Array,
    leave_out_slots: bool,
    num_examples: int,
    num_neighbors: int,
    background_size: int,
    temperature: float,
    axis_name: str | None,
) -> Reading:
    """Compares B anchors with this device's rows of the bank, once.

    Args:
      anchors: float32 [B, d], unit rows, the same on every device. The gradient
        flows to them alone, from `anchor`, `slots` and `log_rest`.
      bank: float32 [Np / D, d].
      indices: int [B], the anchors' ids.
      slots: int32 [B, slots], ids to look up.
      leave_out_slots: leave the slots out of `log_rest`; the anchor always is.
      num_examples: N; rows of the padding take part in nothing.
      num_neighbors: k.
      background_size: M.
      temperature: tau.
      axis_name: the device axis, or None.

    Holds one array of size [B, Np / D], the similarities, and in the backward
    pass its gradient, which takes its place; there is one product with the bank
    in each direction.
    """
    reading, _ = _read_forward(
        anchors,
        bank,
        indices,
        slots,
        leave_out_slots,
        num_examples,
        num_neighbors,
        background_size,
        temperature,
        axis_name,
    )
    return reading


def _read_forward(
    anchors,
    bank,
    indices,
    slots,
    leave_out_slots,
    num_examples,
    num_neighbors,
    background_size,
    temperature,
    axis_name,
):
    similarities = jnp.matmul(anchors, bank.T, precision=lax.Precision.HIGHEST)
    rows = bank.shape[0]
    if axis_name is not None and num_examples % lax.axis_size(axis_name):
        column = jnp.arange(rows) + parallel.first_row(rows, axis_name)
        similarities = jnp.where(column < num_examples, similarities, -jnp.inf)

    column = _local_rows(indices, rows, axis_name)[:, None]
    slot_columns = _local_rows(slots, rows, axis_name)
    at_anchor = _at(similarities, column)[:, 0]
    at_slots = _at(similarities, slot_columns)

    others = _leave_out(similarities, column)
    _, neighbors = nearest(others, num_neighbors, axis_name)
    threshold = background_threshold(
        others, parallel.psum(at_anchor, axis_name), background_size, axis_name
    )
    rest = _leave_out(others, slot_columns) if leave_out_slots else others
    log_rest = log_sum(rest / temperature, threshold.weights(rest))
    reading = Reading(at_anchor, at_slots, log_rest, threshold, neighbors)
    return reading, (bank, rest, threshold, log_rest, column, slot_columns)


def _read_backward(
    leave_out_slots,
    num_examples,
    num_neighbors,
    background_size,
    temperature,
    axis_name,
    saved,
    grad,
):
    del leave_out_slots, num_examples, num_neighbors, background_size, axis_name
    bank, rest, threshold, log_rest, column, slot_columns = saved
    # An empty rest has no gradient; 0 in the place of -inf keeps NaN out.
    log_rest = jnp.where(jnp.isfinite(log_rest), log_rest, 0.0)[:, None]
    share = threshold.weights(rest) * jnp.exp(rest / temperature - log_rest)
    weights = grad.log_rest[:, None] / temperature * share
    row = jnp.arange(weights.shape[0])[:, None]
    weights = weights.at[row, column].add(grad.anchor[:, None], mode="drop")
    weights = weights.at[row, slot_columns].add(grad.slots, mode="drop")
    product = jnp.matmul(weights, bank, precision=lax.Precision.HIGHEST)
    return product, None, None, None


read_bank.defvjp(_read_forward, _read_backward)


def log_sum(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """log(sum(weights * exp(logits))) along the last axis; -inf where empty.

    Args:
      logits: float32 [..., n]; -inf counts as absent.
      weights: float32 [..., n], not negative.

    Returns:
      float32 [...], with a gradient of zero, not NaN, where nothing is summed.
    """
    present = (weights > 0) & (logits != -jnp.inf)  # a NaN is present, and shows
    largest = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf, where=present)
    largest = lax.stop_gradient(jnp.where(largest == -jnp.inf, 0.0, largest))
    terms = jnp.exp(jnp.where(present, logits - largest, 0.0))
    total = jnp.sum(jnp.where(present, weights * terms, 0.0), axis=-1)
    empty = total <= 0
    return jnp.where(
        empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + largest[..., 0]
    )


def _local_rows(ids: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    """Global ids -> rows of this shard; `rows`, one past the end, if not ours."""
    local = ids - parallel.first_row(rows, axis_name)
    return jnp.where((local >= 0) & (local < rows), local, rows)


def _at(similarities: jax.Array, columns: jax.Array) -> jax.Array:
    row = jnp.arange(columns.shape[0])[:, None]
    return similarities.at[row, columns].get(mode="fill", fill_value=0.0)


def _leave_out(similarities: jax.Array, columns: jax.Array) -> jax.Array:
    row = jnp.arange(columns.shape[0])[:, None]
    return similarities.at[row, columns].set(-jnp.inf, mode="drop")
