"""The weight of the propagation loss over time: w(t) in equation (7)."""

import jax
import jax.numpy as jnp

from invariance_propagation import parallel
from invariance_propagation.methods.base import Moment, Problem
from invariance_propagation.methods.invariance_propagation.options import Options
from invariance_propagation.methods.invariance_propagation.readiness import (
    Readiness,
    is_ready,
    update_readiness,
)


def weight_of(
    options: Options, readiness: Readiness | None, moment: Moment
) -> jax.Array:
    """Computes lambda * w(t), the weight of the propagation loss in one step.

    Args:
      options: those of the method.
      readiness: the memory's record of the graph with start='auto'; None without one,
        where the weight follows from the epoch.
      moment: when the step takes place.

    Returns:
      float32 [].
    """
    if readiness is None:
        on = ramp_up(moment.epoch, start_epoch=options.start_epoch, ramp=options.ramp)
    else:
        on = jnp.where(is_ready(readiness), 1.0, 0.0)
    return options.propagation_weight * on


def watch(
    readiness: Readiness | None,
    overlap: jax.Array,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> Readiness | None:
    """Updates the record of how stable the graph is, if the method keeps one.

    Args:
      readiness: as it was before the step.
      overlap: float32 [], share of kept neighbours among this device's images.
      moment: when the step takes place.
      options: those of the method.
      problem: N, steps per epoch and the device axis.
    """
    if readiness is None:
        return None
    return update_readiness(
        readiness,
        parallel.pmean(overlap, problem.axis_name),
        moment.step,
        threshold=options.threshold(problem.num_examples),
        steps_per_epoch=problem.steps_per_epoch,
    )


def ramp_up(epoch: jax.Array, *, start_epoch: int, ramp: str) -> jax.Array:
    """Computes w(t), the share of lambda that is switched on.

    'binary' is 0 before `start_epoch` and 1 from there on; 'gaussian' grows as
    exp(-5 (1 - (epoch + 1) / T)^2) and is 1 from epoch T - 1 on. `epoch` counts from 0;
    the authors' code, which has both (objective.py, lines 15-21), counts from 1.

    Args:
      epoch: int32 [].
      start_epoch: T.
      ramp: 'binary' or 'gaussian'.

    Returns:
      float32 [], in [0, 1].
    """
    if ramp == "binary":
        return jnp.where(epoch >= start_epoch, 1.0, 0.0)
    done = 1.0 if start_epoch == 0 else jnp.minimum((epoch + 1) / start_epoch, 1.0)
    return jnp.exp(-5.0 * jnp.square(1.0 - done))
