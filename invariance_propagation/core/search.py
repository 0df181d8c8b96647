"""One look at the bank: what B anchors are similar to, and the gradient of it."""

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
    group_size,
)

SELECTIONS = ("exact", "approx")
PRECISIONS = ("highest", "high", "bfloat16")
# Of similarities at once on a device: large enough that the products run at full
# speed, small beside the bank and the network.
BUFFER_BYTES = 512 * 2**20
# On a CPU: small enough to stay in the cache from pass to pass, with rows enough
# that the bank is not read too often.
CACHE_BYTES, CACHE_ROWS = 8 * 2**20, 32


class Search(NamedTuple):
    """What is looked for, and how; static.

    Attributes:
      num_examples: N; rows of the padding take part in nothing.
      num_neighbors: k.
      background_size: M.
      temperature: tau.
      selection: of the background: 'exact', or 'approx' by `lax.approx_max_k`, which
        misses some of the M and takes somewhat less similar rows for them.
      precision: of the products with the bank: 'highest' is float32; 'high' three
        bfloat16 passes on TPU and TF32 on GPU; 'bfloat16' a single pass.
      axis_name: the device axis, or None.
    """

    num_examples: int
    num_neighbors: int
    background_size: int
    temperature: float
    selection: str
    precision: str
    axis_name: str | None


class Reading(NamedTuple):
    """What one look at the bank tells about B anchors.

    Attributes:
      anchor: float32 [B], similarity of the anchor to its own row. Like `slots`
        it is 0 on the devices that do not hold the row.
      slots: float32 [B, slots], similarity to each slot.
      log_rest: float32 [B], log of the sum of e(similarity / temperature) over
        the background on this device, without the anchor and the slots.
      threshold: of the background, the same on every device.
      neighbors: int32 [b, k], our own anchors' nearest rows over all devices.
    """

    anchor: jax.Array
    slots: jax.Array
    log_rest: jax.Array
    threshold: Threshold
    neighbors: jax.Array


class Look(NamedTuple):
    """What some of the anchors see of this device's rows; see `Reading`."""

    looked_up: jax.Array  # float32 [c, 1 + slots], the anchor's own row first
    log_rest: jax.Array  # float32 [c]
    pull: jax.Array  # float32 [c, d], the gradient of log_rest to the anchor
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
    """Compares B anchors with this device's rows of the bank, once.

    Args:
      anchors: float32 [B, d], unit rows, the same on every device. The gradient
        flows to them alone, from `anchor`, `slots` and `log_rest`.
      bank: float32 [n, d], n = Np / D.
      indices: int [B], the anchors' ids.
      slots: int32 [B, slots], ids to look up.
      distinct: bool [B, slots], the first slot of each id that is not the anchor's.
      search: static options.

    Holds two arrays of [c, n] float32, the similarities of c anchors and what each
    adds to the background, with c = `rows_at_once(B, n)`. Both are gone when the
    function returns: the backward pass needs [B, d] of them, and [B, slots, d] of the
    bank.
    """
    return _read_forward(anchors, bank, indices, slots, distinct, search)[0]


def _read_forward(anchors, bank, indices, slots, distinct, search):
    ids = jnp.concatenate([indices[:, None], slots], axis=1)
    look = partial(_look, bank=bank, search=search)
    rows = rows_at_once(len(anchors), len(bank))
    if rows == len(anchors):
        seen = look((anchors, ids, distinct))
    else:
        parts = jax.tree.map(
            lambda x: x.reshape(-1, rows, *x.shape[1:]), (anchors, ids, distinct)
        )
        seen = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), lax.map(look, parts))
    reading = Reading(
        seen.looked_up[:, 0],
        seen.looked_up[:, 1:],
        seen.log_rest,
        seen.threshold,
        nearest_of_all(seen.nearest, search.num_neighbors, search.axis_name),
    )
    return reading, (seen.pull, bank, indices, slots)


def rows_at_once(anchors: int, columns: int) -> int:
    """How many anchors are compared with `columns` rows at once, a divisor of all."""
    most = BUFFER_BYTES // (4 * columns)
    if jax.default_backend() == "cpu":
        most = min(most, max(CACHE_ROWS, CACHE_BYTES // (4 * columns)))
    return max(c for c in range(1, max(1, min(anchors, most)) + 1) if anchors % c == 0)


def buffer_bytes(anchors: int, columns: int) -> int:
    """What `read_bank` holds at once: similarities, and what each contributes."""
    return 2 * 4 * rows_at_once(anchors, columns) * columns


def _look(parts: tuple, *, bank: jax.Array, search: Search) -> Look:
    anchors, ids, distinct = parts
    axis_name, rows = search.axis_name, len(bank)
    similarities = _product(anchors, bank.T, search.precision)
    if axis_name is not None and search.num_examples % lax.axis_size(axis_name):
        column = jnp.arange(rows, dtype=jnp.int32) + parallel.first_row(rows, axis_name)
        similarities = jnp.where(column < search.num_examples, similarities, -jnp.inf)

    # The anchor and the positives are looked up, and leave the array. What is written
    # depends on what was read, or XLA would keep a copy for the reading; a NaN stays.
    columns = parallel.local_rows(ids, rows, axis_name)
    row = jnp.arange(len(anchors), dtype=jnp.int32)[:, None]
    looked_up = similarities.at[row, columns].get(mode="fill", fill_value=0.0)
    gone = jnp.where(jnp.isnan(looked_up), looked_up, -jnp.inf)
    rest = similarities.at[row, columns].set(gone, mode="drop")

    devices = parallel.axis_size(axis_name)
    group = group_size(rows * devices, search.background_size)
    maxima = block_maxima(rest, group)
    ours = jnp.where(columns < rows, looked_up, -jnp.inf)
    own, few = ours[:, :1], jnp.where(distinct, ours[:, 1:], -jnp.inf)
    found = nearest(
        rest,
        block_maxima(maxima, BLOCK // group),
        Nearest(few, ids[:, 1:]),
        search.num_neighbors,
        axis_name,
    )
    candidates = rest
    if search.selection == "approx":
        candidates, _ = lax.approx_max_k(rest, min(search.background_size, rows))
    threshold = background_threshold(
        candidates,
        jnp.concatenate([own, few], axis=1),
        maxima,
        search.background_size,
        axis_name,
    )

    largest = jnp.max(maxima, axis=1, keepdims=True)
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)
    terms = jnp.exp((rest - largest) / search.temperature) * threshold.weights(rest)
    total = jnp.sum(terms, axis=1)
    log_rest = jnp.log(total) + largest[:, 0] / search.temperature
    # An empty rest pulls nowhere.
    scale = search.temperature * jnp.where(total == 0, 1.0, total)
    pull = _product(terms, bank, search.precision) / scale[:, None]
    return Look(looked_up, log_rest, pull, threshold, found)


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
