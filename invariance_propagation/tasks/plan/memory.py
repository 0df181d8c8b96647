"""Adds up the bytes that a run needs, part by part, without running it."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import tqdm

from invariance_propagation.store.facts import leaves_of
from invariance_propagation.tasks.plan.work import Work, work_of
from invariance_propagation.train.resume.saver import sharded_names
from invariance_propagation.train.run import Run, lower

# Memory limit of a container, in cgroups version 2 and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
# How the compiler of a TPU says that a program does not fit, in GiB.
TOO_LARGE = re.compile(r"\(([\d.]+)G\) exceeds available \w+ \(([\d.]+)G\)")


class TooLargeError(Exception):
    """The compiler refuses a program that does not fit the memory.

    Attributes:
      share: what it needs, as a share of what there is.
    """

    def __init__(self, share: float):
        super().__init__(f"the program needs {share:.0%} of the memory")
        self.share = share


class Plan(NamedTuple):
    """Holds the bytes that a run needs.

    Attributes:
      device: bytes on each device during training, by name of the part.
      start: bytes on each device while network and memory are created.
      begin: bytes on one device while the method begins, e.g. by k-means.
      host: bytes on the host, by name of the part.
      num_devices: D.
      on_cpu: whether the devices share the host's memory.
      work: what a step computes and sends.
    """

    device: dict[str, int]
    start: int
    begin: int
    host: dict[str, int]
    num_devices: int
    on_cpu: bool
    work: Work = Work()

    @property
    def training(self) -> int:
        """Returns the bytes on each device during training."""
        return sum(self.device.values())

    @property
    def per_device(self) -> int:
        """Returns the largest number of bytes that a device holds at any time."""
        return max(self.start, self.begin, self.training)

    @property
    def machine(self) -> int:
        """Returns the largest number of bytes of the host's memory in use at any time."""
        if not self.on_cpu:
            return sum(self.host.values())
        start = self.host["data set"] + max(self.num_devices * self.start, self.begin)
        return max(start, sum(self.host.values()) + self.num_devices * self.training)


class Limits(NamedTuple):
    """Holds the bytes that are available.

    Attributes:
      device: bytes on each device; None if the device does not say.
      machine: bytes on the host; None if it is another host.
    """

    device: int | None
    machine: int | None


def make_plan(run: Run, *, start: int | None = None) -> Plan:
    """Adds up what one training step holds at its peak, according to XLA.

    Creating network and memory may need more than that, before training starts: drawing
    random numbers takes several times their size, and the memory that one program frees
    is not always available to the next.

    Args:
      run: the run.
      start: bytes on each device while network and memory are created, if they are known.

    Raises:
      TooLargeError: the compiler refuses the step.
    """
    batch_size, devices = run.options.batch_size, run.runner.num_devices
    programs = lower(run)
    state = programs.state
    to_compile = [programs.step]
    if start is None:
        to_compile += [programs.create_network, programs.create_memory]
    bar = tqdm.tqdm(to_compile, unit="program", disable=None, leave=False)
    compiled = [compile_program(program) for program in bar]
    step, *starting = (program.memory_analysis() for program in compiled)
    if start is None:
        start = sum(x.output_size_in_bytes + x.temp_size_in_bytes for x in starting)
    buffers = run.method.notes.buffers(batch_size, devices, run.runner.platform)
    new = step.output_size_in_bytes - step.alias_size_in_bytes
    rest = step.temp_size_in_bytes + new - sum(buffers.values())
    device = {
        "parameters": _bytes((state.params, state.batch_stats)),
        "optimizer": _bytes(state.opt_state),
        **memory_sizes(state.memory),
        "images": _bytes(programs.images),
        # Those of the next step are already being transferred.
        "indices": 2 * _bytes((programs.indices, programs.columns)),
        **buffers,
        "activations, gradients": max(0, rest),
    }
    splits = (run.dataset.train, run.dataset.held_out)
    host = {
        "data set": sum(split.images.nbytes for split in splits if split),
        "copy for a checkpoint": copy_bytes(run, state),
    }
    return Plan(
        device,
        start,
        run.method.notes.begin_bytes,
        host,
        devices,
        on_cpu=run.runner.platform == "cpu",
        work=work_of(programs.traced, compiled[0]),
    )


def compile_program(program: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program; raises TooLargeError if the compiler finds it too large."""
    try:
        return program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sizes = TOO_LARGE.search(str(error))
        share = float(sizes[1]) / float(sizes[2]) if sizes else 2.0
        raise TooLargeError(share) from error


def memory_sizes(memory: Any) -> dict[str, int]:
    """Returns the bytes of a method's memory on one device, by field if it has fields.

    Args:
      memory: tree of abstract arrays with a sharding; {} is returned without arrays.
    """
    fields = memory._asdict() if hasattr(memory, "_asdict") else {"memory": memory}
    return {name: _bytes(x) for name, x in fields.items() if jax.tree.leaves(x)}


def memory_limits() -> Limits:
    """Measures how much memory the devices and the host have left."""
    stats = jax.local_devices()[0].memory_stats() or {}
    process = psutil.Process().memory_info().rss
    free = [psutil.virtual_memory().available]
    for path in CONTAINER_LIMITS:
        text = path.read_text().strip() if path.exists() else ""
        free += [int(text) - process] if text.isdigit() else []
    return Limits(stats.get("bytes_limit"), min(free))


def fullness(plan: Plan, limits: Limits) -> float:
    """Returns the share of the available memory that a plan needs; above 1 is too much."""
    shares = [0.0]
    if limits.machine is not None:
        shares.append(plan.machine / limits.machine)
    if limits.device is not None:
        shares.append(plan.per_device / limits.device)
    return max(shares)


def _bytes(tree: Any) -> int:
    """Adds up the bytes of abstract arrays with a sharding on one device."""
    return sum(
        x.dtype.itemsize * _size(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )


def copy_bytes(run: Run, state: Any) -> int:
    """Returns the bytes of a state that a host holds while it writes a checkpoint."""
    whole = run.runner.shapes(state, run.spec, run.num_examples)
    hosts = len({device.process_index for device in run.runner.mesh.devices.flat})
    shared = set() if run.gathers else sharded_names(run.spec, whole)
    return sum(
        x.size * x.dtype.itemsize // (hosts if name in shared else 1)
        for name, x in leaves_of(whole).items()
    )


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
