"""Works out how much memory a run needs, part by part, without running it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import tqdm
from ml_collections import ConfigDict

from invariance_propagation.errors import UserError, in_bytes
from invariance_propagation.models.norm import fits_devices
from invariance_propagation.phases import phase
from invariance_propagation.train.build import build
from invariance_propagation.train.run import Run, lower

# Memory limit of a container, in cgroups version 2 and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class Plan(NamedTuple):
    """Holds the bytes that a run needs.

    Attributes:
      device: bytes on each device during training, by name of the part.
      start: bytes on each device while network and memory are created.
      host: bytes on the host, by name of the part.
      num_devices: D.
      on_cpu: whether the devices share the host's memory.
    """

    device: dict[str, int]
    start: int
    host: dict[str, int]
    num_devices: int
    on_cpu: bool

    @property
    def training(self) -> int:
        """Returns the bytes on each device during training."""
        return sum(self.device.values())

    @property
    def per_device(self) -> int:
        """Returns the largest number of bytes that a device holds at any time."""
        return max(self.start, self.training)

    @property
    def machine(self) -> int:
        """Returns the largest number of bytes of the host's memory in use at any time."""
        if not self.on_cpu:
            return sum(self.host.values())
        start = self.host["data set"] + self.num_devices * self.start
        return max(start, sum(self.host.values()) + self.num_devices * self.training)


class Limits(NamedTuple):
    """Holds the bytes that are available.

    Attributes:
      device: bytes on each device; None if the device does not say.
      machine: bytes on the host.
    """

    device: int | None
    machine: int


def print_plan(config: ConfigDict) -> Plan:
    """Prints how much memory a run of this config needs on each device and on the host.

    Compiles the training step. Allocates only the data set.

    Raises:
      UserError: bad input; or the run does not fit, with the largest setting that would.
    """
    run = build(config)
    with phase("compiling the training step to measure it"):
        plan = make_plan(run)
    limits = memory_limits()
    print(_table(run, plan, limits))
    if not fits(plan, limits):
        share = _fullness(plan, limits)
        with phase("looking for a setting that fits"):
            advice = _advice(config, run, plan, limits)
        raise UserError(
            f"this needs {share:.0%} of the memory that is available: {advice}"
        )
    return plan


def make_plan(run: Run) -> Plan:
    """Adds up what one training step holds at its peak, according to XLA.

    Creating network and memory may need more than that, before training starts: drawing
    random numbers takes several times their size, and the memory that one program frees
    is not always available to the next.
    """
    batch_size, devices = run.options.batch_size, run.runner.num_devices
    programs = lower(run)
    state = programs.state
    programs_to_compile = (
        programs.step,
        programs.create_network,
        programs.create_memory,
    )
    bar = tqdm.tqdm(programs_to_compile, unit="program", disable=None, leave=False)
    step, *starting = (program.compile().memory_analysis() for program in bar)
    buffers = run.method.notes.buffers(batch_size, devices)
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
    start = sum(x.output_size_in_bytes + x.temp_size_in_bytes for x in starting)
    splits = (run.dataset.train, run.dataset.held_out)
    host = {
        "data set": sum(split.images.nbytes for split in splits if split),
        "copy for a checkpoint": _global_bytes(run, state),
    }
    return Plan(device, start, host, devices, jax.default_backend() == "cpu")


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


def fits(plan: Plan, limits: Limits) -> bool:
    """Returns whether a plan keeps within the limits."""
    on_device = limits.device is None or plan.per_device <= limits.device
    return on_device and plan.machine <= limits.machine


def largest_fit(
    size: Callable[[int], float], low: int, high: int, over: float, step: int
) -> int | None:
    """Finds the largest of low, low + step, ... below `high` whose size is at most 1.

    Sizes grow almost linearly, so following a straight line between the last two needs
    only a few trials.

    Args:
      size: grows with its argument; each call may compile a program.
      low: the smallest choice.
      high: a choice that is too large.
      over: `size(high)`, above 1.
      step: distance between choices.

    Returns:
      The choice; None if not even `low` fits.
    """
    under = size(low)
    if under > 1:
        return None
    while high - low > step:
        guess = low + (high - low) * (1 - under) / (over - under)
        steps = max(1, min((high - low - 1) // step, int((guess - low) / step)))
        trial = low + steps * step
        measured = size(trial)
        if measured <= 1:
            low, under = trial, measured
        else:
            high, over = trial, measured
    return low


def _advice(config: ConfigDict, run: Run, plan: Plan, limits: Limits) -> str:
    """Says which batch size fits, or else how many images do."""

    def size_with(name: str) -> Callable[[int], float]:
        def size(value: int) -> float:
            changed = config.copy_and_resolve_references()
            changed.update_from_flattened_dict({name: value})
            share = _fullness(make_plan(build(changed)), limits)
            print(
                f"tried {name}={value}: {share:.0%} of the memory that is available",
                flush=True,
            )
            return share

        return size

    devices, batch_size = plan.num_devices, run.options.batch_size
    over = _fullness(plan, limits)
    group, best = config.encoder.norm_group or 1, None
    smaller = [
        size
        for size in range(devices, batch_size, devices)
        if size % group == 0 and fits_devices(group, devices, batch_size=size)
    ]
    if smaller:
        size = size_with("train.batch_size")
        best = largest_fit(lambda i: size(smaller[i]), 0, len(smaller), over, 1)
    if best is not None:
        return f"set --config.train.batch_size to at most {smaller[best]}"
    least = max(batch_size, run.method.requires.fewest_examples, run.knn.num_neighbors)
    if run.num_examples > least:
        size = size_with("data.num_train")
        best = largest_fit(size, least, run.num_examples, over, 1)
    if best is not None:
        return f"set --config.data.num_train to at most {best}"
    return (
        "take a smaller network (--config.encoder.width, --config.encoder.depth) or more "
        "devices"
    )


def _fullness(plan: Plan, limits: Limits) -> float:
    shares = [plan.machine / limits.machine]
    if limits.device is not None:
        shares.append(plan.per_device / limits.device)
    return max(shares)


def _table(run: Run, plan: Plan, limits: Limits) -> str:
    kind = jax.devices()[0].device_kind
    lines = [
        f"{run.dataset.name}: {run.num_examples:,} images, batches of "
        f"{run.options.batch_size} on {plan.num_devices} x {kind}",
        "",
        "on each device",
        *_rows(plan.device),
        _row("total in training", plan.training, limits.device),
        _row("before: initialising", plan.start, limits.device),
        "",
        "on the host",
        *_rows(plan.host),
    ]
    if plan.on_cpu:
        lines.append(_row("devices, in training", plan.num_devices * plan.training))
    lines.append(_row("at the peak", plan.machine, limits.machine))
    return "\n".join(lines)


def _rows(sizes: dict[str, int]) -> list[str]:
    return [_row(name, size) for name, size in sizes.items()]


def _row(name: str, size: int, limit: int | None = None) -> str:
    row = f"  {name:24}{in_bytes(size):>12}"
    return row if limit is None else f"{row}  of {in_bytes(limit)} free"


def _bytes(tree: Any) -> int:
    """Adds up the bytes of abstract arrays with a sharding on one device."""
    return sum(
        x.dtype.itemsize * _size(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )


def _global_bytes(run: Run, state: Any) -> int:
    whole = run.runner.shapes(state, run.spec, run.num_examples)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(whole))


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
