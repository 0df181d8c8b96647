"""Chooses the devices of a run."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from invariance_propagation.devices import processes
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError
from invariance_propagation.parallel import AXIS

MODES = ("pmap", "shard_map")


def make_runner(
    mode: str,
    num_devices: int | None = None,
    *,
    described: Sequence[jax.Device] | None = None,
) -> Runner:
    """Makes a runner over the first `num_devices` devices, by default over all.

    With several processes, it takes equally many devices of each, side by side.

    Args:
      mode: 'pmap' or 'shard_map'.
      num_devices: D; None for all.
      described: devices to compile for, which are not here; None for those that are.

    Raises:
      UserError: an unknown mode, more devices than there are, or a number that the
        processes cannot share equally.
    """
    if mode not in MODES:
        raise UserError(f"--config.parallel={mode!r}: choose one of {', '.join(MODES)}")
    # The sort is stable, so JAX's order within a process stays.
    devices = sorted(described or jax.devices(), key=lambda x: x.process_index)
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        raise UserError(
            f"--config.num_devices={num_devices}, but "
            f"{'the topology has' if described else 'JAX sees'} {len(devices)}: "
            f"set it from 1 to {len(devices)}, or to None for all of them"
        )
    count, hosts = num_devices or len(devices), jax.process_count()
    processes.check_devices()
    if count % hosts:
        raise UserError(
            f"--config.num_devices={count}, but there are {hosts} processes: set it to a "
            f"multiple of {hosts}, over all of them, or to None for all devices"
        )
    each = np.array(devices).reshape(hosts, -1)[:, : count // hosts]
    return Runner(Mesh(each.reshape(-1), (AXIS,)), mode)
