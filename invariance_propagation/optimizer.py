"""SGD with momentum and weight decay as in PyTorch, LARS, and their learning rate."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax

from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.settings import check_names, keywords_of

SCHEDULES = ("cosine", "steps")
NAMES = ("sgd", "lars")


def make_schedule(
    *,
    learning_rate: float,
    schedule: str,
    milestones: Sequence[int],
    decay: float,
    warmup_epochs: int,
    epochs: int,
    steps_per_epoch: int,
    still_epochs: int = 0,
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
      epochs: length of the whole run, including still epochs, warm-up and restarts.
      steps_per_epoch: N // B.
      still_epochs: epochs at rate 0 before the warm-up, for a memory to fill.
      restart_epochs: epochs, counted from 0, at which the schedule ends and starts
        again. A cosine reaches 0 there.
      restart_rates: the learning rate at each restart.

    Raises:
      UserError: an argument out of its range.
    """
    _check_rate(learning_rate, schedule, decay, still_epochs, warmup_epochs, epochs)
    first = still_epochs + warmup_epochs
    _check_restarts(restart_epochs, restart_rates, first, epochs)
    if any(after <= before for before, after in pairwise((0, *milestones))):
        raise UserError(
            f"optimizer.milestones={tuple(milestones)}: give epochs above 0 in rising order"
        )
    still, warmup = (x * steps_per_epoch for x in (still_epochs, warmup_epochs))
    bounds = [epoch * steps_per_epoch for epoch in (*restart_epochs, epochs)]
    starts = (still + warmup, *bounds[:-1])
    parts, joints = [], []
    if still:
        parts, joints = [optax.constant_schedule(0.0)], [still]
    if warmup:
        parts.append(optax.linear_schedule(0.0, learning_rate, warmup))
        joints.append(still + warmup)
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
    name: str = "sgd",
    trust: float = 0.001,
    groups: Mapping[str, Mapping[str, float]] = {},
    labels: Any = None,
    **schedule: Any,
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Makes SGD, or LARS, that adds weight decay to the gradient before momentum.

    Args:
      momentum: in [0, 1).
      weight_decay: with SGD, applies to all parameters, BatchNorm and biases included, as
        in the authors' code. With LARS, to those of two dimensions or more.
      name: 'sgd', or 'lars' for large batches; see `_scale_to_norms`.
      trust: for 'lars', the length of a step as a share of the parameter's norm.
      groups: by label, what differs for these parameters: `rate`, a factor of the
        learning rate; `momentum`; `weight_decay`.
      labels: a label for each parameter, or for each part of the tree of parameters;
        None if all are alike.
      **schedule: the arguments of `make_schedule`.

    Returns:
      The learning rate as a function of the step, and the optimiser.

    Raises:
      UserError: an argument out of its range.

    Source: torch.optim.SGD; You, Gitman, Ginsburg: "Large Batch Training of
    Convolutional Networks", 2017, arXiv 1708.03888.
    """
    check_choice("optimizer.name", name, NAMES)
    if not trust > 0:
        raise UserError(f"optimizer.trust={trust}: set it above 0")
    rate = make_schedule(**schedule)
    usual = {"rate": 1.0, "momentum": momentum, "weight_decay": weight_decay}
    known = sorted(set(jax.tree.leaves(labels)))
    check_names(groups, known, prefix="optimizer.groups.")
    for label, changes in groups.items():
        check_names(changes, usual, prefix=f"optimizer.groups.{label}.")
    make = partial(_sgd, rate, trust=trust if name == "lars" else None)
    all_alike = make("optimizer", **usual)
    if labels is None:
        return rate, all_alike
    parts = {
        label: make(f"optimizer.groups.{label}", **usual | dict(groups.get(label, {})))
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
    trust: float | None,
) -> optax.GradientTransformation:
    """Makes the optimiser of one group; with `trust`, LARS."""
    if not rate >= 0:
        raise UserError(f"{section}.rate={rate}: set it to 0 or above")
    if not 0 <= momentum < 1:
        raise UserError(f"{section}.momentum={momentum}: set it in [0, 1)")
    if not weight_decay >= 0:
        raise UserError(f"{section}.weight_decay={weight_decay}: set it to 0 or above")
    scaled = schedule if rate == 1.0 else lambda step: rate * schedule(step)
    decay = optax.add_decayed_weights(weight_decay)
    if trust is not None:
        decay = _scale_to_norms(decay, trust)
    return optax.chain(decay, optax.sgd(scaled, momentum=momentum))


def _scale_to_norms(
    decay: optax.GradientTransformation, trust: float
) -> optax.GradientTransformation:
    """Scales each decayed gradient to `trust` times the norm of its parameter.

    Biases, and the scales of BatchNorm, have one dimension: they neither decay nor are
    scaled. `optax.lars` is the same at a constant learning rate; it multiplies by the
    rate before momentum, the authors' code after it (idstcv/CoKe, coke/optimizer.py:43).
    """

    def weights(params: Any) -> Any:
        return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)

    scale = optax.scale_by_trust_ratio(trust_coefficient=trust)
    return optax.masked(optax.chain(decay, scale), weights)


def _check_rate(
    learning_rate: float,
    schedule: str,
    decay: float,
    still_epochs: int,
    warmup_epochs: int,
    epochs: int,
) -> None:
    check_choice("optimizer.schedule", schedule, SCHEDULES)
    if not learning_rate > 0:
        raise UserError(f"optimizer.learning_rate={learning_rate}: set it above 0")
    if not 0 <= decay <= 1:
        raise UserError(f"optimizer.decay={decay}: set it in [0, 1]")
    if not 0 <= still_epochs < epochs:
        raise UserError(
            f"optimizer.still_epochs={still_epochs}, but train.epochs={epochs}: "
            f"set it from 0 to {epochs - 1}"
        )
    after = f" and optimizer.still_epochs={still_epochs}" if still_epochs else ""
    if not 0 <= warmup_epochs < epochs - still_epochs:
        most = epochs - still_epochs - 1
        allowed = f"from 0 to {most}" if most else "to 0"
        raise UserError(
            f"optimizer.warmup_epochs={warmup_epochs}, but train.epochs={epochs}{after}: "
            f"set it {allowed}, or train.epochs to {still_epochs + warmup_epochs + 1} or more"
        )


def _check_restarts(
    epochs: Sequence[int], rates: Sequence[float], first: int, end: int
) -> None:
    if len(epochs) != len(rates):
        raise UserError(
            f"optimizer.restart_epochs={tuple(epochs)}, but optimizer.restart_rates="
            f"{tuple(rates)}: give each epoch one rate"
        )
    bounds = (first, *epochs, end)
    if any(after <= before for before, after in pairwise(bounds)):
        raise UserError(
            f"optimizer.restart_epochs={tuple(epochs)}: give epochs in rising order, "
            f"after the first {first}, of still epochs and warm-up, and before "
            f"train.epochs={end}"
        )
    if not all(rate > 0 for rate in rates):
        raise UserError(f"optimizer.restart_rates={tuple(rates)}: set them above 0")
