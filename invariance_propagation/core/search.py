"""Compares the anchors with the whole bank in one pass, and defines its gradient."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.nearest import (
    BLOCK,
    Nearest,
    block_maxima,
    nearest,
    nearest_of_all,
)
from invariance_propagation.core.threshold import (
    Threshold,
    background_threshold,
    parts,
)

SELECTIONS = ("exact", "approx")
PRECISIONS = ("highest", "high", "bfloat16")


class Pace(NamedTuple):
    """Holds how a kind of processor goes over the similarities.

    Attributes:
      bytes_at_once: how many bytes of similarities are held at once, if these are from
        `fewest` to `most` anchors.
      fewest, most: anchors compared at once.
      axis: along which a pass adds up. 1 adds along a row, which lies together in memory:
        fastest on a CPU. 0 adds down the columns, with a lane for each anchor, and always
        takes `most` anchors: for a TPU.
    """

    bytes_at_once: int
    fewest: int
    most: int
    axis: int


PACES = {
    # Little enough to stay in the cache between passes, but enough anchors that the bank is
    # not read too often.
    "cpu": Pace(8 * 2**20, 32, 2**31, 1),
    # Enough for the products to run at full speed. With counts down the columns, XLA makes
    # a kernel that needs more shared memory than there is.
    "gpu": Pace(512 * 2**20, 1, 2**31, 1),
    # A TPU has 128 lanes: with more anchors or fewer, XLA changes the layout of all
    # similarities before and after it writes a few of them.
    "tpu": Pace(0, 128, 128, 0),
}


class Search(NamedTuple):
    """Holds the static options of a search.

    Attributes:
      num_examples: N; padding rows never take part.
      num_neighbors: k.
      background_size: M.
      temperature: tau.
      selection: how the background is searched: 'exact', or 'approx', which reads the
        M-th largest similarity from the candidates of `lax.approx_max_k`. These miss some
        of the largest, so the value is slightly lower and a few more than M rows count.
      precision: of the products with the bank: 'highest' is float32, 'high' is three
        bfloat16 passes on TPU and TF32 on GPU, 'bfloat16' is a single pass.
      axis_name: the device axis, or None for one device.
    """

    num_examples: int
    num_neighbors: int
    background_size: int
    temperature: float
    selection: str
    precision: str
    axis_name: str | None


class Reading(NamedTuple):
    """Holds the result of comparing B anchors with this device's rows of the bank.

    Attributes:
      anchor: float32 [B], similarity of the anchor to its row of the bank; 0 on devices
        that do not hold the row.
      slots: float32 [B, slots], similarity to each slot; 0 likewise.
      log_rest: float32 [B], log of the sum of exp(similarity / temperature) over this
        device's part of the background, without the anchor and the slots.
      threshold: where the background ends, the same on every device.
      neighbors: int32 [b, k], nearest rows of all devices, for this device's anchors.
    """

    anchor: jax.Array
    slots: jax.Array
    log_rest: jax.Array
    threshold: Threshold
    neighbors: jax.Array


class Look(NamedTuple):
    """Holds what a chunk of c anchors found in the rows of this device."""

    looked_up: jax.Array  # float32 [c, 1 + slots], the anchor's row first
    log_rest: jax.Array  # float32 [c]
    pull: jax.Array  # float32 [c, d], gradient of log_rest with respect to the anchor
    threshold: Threshold
    nearest: Nearest


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def read_bank(
    anchors: jax.Array,
    bank: jax.Array,
    indices: jax.Array,
    slots: jax.Array,
    distinct: jax.Array,
    search: Search,
) -> Reading:
    """Compares B anchors with this device's rows of the bank in one pass.

    While it runs it holds two float32 arrays [c, n], c = `anchors_at_once(B, n)`: the
    similarities of c anchors, and the terms of the background's sum. Neither is kept for
    the backward pass, which needs only [B, d], and [B, slots, d] from the bank.

    Args:
      anchors: float32 [B, d], unit rows, the same on every device. Only they receive a
        gradient, from `anchor`, `slots` and `log_rest`.
      bank: float32 [n, d], n = Np / D.
      indices: int [B], the anchors' ids.
      slots: int32 [B, slots], ids to look up.
      distinct: bool [B, slots], the first slot of each id other than the anchor's.
      search: static options.
    """
    return _read_forward(anchors, bank, indices, slots, distinct, search)[0]


def _read_forward(anchors, bank, indices, slots, distinct, search):
    ids = jnp.concatenate([indices[:, None], slots], axis=1)
    # Chosen by the target platform, not the host's.
    seen = lax.platform_dependent(
        (anchors, ids, distinct),
        bank,
        cpu=partial(_look_in_chunks, search=search, pace=PACES["cpu"]),
        tpu=partial(_look_in_chunks, search=search, pace=PACES["tpu"]),
        default=partial(_look_in_chunks, search=search, pace=PACES["gpu"]),
    )
    reading = Reading(
        seen.looked_up[:, 0],
        seen.looked_up[:, 1:],
        seen.log_rest,
        seen.threshold,
        nearest_of_all(seen.nearest, search.num_neighbors, search.axis_name),
    )
    return reading, (seen.pull, bank, indices, slots)


def _look_in_chunks(
    batch: tuple, bank: jax.Array, *, search: Search, pace: Pace
) -> Look:
    look = partial(_look, bank=bank, search=search, axis=pace.axis)
    size = len(batch[0])
    rows = anchors_at_once(size, len(bank), pace)
    if rows == size:
        return look(batch)
    # The last chunk is filled up with copies of the last anchor.
    count = -(-size // rows)
    chunks = jax.tree.map(
        lambda x: _pad(x, count * rows).reshape(count, rows, *x.shape[1:]), batch
    )
    seen = lax.map(look, chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], seen)


def anchors_at_once(anchors: int, columns: int, pace: Pace) -> int:
    """Returns how many of some anchors are compared with `columns` rows at once.

    All anchors are divided into the fewest chunks that fit, and those evenly, unless the
    pace needs full ones.
    """
    if pace.axis == 0:
        return pace.most
    most = max(pace.fewest, pace.bytes_at_once // (4 * columns))
    chunks = -(-anchors // min(most, pace.most))
    return -(-anchors // chunks)


def _pad(x: jax.Array, length: int) -> jax.Array:
    """Repeats the last row of x [n, ...] up to [length, ...]."""
    rows = [(0, length - len(x)), *[(0, 0)] * (x.ndim - 1)]
    return jnp.pad(x, rows, mode="edge") if length > len(x) else x


def buffer_bytes(anchors: int, columns: int, platform: str) -> int:
    """Returns the bytes that `read_bank` holds at once: similarities and terms."""
    pace = PACES.get(platform, PACES["gpu"])
    return 2 * 4 * anchors_at_once(anchors, columns, pace) * columns


# Traced once for all calls with the same shapes, which a step may have several of.
@partial(jax.jit, static_argnames=("search", "axis"))
def _look(chunk: tuple, *, bank: jax.Array, search: Search, axis: int) -> Look:
    anchors, ids, distinct = chunk
    axis_name, rows = search.axis_name, len(bank)
    similarities = _product(anchors, bank.T, search.precision)
    if rows * parallel.axis_size(axis_name) > search.num_examples:
        column = jnp.arange(rows, dtype=jnp.int32) + parallel.first_row(rows, axis_name)
        similarities = jnp.where(column < search.num_examples, similarities, -jnp.inf)

    # The anchor and the positives are looked up and then removed from the array. The
    # written values depend on the read ones. Without that dependency XLA copies the
    # whole array before it writes. A NaN stays.
    columns = parallel.local_rows(ids, rows, axis_name)
    row = jnp.arange(len(anchors), dtype=jnp.int32)[:, None]
    looked_up = similarities.at[row, columns].get(mode="fill", fill_value=0.0)
    gone = jnp.where(jnp.isnan(looked_up), looked_up, -jnp.inf)
    rest = similarities.at[row, columns].set(gone, mode="drop")

    maxima = block_maxima(rest, BLOCK)
    local = jnp.where(columns < rows, looked_up, -jnp.inf)
    anchor, few = local[:, :1], jnp.where(distinct, local[:, 1:], -jnp.inf)
    nearest_here = nearest(
        rest,
        maxima,
        Nearest(few, ids[:, 1:]),
        search.num_neighbors,
        axis_name,
    )
    candidates = rest
    if search.selection == "approx":
        candidates, _ = lax.approx_max_k(rest, min(search.background_size, rows))
    threshold = background_threshold(
        candidates,
        jnp.concatenate([anchor, few], axis=1),
        maxima,
        search.background_size,
        axis_name,
        axis,
    )

    largest = jnp.max(maxima, axis=1)
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)

    def terms(similarities: jax.Array, axis: int) -> jax.Array:
        below = similarities - jnp.expand_dims(largest, axis)
        weights = threshold.weights(similarities, axis)
        return jnp.exp(below / search.temperature) * weights

    of_rows = terms(rest, 1)
    if axis == 1:
        total = jnp.sum(of_rows, axis=1)
    else:
        total = jnp.sum(sum(terms(x, 0) for x in parts(rest.T)), axis=0)
    log_rest = jnp.log(total) + largest / search.temperature
    # If the rest is empty, all terms are 0 and so is the pull.
    scale = search.temperature * jnp.where(total == 0, 1.0, total)
    pull = _product(of_rows, bank, search.precision) / scale[:, None]
    return Look(looked_up, log_rest, pull, threshold, nearest_here)


def _product(a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    if precision == "bfloat16":
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    accuracy = lax.Precision.HIGH if precision == "high" else lax.Precision.HIGHEST
    return jnp.matmul(a, b, precision=accuracy, preferred_element_type=jnp.float32)


def _read_backward(search, saved, grad):
    pull, bank, indices, slots = saved

    ids = jnp.concatenate([indices[:, None], slots], axis=1)
    weights = jnp.concatenate([grad.anchor[:, None], grad.slots], axis=1)
    rows = parallel.local_rows(ids, len(bank), search.axis_name)
    weights = jnp.where(rows < len(bank), weights, 0.0)
    looked_up = bank.at[rows].get(mode="clip")
    gradient = grad.log_rest[:, None] * pull + jnp.einsum(
        "bs,bsd->bd", weights, looked_up, precision=lax.Precision.HIGHEST
    )
    return gradient, None, None, None, None


read_bank.defvjp(_read_forward, _read_backward)
