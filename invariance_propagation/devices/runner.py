"""Devices: which of them a run has, and how a function for one is mapped over all."""

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invariance_propagation.devices import processes
from invariance_propagation.errors import UserError
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED

MODES = ("pmap", "shard_map")


class Runner(NamedTuple):
    """How a per-device function is mapped over devices.

    Specs are `REPLICATED` or `SHARDED` (along axis 0), one per argument or per
    leaf. Outside a runner every array has its global shape. Inside, `pmap`
    holds a sharded array as [D, n / D, ...] and `shard_map` as [n, ...]; of several
    processes each has its own part of the former, and a view of all of the latter.
    """

    mesh: Mesh
    mode: str

    @property
    def num_devices(self) -> int:
        return self.mesh.size

    def compile(
        self, fn: Callable, in_specs: Any, out_specs: Any, *, donate: tuple = ()
    ) -> Callable:
        """Maps `fn`, written for one device, over the mesh."""
        if self.mode == "pmap":
            return jax.pmap(
                fn,
                axis_name=AXIS,
                in_axes=_pmap_axes(in_specs),
                out_axes=_pmap_axes(out_specs),
                donate_argnums=donate,
                devices=list(self.mesh.devices.flat),
            )
        # check_vma=True would multiply gradients of replicated parameters by D.
        mapped = jax.shard_map(
            fn,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,
        )
        return jax.jit(mapped, donate_argnums=donate)

    def creator(self, init: Callable, specs: Any) -> Callable:
        """Compiles `init` so that its arrays are born where `specs` puts them.

        What it returns spans all processes; `own` makes it what a step takes.
        Random keys belong in its arguments: from a key that it knows XLA may compute
        the random numbers while it compiles.
        """
        # It runs once: on a CPU optimising it takes longer than it saves.
        on_cpu = jax.default_backend() == "cpu"
        return jax.jit(
            lambda *args: self._layout(init(*args), specs),
            out_shardings=_shardings(self.mesh, specs),
            compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
        )

    def own(self, tree: Any, specs: Any) -> Any:
        """Arrays that span all processes -> as a mapped function takes them."""
        if self.mode == "shard_map":
            return tree
        return multihost_utils.global_array_to_host_local_array(tree, self.mesh, specs)

    def create(self, init: Callable, specs: Any, *args: Any) -> Any:
        """Runs `init(*args)`; see `creator`."""
        return self.own(self.creator(init, specs)(*args), specs)

    def put(self, tree: Any, specs: Any) -> Any:
        """Global host arrays -> arrays on the devices, padded as they need.

        With several processes each of them has the whole of the host arrays.
        """

        def place(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.make_array_from_callback(
                    x.shape, sharding, x.__getitem__
                ),
                part,
            )

        return jax.tree.map(
            place, _shardings(self._home, specs), self._own_layout(tree, specs)
        )

    def share(self, length: int) -> slice:
        """Which rows of a sharded [length, ...] are this process's."""
        size = length // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def put_share(self, rows: np.ndarray) -> jax.Array:
        """This process's `share` of a sharded host array -> the array on the devices.

        Rows of zeros pad it to a multiple of this process's devices.
        """
        count = self._home.size // (1 if self.mode == "pmap" else jax.process_count())
        rest = [(0, -len(rows) % count)] + [(0, 0)] * (rows.ndim - 1)
        rows = np.pad(rows, rest)
        if self.mode == "pmap":
            rows = rows.reshape(self._home.size, -1, *rows.shape[1:])
        sharding = NamedSharding(self._home, SHARDED)
        return jax.make_array_from_process_local_data(sharding, rows)

    def abstract(self, tree: Any, specs: Any) -> Any:
        """What `put` would return, as jax.ShapeDtypeStruct, from global shapes."""
        laid = jax.eval_shape(lambda tree: self._own_layout(tree, specs), tree)

        def placed(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                part,
            )

        return jax.tree.map(placed, _shardings(self._home, specs), laid)

    def fetch(self, tree: Any, specs: Any, length: int) -> Any:
        """The reverse: host copies; sharded arrays are cut to `length` rows.

        With several processes all of them must ask, and have the same.
        """

        def whole(spec: PartitionSpec, part: Any) -> Any:
            if spec == REPLICATED:
                return jax.tree.map(_host_copy, part)
            return jax.tree.map(
                lambda x: processes.gather(self._unstack(_host_copy(x)))[:length], part
            )

        return jax.tree.map(whole, specs, tree)

    def local(self, tree: Any) -> Any:
        """What the first device of this process holds; of replicated arrays, all."""
        return jax.tree.map(lambda x: x.addressable_data(0), tree)

    def shapes(self, tree: Any, specs: Any, length: int) -> Any:
        """What `fetch` would return, as jax.ShapeDtypeStruct."""

        def whole(spec: PartitionSpec, part: Any) -> Any:
            if spec == REPLICATED:
                return jax.tree.map(
                    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part
                )
            rest = 2 if self.mode == "pmap" else 1
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((length, *x.shape[rest:]), x.dtype), part
            )

        return jax.tree.map(whole, specs, tree)

    def _layout(self, tree: Any, specs: Any) -> Any:
        def place(spec: PartitionSpec, part: Any) -> Any:
            return part if spec == REPLICATED else jax.tree.map(self._stack, part)

        return jax.tree.map(place, specs, tree)

    def _stack(self, x: Any) -> Any:
        size = self.num_devices
        xp = np if isinstance(x, np.ndarray) else jax.numpy
        x = xp.pad(x, [(0, -len(x) % size)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(size, -1, *x.shape[1:]) if self.mode == "pmap" else x

    def _unstack(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, *x.shape[2:]) if self.mode == "pmap" else x

    def _own_layout(self, tree: Any, specs: Any) -> Any:
        tree = self._layout(tree, specs)
        if self.mode == "shard_map":
            return tree
        own = self.share(self.num_devices)

        def cut(spec: PartitionSpec, part: Any) -> Any:
            return part if spec == REPLICATED else jax.tree.map(lambda x: x[own], part)

        return jax.tree.map(cut, specs, tree)

    @property
    def _home(self) -> Mesh:
        """The devices that an array between two steps is made of."""
        return self.mesh.local_mesh if self.mode == "pmap" else self.mesh


def make_runner(mode: str, num_devices: int | None = None) -> Runner:
    """A runner over the first `num_devices` devices (all of them by default).

    With several processes, over as many of each; a process's are side by side.

    Raises:
      UserError: unknown mode, more devices asked for than there are, or a number that
        the processes cannot share.
    """
    if mode not in MODES:
        raise UserError(f"parallel={mode!r}: choose one of {', '.join(MODES)}")
    # Sorting keeps JAX's order within a process.
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    if num_devices is not None and not 1 <= num_devices <= len(devices):
        raise UserError(
            f"num_devices={num_devices}, but JAX sees {len(devices)}: "
            f"set it from 1 to {len(devices)}, or to None for all of them"
        )
    count, hosts = num_devices or len(devices), jax.process_count()
    processes.check_devices()
    if count % hosts:
        raise UserError(
            f"num_devices={count}, but there are {hosts} processes: set it to a "
            f"multiple of {hosts}, over all of them, or to None for all devices"
        )
    each = np.array(devices).reshape(hosts, -1)[:, : count // hosts]
    return Runner(Mesh(each.reshape(-1), (AXIS,)), mode)


def one_cpu_device_per_core(
    batch_size: int, *, fits: Callable[[int], bool] | None = None
) -> None:
    """Splits a CPU backend into devices, one per core that the batch can fill.

    `fits` says whether the batch can be trained on over a number of devices; without
    it, every number that divides the batch will do.

    Two devices on two cores run a ResNet step faster than one device with two
    threads. Does nothing once JAX has started, when the user has set a number,
    or on an accelerator. Of several processes each has one device, or the number set:
    how many of them share the cores is not known before JAX has started.
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
    """Makes `count` devices of a CPU backend; does nothing once JAX has started."""
    # Threads that wait in a collective leave XLA's pool, one per device. With as
    # many threads as cores the last of them may wait for work that no thread is
    # left to do, and XLA aborts the process after 40 seconds.
    cores = len(os.sched_getaffinity(0))
    os.environ.setdefault("PJRT_NPROC", str(cores + count))
    # RuntimeError: JAX has started, and the caller's choice stands.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def _pmap_axes(specs: Any) -> Any:
    return jax.tree.map(lambda spec: None if spec == REPLICATED else 0, specs)


def _shardings(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def _host_copy(x: jax.Array) -> np.ndarray:
    """What this process holds of it: its rows, each once."""
    shards = {_first_row(shard): shard.data for shard in x.addressable_shards}
    # np.asarray would share, on a CPU, the buffer that the next step donates; of a
    # sharded array it would keep a second copy as long as the array lives.
    if x.ndim == 0:
        return np.array(shards[0])
    return np.concatenate([shards[first] for first in sorted(shards)])


def _first_row(shard: Any) -> int:
    return (shard.index[0].start or 0) if shard.index else 0
