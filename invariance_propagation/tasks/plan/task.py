"""Prints what a run takes of memory, on the devices that are here or on others."""

import jax
from ml_collections import ConfigDict

from invariance_propagation.data import sources
from invariance_propagation.devices.topologies import (
    TOPOLOGIES,
    Topology,
    described_devices,
)
from invariance_propagation.errors import UserError, in_bytes
from invariance_propagation.phases import phase
from invariance_propagation.tasks.plan import memory
from invariance_propagation.tasks.plan.advice import advise, changed, largest_batch
from invariance_propagation.tasks.plan.memory import Limits, Plan, TooLargeError
from invariance_propagation.tasks.plan.work import shortest_step
from invariance_propagation.train.build import build
from invariance_propagation.train.run import Run


def print_plan(config: ConfigDict) -> Plan:
    """Prints how much memory a run of this config needs on each device and on the host.

    Compiles the training step, for the devices that are here or for those of
    `config.topology`. Allocates only the data set, or nothing with
    `config.data.num_examples`.

    Raises:
      UserError: bad input; or the run does not fit, with the largest setting that would.
    """
    topology, devices = None, None
    if config.topology:
        devices = described_devices(config.topology)
        topology = TOPOLOGIES[config.topology]
    run = _build(config, devices)
    if topology is None:
        limits = memory.memory_limits()
    else:
        limits = Limits(topology.chip.memory, None)
    plan = None
    try:
        with phase("compiling the training step to measure it"):
            plan = memory.make_plan(run)
        share = memory.fullness(plan, limits)
        print(_table(run, plan, limits))
    except TooLargeError as error:
        share = error.share

    def share_with(name: str, value: int) -> float:
        # A batch has no part in what is created before the first.
        start = plan.start if plan and name == "train.batch_size" else None
        try:
            other = _build(changed(config, **{name: value}), devices)
            return memory.fullness(memory.make_plan(other, start=start), limits)
        except TooLargeError as error:
            return error.share

    if share > 1:
        with phase("looking for a setting that fits"):
            advice = advise(config, run, share, share_with)
        raise UserError(
            f"this needs {share:.0%} of the memory that is available: {advice}"
        )
    if topology is not None:
        print(_speed(run, plan, topology))
        with phase("looking for the largest batch that fits"):
            largest = largest_batch(config, run, share, share_with)
        print(f"largest batch that fits: about {largest}")
    return plan


def _build(config: ConfigDict, devices: list[jax.Device] | None) -> Run:
    data = config.data
    if not data.get("num_examples"):
        if devices is not None and sources.must_be_fetched(data.name, data.folder):
            raise UserError(
                f"{data.name} is not here: to plan without it, say how many training "
                "images it has (--config.data.num_examples=N; ImageNet has 1281167)"
            )
        return build(config, described=devices)
    dataset = sources.described(
        config.data.name,
        config.data.num_examples,
        size=config.augment.size,
        channels=len(config.augment.mean),
    )
    return build(config, dataset=dataset, described=devices)


def _table(run: Run, plan: Plan, limits: Limits) -> str:
    kind = run.runner.mesh.devices.flat[0].device_kind
    lines = [
        f"{run.dataset.name}: {run.num_examples:,} images, batches of "
        f"{run.options.batch_size} on {plan.num_devices} x {kind}",
        "",
        "on each device",
        *_rows(plan.device),
        _row("total in training", plan.training, limits.device),
        _row("before: initialising", max(plan.start, plan.begin), limits.device),
        "",
        "on the host",
        *_rows(plan.host),
    ]
    if plan.on_cpu:
        lines.append(_row("devices, in training", plan.num_devices * plan.training))
    lines.append(_row("at the peak", plan.machine, limits.machine))
    return "\n".join(lines)


def _speed(run: Run, plan: Plan, topology: Topology) -> str:
    """Says what a step computes and sends, and how fast it could be at most."""
    work, chip = plan.work, topology.chip
    lines = ["", "each step, on each device"]
    lines.append(f"  {'computes':28}{work.flops / 1e9:>9,.0f} GFLOP")
    lines.append(_row("reads, writes (at least)", work.bytes_read))
    lines += [_row(f"sends, {kind}", size) for kind, size in work.sent.items()]
    seconds = shortest_step(work, chip)
    lines += [
        f"at best {1e3 * seconds:.1f} ms, {run.options.batch_size / seconds:,.0f} images "
        "a second, if the slowest part ran at its peak:",
        f"  {chip.flops / 1e12:.0f} TFLOP/s, {chip.bandwidth / 1e9:,.0f} GB/s of memory, "
        f"{chip.link / 1e9:.0f} GB/s between devices;",
        "  not measured, without the host's part, and real steps are slower",
    ]
    if every := run.method.refresh_every:
        lines.append(f"  what one step in {every} does is counted in each")
    return "\n".join(lines)


def _rows(sizes: dict[str, int]) -> list[str]:
    return [_row(name, size) for name, size in sizes.items()]


def _row(name: str, size: int, limit: int | None = None) -> str:
    row = f"  {name:28}{in_bytes(size):>12}"
    return row if limit is None else f"{row}  of {in_bytes(limit)} free"
