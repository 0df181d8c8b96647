"""The axis along which devices lie, how arrays are laid out on it, and collectives.

Functions that communicate take `axis_name`. With `axis_name=None` one device holds
everything, and every collective returns its argument.

Legend of the whole package: D devices, b images per device, B = D * b,
N training images, Np = N padded up to D * n, n rows per device, d embedding size,
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
# With fewer rows on each device, padding would cost more than it spares.
LARGE = 4096


def all_gather(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Gathers each device's [b, ...] into [B, ...] on all devices."""
    return x if axis_name is None else lax.all_gather(x, axis_name, tiled=True)


def psum_scatter(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Sums [B, ...] over devices; each keeps its part [b, ...] of the sum."""
    return x if axis_name is None else lax.psum_scatter(x, axis_name, tiled=True)


def all_to_all(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Sends rows of [B, c] to their devices: [b, D * c], every device's columns."""
    if axis_name is None:
        return x
    received = lax.all_to_all(
        x.reshape(lax.axis_size(axis_name), -1, *x.shape[1:]), axis_name, 0, 0
    )
    return received.swapaxes(0, 1).reshape(received.shape[1], -1)


def reverse_rows(x: jax.Array, axis_name: str | None, *, axis: int = 0) -> jax.Array:
    """Reverses the B rows of all devices along an axis; each device keeps b of them.

    A device sends its rows to one other device, where `all_gather` would bring B rows
    to every device.
    """
    if axis_name is not None:
        last = lax.axis_size(axis_name) - 1
        x = lax.ppermute(x, axis_name, [(i, last - i) for i in range(last + 1)])
    return x[(slice(None),) * axis + (slice(None, None, -1),)]


def psum(x: Any, axis_name: str | None) -> Any:
    """Sums over devices."""
    return x if axis_name is None else lax.psum(x, axis_name)


def pmax(x: Any, axis_name: str | None) -> Any:
    """Takes the maximum over devices."""
    return x if axis_name is None else lax.pmax(x, axis_name)


def pmean(x: Any, axis_name: str | None) -> Any:
    """Averages over devices."""
    return x if axis_name is None else lax.pmean(x, axis_name)


def axis_size(axis_name: str | None) -> int:
    """Returns D, the number of devices."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def rows_per_device(length: int, num_devices: int, platform: str) -> int:
    """Returns n, how many rows of a sharded array of `length` rows each device holds.

    The last rows are padding. On an accelerator, the number of rows decides which layout
    XLA takes. An odd multiple of 64 lets `pmap` use an array as it lies in a TPU, where for
    multiples of 128 XLA turns the similarities around twice; a GPU's products copy the array
    unless n is a multiple of 512.
    """
    rows = -(-length // num_devices)
    if platform == "cpu" or rows < LARGE:
        return rows
    return rows + ((64 - rows) % 128 if platform == "tpu" else -rows % 512)


def local_slice(x: jax.Array, count: int, axis_name: str | None) -> jax.Array:
    """Takes this device's [count, ...] out of [B, ...], the same on every device."""
    return lax.dynamic_slice_in_dim(x, first_row(count, axis_name), count)


def first_row(rows: int, axis_name: str | None) -> jax.Array | int:
    """Returns the global number of this device's first row if each device holds `rows`."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * rows


def row_weights(rows: int, batch_size: int | None, axis_name: str | None) -> jax.Array:
    """Weights this device's rows of a batch that may be padded.

    Averaged over devices, a sum with these weights is the mean over the batch.

    Args:
      rows: rows on each device.
      batch_size: B; rows beyond B are padding and weigh 0. None: there is no padding.
      axis_name: the device axis, or None for one device.

    Returns:
      float32 [rows].
    """
    devices = axis_size(axis_name)
    total = devices * rows if batch_size is None else batch_size
    number = first_row(rows, axis_name) + jax.numpy.arange(rows, dtype=jax.numpy.int32)
    return jax.numpy.where(number < total, jax.numpy.float32(devices / total), 0)


def local_rows(ids: jax.Array, rows: int, axis_name: str | None) -> jax.Array:
    """Turns global ids into row numbers of this device.

    Args:
      ids: int, any shape.
      rows: rows on each device.
      axis_name: the device axis, or None for one device.

    Returns:
      The same shape; `rows`, one past the end, for ids that lie on other devices.
    """
    local = ids - first_row(rows, axis_name)
    return jax.numpy.where((local >= 0) & (local < rows), local, rows)


def take_rows(table: jax.Array, ids: jax.Array, axis_name: str | None) -> jax.Array:
    """Looks up rows of a sharded array.

    Args:
      table: [n, ...], this device's rows.
      ids: int, any shape, the same on every device.
      axis_name: the device axis, or None for one device.

    Returns:
      [*ids.shape, ...], the same on every device.
    """
    return psum(_held_rows(table, ids, axis_name), axis_name)


def take_own_rows(table: jax.Array, ids: jax.Array, axis_name: str | None) -> jax.Array:
    """Looks up rows of a sharded array, other ids on each device.

    Args:
      table: [n, ...], this device's rows.
      ids: int [b], of this device.
      axis_name: the device axis, or None for one device.

    Returns:
      [b, ...], of this device's ids.
    """
    everyone = all_gather(ids, axis_name)
    return psum_scatter(_held_rows(table, everyone, axis_name), axis_name)


def put_rows(
    table: jax.Array, ids: jax.Array, rows: jax.Array, axis_name: str | None
) -> jax.Array:
    """Writes rows of a sharded array.

    Args:
      table: [n, ...], this device's rows.
      ids: int [b], of this device; all ids differ over all devices.
      rows: [b, ...], what to write there.
      axis_name: the device axis, or None for one device.

    Returns:
      [n, ...], this device's rows; others are unchanged.
    """
    ids, rows = all_gather(ids, axis_name), all_gather(rows, axis_name)
    return table.at[local_rows(ids, len(table), axis_name)].set(rows, mode="drop")


def _held_rows(table: jax.Array, ids: jax.Array, axis_name: str | None) -> jax.Array:
    """Takes the rows that this device holds, and zeros for those of other devices.

    One device holds each row, so the sum over devices is that row.
    """
    places = local_rows(ids, len(table), axis_name)
    return table.at[places].get(mode="fill", fill_value=0)
