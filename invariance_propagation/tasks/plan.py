"""What a run takes of memory, part by part, before it takes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
from ml_collections import ConfigDict

from invariance_propagation.errors import UserError
from invariance_propagation.models.norm import fits_devices
from invariance_propagation.train.build import build
from invariance_propagation.train.run import Run, lower

# A container's limit, by cgroups version 2 and 1.
CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class Plan(NamedTuple):
    """Bytes that a run takes.

    Attributes:
      device: on each device while it trains, by name of the part.
      start: on each device while network and memory are made.
      host: on the host, likewise.
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
        """On each device, once it trains."""
        return sum(self.device.values())

    @property
    def per_device(self) -> int:
        """The most that is ever on a device."""
        return max(self.start, self.training)

    @property
    def machine(self) -> int:
        """The most that is ever taken of the host's memory."""
        if not self.on_cpu:
            return sum(self.host.values())
        start = self.host["data set"] + self.num_devices * self.start
        return max(start, sum(self.host.values()) + self.num_devices * self.training)


class Limits(NamedTuple):
    """Bytes there are: on each device, None if it does not say, and on the host."""

    device: int | None
    machine: int


def print_plan(config: ConfigDict) -> Plan:
    """Prints what the config takes of each device, and of the host.

    Compiles the training step, and allocates nothing but the data set.

    Raises:
      UserError: bad input; or it does not fit, with the largest setting that would.
    """
    run = build(config)
    plan, limits = make_plan(run), memory_limits()
    print(_table(run, plan, limits))
    if not fits(plan, limits):
        share = _fullness(plan, limits)
        advice = _advice(config, run, plan, limits)
        raise UserError(f"this takes {share:.0%} of the memory there is: {advice}")
    return plan


def make_plan(run: Run) -> Plan:
    """Adds up what one step holds at its peak, as XLA compiles it.

    Making network and memory may take more, before there is anything else: random
    numbers are made in several times their size, and what the one has freed is not
    always of use to the other.
    """
    batch_size, devices = run.options.batch_size, run.runner.num_devices
    programs = lower(run)
    state = programs.state
    step = programs.step.compile().memory_analysis()
    buffers = run.method.notes.buffers(batch_size, devices)
    new = step.output_size_in_bytes - step.alias_size_in_bytes
    rest = step.temp_size_in_bytes + new - sum(buffers.values())
    device = {
        "parameters": _bytes((state.params, state.batch_stats)),
        "optimizer": _bytes(state.opt_state),
        **{name: _bytes(part) for name, part in _parts(state.memory).items()},
        "images": _bytes(programs.images),
        # The next step's are on their way.
        "indices": 2 * _bytes((programs.indices, programs.columns)),
        **buffers,
        "activations, gradients": max(0, rest),
    }
    starting = 0
    for program in (programs.create_network, programs.create_memory):
        made = program.compile().memory_analysis()
        starting += made.output_size_in_bytes + made.temp_size_in_bytes
    host = {
        "data set": sum(part.images.nbytes for part in run.dataset[1:] if part),
        "copy for a checkpoint": _global_bytes(run, state),
    }
    return Plan(device, starting, host, devices, jax.default_backend() == "cpu")


def _parts(memory: Any) -> dict[str, Any]:
    """A method's memory by the names that it has, if it has any."""
    if hasattr(memory, "_asdict"):
        return {name: x for name, x in memory._asdict().items() if jax.tree.leaves(x)}
    return {"memory": memory} if jax.tree.leaves(memory) else {}


def memory_limits() -> Limits:
    """What the devices and the host have left."""
    stats = jax.local_devices()[0].memory_stats() or {}
    process = psutil.Process().memory_info().rss
    free = [psutil.virtual_memory().available]
    for path in CONTAINER_LIMITS:
        text = path.read_text().strip() if path.exists() else ""
        free += [int(text) - process] if text.isdigit() else []
    return Limits(stats.get("bytes_limit"), min(free))


def fits(plan: Plan, limits: Limits) -> bool:
    on_device = limits.device is None or plan.per_device <= limits.device
    return on_device and plan.machine <= limits.machine


def largest_fit(
    size: Callable[[int], float], low: int, high: int, over: float, step: int
) -> int | None:
    """The largest of low, low + step, ... below `high` whose size is at most 1.

    Args:
      size: grows with its argument; each call may be a compilation.
      low: the smallest choice.
      high: too large, by `size(high) = over > 1`.
      over: as above.
      step: between choices.

    Returns:
      The choice; None if not even `low` fits. Sizes grow nearly in proportion, so that
      a straight line between the last two finds it in a few trials.
    """
    under = size(low)
    if under > 1:
        return None
    while high - low > step:
        guess = low + (high - low) * (1 - under) / (over - under)
        steps = max(1, min((high - low - 1) // step, int((guess - low) / step)))
        trial = low + steps * step
        found = size(trial)
        if found <= 1:
            low, under = trial, found
        else:
            high, over = trial, found
    return low


def _advice(config: ConfigDict, run: Run, plan: Plan, limits: Limits) -> str:
    """Names the largest batch size that fits, or else the most images."""

    def size_with(name: str) -> Callable[[int], float]:
        def size(value: int) -> float:
            changed = config.copy_and_resolve_references()
            changed.update_from_flattened_dict({name: value})
            found = make_plan(build(changed))
            share = _fullness(found, limits)
            print(f"tried {name}={value}: {share:.0%} of what there is")
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
        return f"set train.batch_size to at most {smaller[best]}"
    least = max(batch_size, run.method.requires.fewest_examples, run.knn.num_neighbors)
    if run.num_examples > least:
        size = size_with("data.num_train")
        best = largest_fit(size, least, run.num_examples, over, 1)
    if best is not None:
        return f"set data.num_train to at most {best}"
    return "take a smaller network (encoder.width, encoder.depth) or more devices"


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
        _row("together", plan.training, limits.device),
        _row("to start, before that", plan.start, limits.device),
        "",
        "on the host",
        *_rows(plan.host),
    ]
    if plan.on_cpu:
        lines.append(_row("its devices", plan.num_devices * plan.training))
    lines.append(_row("at most", plan.machine, limits.machine))
    return "\n".join(lines)


def _rows(parts: dict[str, int]) -> list[str]:
    return [_row(name, size) for name, size in parts.items()]


def _row(name: str, size: int, limit: int | None = None) -> str:
    row = f"  {name:24}{readable(size):>12}"
    return row if limit is None else f"{row}  of {readable(limit)} free"


def readable(size: int) -> str:
    """Bytes for people, in decimal units."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def _bytes(tree: Any) -> int:
    """Of abstract arrays with a sharding, on one device."""
    return sum(
        x.dtype.itemsize * _size(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )


def _global_bytes(run: Run, state: Any) -> int:
    whole = run.runner.shapes(state, run.spec, run.num_examples)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(whole))


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))
