"""Reads from a compiled step what it computes and what it sends between devices."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from invariance_propagation.devices.topologies import Chip
from invariance_propagation.tasks.plan.collectives import sent_by


class Work(NamedTuple):
    """Holds what one step does on each device, according to the compiler.

    Attributes:
      flops: additions and multiplications; None if the compiler does not count them.
      bytes_read: bytes that go between the device and its memory, at least; likewise.
      sent: bytes of the results of collectives, by kind of collective.
    """

    flops: float | None = None
    bytes_read: float | None = None
    sent: Mapping[str, int] = {}


def work_of(step: jax.stages.Compiled) -> Work:
    """Reads the work of a compiled step."""
    costs = step.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    # XLA gives a negative number or none where it does not count.
    counts = (costs.get(name, 0) for name in ("flops", "bytes accessed"))
    return Work(*(x if x > 0 else None for x in counts), sent_by(step.as_text()))


def shortest_step(work: Work, chip: Chip) -> float:
    """Returns the seconds below which no step can stay: each part at its peak alone."""
    parts = [
        (work.flops or 0) / chip.flops,
        (work.bytes_read or 0) / chip.bandwidth,
        sum(work.sent.values()) / chip.link,
    ]
    return float(np.max(parts))
