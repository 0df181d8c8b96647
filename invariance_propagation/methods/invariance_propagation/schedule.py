"""When the propagation term is on: from an epoch, growing up to it, or by itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation import parallel
from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import Moment, Problem
from invariance_propagation.methods.invariance_propagation.readiness import (
    Readiness,
    check_threshold,
    init_readiness,
    is_ready,
    threshold_of,
    update_readiness,
)

RAMPS = ("binary", "gaussian")
STARTS = ("epoch", "auto")


class Schedule(NamedTuple):
    """How much of lambda is on.

    Attributes:
      weight: (state, moment) -> float32 [].
      init: () -> state, None if it follows from the step alone.
      update: (state, overlap float32 [], moment) -> state.
      spec: of the state.
    """

    weight: Callable[[Any, Moment], jax.Array]
    init: Callable[[], Any]
    update: Callable[[Any, jax.Array, Moment], Any]
    spec: Any


def make_schedule(
    problem: Problem,
    *,
    num_neighbors: int,
    propagation_weight: float,
    start: str,
    start_epoch: int,
    start_overlap: float,
    ramp: str,
) -> Schedule:
    """Binds the options that say when propagation is on.

    Args:
      problem: N, steps per epoch and the device axis.
      num_neighbors: k.
      propagation_weight: lambda; 0 leaves instance discrimination.
      start: 'epoch' [paper] or 'auto': once the graph is ready, see `readiness`.
      start_epoch: of 'epoch': T, the first one, from 0, in which the term is on.
      start_overlap: of 'auto': the share of neighbours kept between visits, beyond
        what random ones would be.
      ramp: 'binary', or 'gaussian' to grow up to T, see `ramp_up`.

    Raises:
      UserError: a value out of its range.
    """
    if propagation_weight < 0:
        raise UserError(
            f"propagation_weight={propagation_weight}: set it to 0 or above"
        )
    if start_epoch < 0:
        raise UserError(f"start_epoch={start_epoch}: set it to 0 or above")
    if ramp not in RAMPS:
        raise UserError(f"ramp={ramp!r}: choose one of {', '.join(RAMPS)}")
    if start not in STARTS:
        raise UserError(f"start={start!r}: choose one of {', '.join(STARTS)}")
    if start == "auto" and ramp != "binary":
        raise UserError(f"ramp={ramp!r} leads up to start_epoch: set start='epoch'")
    check_threshold(start_overlap)
    if start == "auto" and propagation_weight > 0:
        threshold = threshold_of(
            start_overlap,
            num_examples=problem.num_examples,
            num_neighbors=num_neighbors,
        )
        return Schedule(
            weight=lambda state, moment: (
                propagation_weight * jnp.where(is_ready(state), 1.0, 0.0)
            ),
            init=init_readiness,
            update=lambda state, overlap, moment: update_readiness(
                state,
                parallel.pmean(overlap, problem.axis_name),
                moment.step,
                threshold=threshold,
                steps_per_epoch=problem.steps_per_epoch,
            ),
            spec=Readiness(parallel.REPLICATED, parallel.REPLICATED),
        )
    return Schedule(
        weight=lambda state, moment: (
            propagation_weight
            * ramp_up(moment.epoch, start_epoch=start_epoch, ramp=ramp)
        ),
        init=lambda: None,
        update=lambda state, overlap, moment: state,
        spec=None,
    )


def ramp_up(epoch: jax.Array, *, start_epoch: int, ramp: str) -> jax.Array:
    """Computes how much of lambda is on: float32 in [0, 1].

    'binary' is 0 before `start_epoch` and 1 from there on; 'gaussian' grows as
    exp(-5 (1 - (epoch + 1) / T)^2) and is 1 from epoch T - 1 on. `epoch` counts from 0;
    the released code, which has both (objective.py, lines 15-21), counts from 1.
    """
    if ramp == "binary":
        return jnp.where(epoch >= start_epoch, 1.0, 0.0)
    done = 1.0 if start_epoch == 0 else jnp.minimum((epoch + 1) / start_epoch, 1.0)
    return jnp.exp(-5.0 * jnp.square(1.0 - done))
