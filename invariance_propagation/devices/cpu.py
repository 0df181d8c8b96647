"""Splits a CPU into several devices, before JAX starts."""

import contextlib
import os
from collections.abc import Callable

import jax

from invariance_propagation.devices import processes


def one_cpu_device_per_core(
    batch_size: int, *, fits: Callable[[int], bool] | None = None
) -> None:
    """Splits a CPU backend into devices, one per core that the batch can fill.

    Two devices on two cores run a ResNet step faster than one device with two threads.

    Does nothing once JAX has started, if the user has set a number, or on an accelerator.
    With several processes, each gets one device, or the number that is set: how many
    processes share the cores is not known before JAX has started.

    Args:
      batch_size: B.
      fits: returns whether the batch can be trained on a number of devices; None: on
        every number that divides the batch.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    chosen = "JAX_NUM_CPU_DEVICES" in os.environ or "device_count" in flags
    if processes.joined() and "device_count" not in flags:
        split_cpu(max(1, jax.config.jax_num_cpu_devices))
        return
    if chosen or jax.config.jax_num_cpu_devices > 0:
        return
    cores = len(os.sched_getaffinity(0))
    # At least 16 images per device, and no remainder: a default must not fail.
    most = max(1, min(cores, batch_size // 16))
    numbers = [n for n in range(1, most + 1) if batch_size % n == 0]
    split_cpu(max(filter(fits, numbers) if fits else numbers, default=1))


def split_cpu(count: int) -> None:
    """Splits a CPU backend into `count` devices; does nothing once JAX has started."""
    # Each device has a thread that leaves XLA's pool to wait in a collective. With as
    # many threads as cores, the last device may wait for work that no thread is left to
    # do, and XLA aborts the process after 40 seconds.
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("PJRT_NPROC", str(cores + count))
    # RuntimeError: JAX has started, and the caller's choice stands.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
