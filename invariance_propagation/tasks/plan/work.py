"""Says what a step computes, and what it sends between devices."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from invariance_propagation.devices.topologies import Chip
from invariance_propagation.tasks.plan.collectives import sent_by


class Work(NamedTuple):
    """Holds what one step does on each device.

    Attributes:
      flops: additions and multiplications of its products and convolutions.
      bytes_read: bytes that go between the device and its memory, at least.
      sent: bytes of the results of collectives, by kind of collective.
    """

    flops: int = 0
    bytes_read: int = 0
    sent: Mapping[str, int] = {}


def work_of(traced: ClosedJaxpr, step: jax.stages.Compiled) -> Work:
    """Reads the work of a step from what was traced and what was compiled."""
    costs = step.cost_analysis() or {}
    costs = costs[0] if isinstance(costs, list) else costs
    memory = step.memory_analysis()
    # A GPU's compiler counts nothing. What is held is read or written at least once, and
    # what is neither given nor returned is both.
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += 2 * memory.temp_size_in_bytes
    counted = max(held, int(costs.get("bytes accessed", 0)))
    return Work(flops_of(traced.jaxpr), counted, sent_by(step.as_text()))


def flops_of(traced: Jaxpr) -> int:
    """Counts the additions and multiplications of products and convolutions.

    Compilers count the body of a loop once, and for a GPU nothing at all. Here a loop of
    known length counts as often as it runs, and any other once. Of the branches of a
    condition, the largest counts. Inside `shard_map`, shapes are those of one device.
    """
    return sum(map(_flops, traced.eqns))


def _flops(equation: JaxprEqn) -> int:
    inner = [flops_of(x) for x in _within(equation.params.values())]
    match equation.primitive.name:
        case "cond":
            return max(inner)
        case "scan":
            return equation.params["length"] * sum(inner)
        case "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            each = math.prod(shape[axis] for axis in contracted)
            return 2 * each * math.prod(equation.outvars[0].aval.shape)
        case "conv_general_dilated":
            return 2 * _multiplications(equation)
        case _:
            return sum(inner)


def _multiplications(convolution: JaxprEqn) -> int:
    """Counts the multiplications, without padding and the zeros of a dilated input."""
    options, (images, kernel) = convolution.params, convolution.invars
    axes = options["dimension_numbers"]
    output = convolution.outvars[0].aval.shape
    batch, features, *_ = (output[axis] for axis in axes.out_spec)
    count = batch * features * kernel.aval.shape[axes.rhs_spec[1]]
    for i, (low, _) in enumerate(options["padding"]):
        length, zeros = images.aval.shape[axes.lhs_spec[2 + i]], options["lhs_dilation"]
        starts = np.arange(output[axes.out_spec[2 + i]]) * options["window_strides"][i]
        taps = np.arange(kernel.aval.shape[axes.rhs_spec[2 + i]])
        at = np.add.outer(starts - low, taps * options["rhs_dilation"][i])
        inside = (at >= 0) & (at <= (length - 1) * zeros[i]) & (at % zeros[i] == 0)
        count *= int(np.sum(inside))
    return count


def _within(values: Any) -> Iterator[Jaxpr]:
    for value in values:
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _within(value)


def shortest_step(work: Work, chip: Chip) -> float:
    """Returns the seconds below which no step can stay: each part at its peak alone."""
    parts = [
        work.flops / chip.flops,
        work.bytes_read / chip.bandwidth,
        sum(work.sent.values()) / chip.link,
    ]
    return float(np.max(parts))
