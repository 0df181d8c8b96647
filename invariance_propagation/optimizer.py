"""SGD with momentum and weight decay as in PyTorch, and its learning rate."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

from invariance_propagation.errors import UserError
from invariance_propagation.settings import check_names, keywords_of

SCHEDULES = ("cosine", "steps")


def make_schedule(
    *,
    learning_rate: float,
    schedule: str,
    milestones: Sequence[int],
    decay: float,
    warmup_epochs: int,
    epochs: int,
    steps_per_epoch: int,
    restart_epochs: Sequence[int] = (),
    restart_rates: Sequence[float] = (),
) -> optax.Schedule:
    """Returns the learning rate as a function of the step.

    Args:
      learning_rate: the largest value before the first restart.
      schedule: 'cosine' down to 0 at the last step, or 'steps'.
      milestones: epochs, counted from 0 at the start of the run, at which 'steps'
        multiplies the rate by `decay`.
      decay: the factor at a milestone.
      warmup_epochs: epochs of linear growth from 0 before the schedule.
      epochs: length of the whole run, including warm-up and restarts.
      steps_per_epoch: N // B.
      restart_epochs: epochs, counted from 0, at which the schedule ends and starts
        again. A cosine reaches 0 there.
      restart_rates: the learning rate at each restart.

    Raises:
      UserError: an argument out of its range.
    """
    _check_rate(learning_rate, schedule, decay, warmup_epochs, epochs)
    _check_restarts(restart_epochs, restart_rates, warmup_epochs, epochs)
    warmup = warmup_epochs * steps_per_epoch
    bounds = [epoch * steps_per_epoch for epoch in (*restart_epochs, epochs)]
    starts = (warmup, *bounds[:-1])
    parts, joints = [], []
    if warmup:
        parts, joints = [optax.linear_schedule(0.0, learning_rate, warmup)], [warmup]
    rates = (learning_rate, *restart_rates)
    drops = [epoch * steps_per_epoch for epoch in milestones]
    for number, (start, end, rate) in enumerate(
        zip(starts, bounds, rates, strict=True)
    ):
        if schedule == "cosine":
            parts.append(optax.cosine_decay_schedule(rate, end - start))
        else:
            # A milestone at a restart is over: the rate of the restart replaces it.
            factors = {x - start: decay for x in drops if number == 0 or x > start}
            parts.append(optax.piecewise_constant_schedule(rate, factors))
    joints += bounds[:-1]
    rate = optax.join_schedules(parts, joints) if joints else parts[0]
    # float32 even if JAX_ENABLE_X64 is set; it is exact up to step 16.8 million.
    return lambda step: rate(jnp.asarray(step, jnp.float32))


@keywords_of(make_schedule)
def make_optimizer(
    *,
    momentum: float,
    weight_decay: float,
    groups: Mapping[str, Mapping[str, float]] = {},
    labels: Any = None,
    **schedule: Any,
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Makes SGD that adds weight decay to the gradient before momentum.

    Args:
      momentum: in [0, 1).
      weight_decay: applies to all parameters; the released code exempts neither
        BatchNorm nor biases.
      groups: by label, what differs for these parameters: `rate`, a factor of the
        learning rate; `momentum`; `weight_decay`.
      labels: a label for each parameter, or for each part of the tree of parameters;
        None if all are alike.
      **schedule: the arguments of `make_schedule`.

    Returns:
      The learning rate as a function of the step, and the optimiser.

    Raises:
      UserError: an argument out of its range.

    Source: torch.optim.SGD.
    """
    rate = make_schedule(**schedule)
    usual = {"rate": 1.0, "momentum": momentum, "weight_decay": weight_decay}
    known = sorted(set(jax.tree.leaves(labels)))
    check_names(groups, known, prefix="optimizer.groups.")
    for label, changes in groups.items():
        check_names(changes, usual, prefix=f"optimizer.groups.{label}.")
    all_alike = _sgd(rate, "optimizer", **usual)
    if labels is None:
        return rate, all_alike
    parts = {
        label: _sgd(
            rate, f"optimizer.groups.{label}", **usual | dict(groups.get(label, {}))
        )
        for label in known
    }
    return rate, optax.multi_transform(parts, labels)


def _sgd(
    schedule: optax.Schedule,
    section: str,
    *,
    rate: float,
    momentum: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    if not rate >= 0:
        raise UserError(f"{section}.rate={rate}: set it to 0 or above")
    if not 0 <= momentum < 1:
        raise UserError(f"{section}.momentum={momentum}: set it in [0, 1)")
    if not weight_decay >= 0:
        raise UserError(f"{section}.weight_decay={weight_decay}: set it to 0 or above")
    scaled = schedule if rate == 1.0 else lambda step: rate * schedule(step)
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(scaled, momentum=momentum)
    )


def _check_rate(
    learning_rate: float, schedule: str, decay: float, warmup_epochs: int, epochs: int
) -> None:
    if schedule not in SCHEDULES:
        raise UserError(
            f"optimizer.schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}"
        )
    if not learning_rate > 0:
        raise UserError(f"optimizer.learning_rate={learning_rate}: set it above 0")
    if not 0 <= decay <= 1:
        raise UserError(f"optimizer.decay={decay}: set it in [0, 1]")
    if not 0 <= warmup_epochs < epochs:
        raise UserError(
            f"optimizer.warmup_epochs={warmup_epochs}, but train.epochs={epochs}: "
            f"set it from 0 to {epochs - 1}"
        )


def _check_restarts(
    epochs: Sequence[int], rates: Sequence[float], warmup_epochs: int, end: int
) -> None:
    if len(epochs) != len(rates):
        raise UserError(
            f"optimizer.restart_epochs={tuple(epochs)}, but optimizer.restart_rates="
            f"{tuple(rates)}: give each epoch one rate"
        )
    bounds = (warmup_epochs, *epochs, end)
    if any(after <= before for before, after in pairwise(bounds)):
        raise UserError(
            f"optimizer.restart_epochs={tuple(epochs)}: give epochs in rising order, "
            f"after optimizer.warmup_epochs={warmup_epochs} and before "
            f"train.epochs={end}"
        )
    if not all(rate > 0 for rate in rates):
        raise UserError(f"optimizer.restart_rates={tuple(rates)}: set them above 0")
