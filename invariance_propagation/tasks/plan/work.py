"""Reads from a compiled step what it computes and what it sends between devices."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from invariance_propagation.devices.topologies import Chip

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# "%name = (f32[8,128]{1,0}, f32[8]) all-reduce-start(", without the name.
RESULT = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(COLLECTIVES)})(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d+)\[([\d,]*)\]")
BITS = re.compile(r"\d+")


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


def sent_by(program: str) -> dict[str, int]:
    """Adds up the bytes of collectives in an HLO program, by kind, largest first.

    A collective inside of a loop counts once; with one that is only begun
    (`all-gather-start`, on GPUs), its argument counts as well as its result.
    """
    found = dict.fromkeys(COLLECTIVES, 0)
    for result, kind in RESULT.findall(program):
        arrays = ARRAY.findall(result)
        sizes = [_array_bytes(dtype, shape) for dtype, shape in arrays]
        found[kind] += sum(sizes)
    return {
        kind: found[kind] for kind in sorted(found, key=found.get)[::-1] if found[kind]
    }


def _array_bytes(dtype: str, shape: str) -> int:
    bits = int(BITS.search(dtype)[0])
    return math.prod(int(x) for x in shape.split(",") if x) * max(8, bits) // 8


def shortest_step(work: Work, chip: Chip) -> float:
    """Returns the seconds below which no step can stay: each part at its peak alone."""
    parts = [
        (work.flops or 0) / chip.flops,
        (work.bytes_read or 0) / chip.bandwidth,
        sum(work.sent.values()) / chip.link,
    ]
    return float(np.max(parts))
