"""The axis that devices are along, where arrays lie on it, and collectives.

Below this module a function that communicates takes `axis_name`; `None` means
that one device holds everything, and every collective is then the identity.

Legend of the whole package: D devices, b images per device, B = D * b,
N training images, Np = N padded up to a multiple of D, d embedding size,
k neighbours kept per image, l hops, P hard positives, M background size,
slots = k + k^2 + ... + k^l.
"""

from typing import Any

import jax
from jax import lax
from jax.sharding import PartitionSpec

AXIS = "batch"
REPLICATED = PartitionSpec()
SHARDED = PartitionSpec(AXIS)


def all_gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """[b, ...] on each device -> [B, ...] on all of them."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def own_sum(x: jax.Array, axis_name: str | None) -> jax.Array:
    """[B, ...] on each device -> the sum over devices of this device's [b, ...]."""
    return x if axis_name is None else lax.psum_scatter(x, axis_name, tiled=True)


def own_parts(x: jax.Array, axis_name: str | None) -> jax.Array:
    """[B, c] on each device -> [b, D * c]: what each device has for our rows."""
    if axis_name is None:
        return x
    parts = lax.all_to_all(
        x.reshape(lax.axis_size(axis_name), -1, *x.shape[1:]), axis_name, 0, 0
    )
    return parts.swapaxes(0, 1).reshape(parts.shape[1], -1)


def psum(x: Any, axis_name: str | None) -> Any:
    return x if axis_name is None else lax.psum(x, axis_name)


def pmax(x: Any, axis_name: str | None) -> Any:
    return x if axis_name is None else lax.pmax(x, axis_name)


def pmean(x: Any, axis_name: str | None) -> Any:
    return x if axis_name is None else lax.pmean(x, axis_name)


def axis_size(axis_name: str | None) -> int:
    """D."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def own_rows(x: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """[B, ...], the same on every device -> this device's [count, ...]."""
    return lax.dynamic_slice_in_dim(x, first_row(count, axis_name), count)


def first_row(rows: int, axis_name: str | None) -> jax.Array | int:
    """The global number of this device's first row, when each holds `rows`."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * rows


def row_weights(rows: int, batch_size: int | None, axis_name: str | None) -> jax.Array:
    """Weights for this device's part of a batch that may be padded, float32 [rows].

    The mean over devices of sums with these weights is the mean over the batch.

    Args:
      rows: rows of each device.
      batch_size: B; rows beyond these pad the batch, and weigh 0. None: no row does.
      axis_name: the device axis, or None.
    """
    devices = axis_size(axis_name)
    total = devices * rows if batch_size is None else batch_size
    number = first_row(rows, axis_name) + jax.numpy.arange(rows, dtype=jax.numpy.int32)
    return jax.numpy.where(number < total, jax.numpy.float32(devices / total), 0)


def local_rows(ids: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    """Global ids -> rows of this device's `rows`; one past the end if not its own."""
    local = ids - first_row(rows, axis_name)
    return jax.numpy.where((local >= 0) & (local < rows), local, rows)
