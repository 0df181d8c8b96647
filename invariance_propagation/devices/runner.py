"""Maps a function for one device over all devices of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from invariance_propagation.devices import processes
from invariance_propagation.parallel import (
    AXIS,
    REPLICATED,
    SHARDED,
    rows_per_device,
)


class Runner(NamedTuple):
    """Maps functions for one device over a mesh of devices.

    Specs are `REPLICATED` or `SHARDED` (along axis 0), one per argument or per leaf.
    Outside a runner, every array has its global shape. Inside, `pmap` holds a sharded
    array as [D, n / D, ...] and `shard_map` as [n, ...]. With several processes, each
    holds only its share of a pmap array, but refers to the whole of a shard_map array.
    """

    mesh: Mesh
    mode: str  # see `mesh.MODES`

    @property
    def num_devices(self) -> int:
        """The number of devices, D."""
        return self.mesh.size

    @property
    def platform(self) -> str:
        """What the devices are: 'cpu', 'gpu' or 'tpu'; not what this machine has."""
        return self.mesh.devices.flat[0].platform

    def compile(
        self, fn: Callable, in_specs: Any, out_specs: Any, *, donate: tuple = ()
    ) -> Callable:
        """Compiles `fn`, written for one device, for all devices of the mesh."""
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
        """Compiles `init` so that it creates its arrays where `specs` puts them.

        The arrays span all processes; `own` turns them into what a step takes. Pass random
        keys as arguments: if a key is a constant, XLA may draw the random numbers while it
        compiles.
        """
        # It runs once, and on a CPU optimising it takes longer than it saves.
        on_cpu = self.platform == "cpu"
        return jax.jit(
            lambda *args: self._layout(init(*args), specs, self._stack),
            out_shardings=_shardings(self.mesh, specs),
            compiler_options={"xla_backend_optimization_level": 0} if on_cpu else None,
        )

    def own(self, tree: Any, specs: Any) -> Any:
        """Turns arrays that span all processes into arguments of a mapped function."""
        if self.mode == "shard_map":
            return tree
        return multihost_utils.global_array_to_host_local_array(tree, self.mesh, specs)

    def create(self, init: Callable, specs: Any, *args: Any) -> Any:
        """Runs `init(*args)`; see `creator`."""
        return self.own(self.creator(init, specs)(*args), specs)

    def put(self, tree: Any, specs: Any) -> Any:
        """Puts global host arrays on the devices, padded to D * `rows_per_device`.

        With several processes, each passes the whole arrays.
        """

        def place(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.make_array_from_callback(
                    x.shape, sharding, x.__getitem__
                ),
                part,
            )

        return jax.tree.map(
            place,
            _shardings(self._home, specs),
            self._local_layout(tree, specs, self._stack),
        )

    def share(self, length: int) -> slice:
        """Returns the rows of a sharded [length, ...] that this process holds."""
        size = length // jax.process_count()
        return slice(jax.process_index() * size, (jax.process_index() + 1) * size)

    def own_rows(self, length: int) -> slice:
        """Returns the rows of [length, ...], laid out by `put`, that this process holds."""
        share = self.share(self._padded(length))
        return slice(min(share.start, length), min(share.stop, length))

    def put_own(self, tree: Any, specs: Any, length: int) -> Any:
        """Does what `put` does, without a process that has all rows.

        Args:
          tree: host arrays; of a sharded array, only this process's `own_rows`.
          specs: of the arrays.
          length: the rows of a sharded array in all processes.
        """
        size = self._padded(length) // jax.process_count()

        def place(x: np.ndarray) -> jax.Array:
            return self.put_share(_extended(x, size))

        def put(spec: PartitionSpec, part: Any) -> Any:
            if spec == REPLICATED:
                return self.put(part, REPLICATED)
            return jax.tree.map(place, part)

        return jax.tree.map(put, specs, tree)

    def put_share(self, rows: np.ndarray) -> jax.Array:
        """Puts this process's `share` of a sharded host array on the devices.

        Rows of zeros pad it to a multiple of this process's devices.
        """
        count = self._home.size // (1 if self.mode == "pmap" else jax.process_count())
        # Padding copies: the device may keep what it is given, and a step donates that.
        rest = [(0, -len(rows) % count)] + [(0, 0)] * (rows.ndim - 1)
        rows = np.pad(rows, rest)
        if self.mode == "pmap":
            rows = rows.reshape(self._home.size, -1, *rows.shape[1:])
        sharding = NamedSharding(self._home, SHARDED)
        return jax.make_array_from_process_local_data(sharding, rows)

    def abstract(self, tree: Any, specs: Any) -> Any:
        """Returns the jax.ShapeDtypeStruct of what `put` returns, from global shapes."""
        return self._abstract(tree, specs, self._stack)

    def abstract_batch(self, tree: Any, specs: Any) -> Any:
        """Returns the same for the arrays of a batch, which D divides."""
        return self._abstract(tree, specs, self._divide)

    def _abstract(self, tree: Any, specs: Any, stack: Callable) -> Any:
        laid = jax.eval_shape(lambda tree: self._local_layout(tree, specs, stack), tree)

        def placed(sharding: NamedSharding, part: Any) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                part,
            )

        return jax.tree.map(placed, _shardings(self._home, specs), laid)

    def fetch(self, tree: Any, specs: Any, length: int) -> Any:
        """Copies arrays to the host; sharded arrays are cut to `length` rows.

        With several processes, all must call this, and all get the same arrays.
        """

        return self._copy(tree, specs, lambda x: processes.gather(x)[:length])

    def fetch_own(self, tree: Any, specs: Any, length: int) -> Any:
        """Does what `fetch` does, but of a sharded array copies only `own_rows`."""
        rows = self.own_rows(length)
        return self._copy(tree, specs, lambda x: x[: rows.stop - rows.start])

    def local(self, tree: Any) -> Any:
        """Returns what the first device of this process holds; replicated arrays whole."""
        return jax.tree.map(lambda x: x.addressable_data(0), tree)

    def shapes(self, tree: Any, specs: Any, length: int) -> Any:
        """Returns the jax.ShapeDtypeStruct of what `fetch` returns."""

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

    def _copy(self, tree: Any, specs: Any, sharded: Callable) -> Any:
        def copy(spec: PartitionSpec, part: Any) -> Any:
            if spec == REPLICATED:
                return jax.tree.map(_host_copy, part)
            return jax.tree.map(lambda x: sharded(self._unstack(_host_copy(x))), part)

        return jax.tree.map(copy, specs, tree)

    def _layout(self, tree: Any, specs: Any, stack: Callable) -> Any:
        def place(spec: PartitionSpec, part: Any) -> Any:
            return part if spec == REPLICATED else jax.tree.map(stack, part)

        return jax.tree.map(place, specs, tree)

    def _stack(self, x: Any) -> Any:
        length = self._padded(len(x))
        xp = np if isinstance(x, np.ndarray) else jax.numpy
        return self._divide(xp.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1)))

    def _padded(self, length: int) -> int:
        return self.num_devices * rows_per_device(
            length, self.num_devices, self.platform
        )

    def _divide(self, x: Any) -> Any:
        if self.mode == "shard_map":
            return x
        return x.reshape(self.num_devices, -1, *x.shape[1:])

    def _unstack(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, *x.shape[2:]) if self.mode == "pmap" else x

    def _local_layout(self, tree: Any, specs: Any, stack: Callable) -> Any:
        tree = self._layout(tree, specs, stack)
        if self.mode == "shard_map":
            return tree
        rows = self.share(self.num_devices)

        def cut(spec: PartitionSpec, part: Any) -> Any:
            return part if spec == REPLICATED else jax.tree.map(lambda x: x[rows], part)

        return jax.tree.map(cut, specs, tree)

    @property
    def _home(self) -> Mesh:
        """The devices that hold an array between two steps."""
        return self.mesh.local_mesh if self.mode == "pmap" else self.mesh


def _pmap_axes(specs: Any) -> Any:
    return jax.tree.map(lambda spec: None if spec == REPLICATED else 0, specs)


def _shardings(mesh: Mesh, specs: Any) -> Any:
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def _host_copy(x: jax.Array) -> np.ndarray:
    """Copies the rows that this process holds, each once."""
    shards = {_first_row(shard): shard.data for shard in x.addressable_shards}
    # On a CPU, np.asarray would share the buffer that the next step donates; of a
    # sharded array it would keep a second copy for as long as the array lives.
    if x.ndim == 0:
        return np.array(shards[0])
    return np.concatenate([shards[first] for first in sorted(shards)])


def _extended(x: np.ndarray, length: int) -> np.ndarray:
    """Adds rows of zeros; copies nothing if there are enough."""
    missing = length - len(x)
    return np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)) if missing else x


def _first_row(shard: Any) -> int:
    return (shard.index[0].start or 0) if shard.index else 0
