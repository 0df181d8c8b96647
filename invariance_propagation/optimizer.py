"""Optax SGD with momentum, decayed as PyTorch does it, and its schedule."""

from collections.abc import Sequence

import optax

from invariance_propagation.errors import UserError

SCHEDULES = ("cosine", "steps")


def make_optimizer(
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    schedule: str,
    milestones: Sequence[int],
    decay: float,
    warmup_epochs: int,
    epochs: int,
    steps_per_epoch: int,
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """SGD whose weight decay joins the gradient before momentum, on all parameters.

    Args:
      learning_rate: its largest value.
      momentum: in [0, 1).
      weight_decay: on all parameters; the released code excepts neither BatchNorm
        nor biases.
      schedule: 'cosine' down to 0 at the last step, or 'steps'.
      milestones: epochs, counted from the start of the run, at which 'steps'
        multiplies the rate by `decay`.
      decay: that factor.
      warmup_epochs: epochs of linear growth from 0 before the schedule.
      epochs: of the whole run, warm-up included.
      steps_per_epoch: N // B.

    Returns:
      The learning rate as a function of the step, and the optimiser.

    Raises:
      UserError: an argument out of its range.

    Source: torch.optim.SGD.
    """
    if schedule not in SCHEDULES:
        raise UserError(
            f"optimizer.schedule={schedule!r}: choose one of {', '.join(SCHEDULES)}"
        )
    if not learning_rate > 0:
        raise UserError(f"optimizer.learning_rate={learning_rate}: set it above 0")
    if not 0 <= momentum < 1:
        raise UserError(f"optimizer.momentum={momentum}: set it in [0, 1)")
    if not weight_decay >= 0:
        raise UserError(f"optimizer.weight_decay={weight_decay}: set it to 0 or above")
    if not 0 <= decay <= 1:
        raise UserError(f"optimizer.decay={decay}: set it in [0, 1]")
    if not 0 <= warmup_epochs < epochs:
        raise UserError(
            f"optimizer.warmup_epochs={warmup_epochs}, but train.epochs={epochs}: "
            f"set it from 0 to {epochs - 1}"
        )
    warmup = warmup_epochs * steps_per_epoch
    if schedule == "cosine":
        rate = optax.cosine_decay_schedule(
            learning_rate, epochs * steps_per_epoch - warmup
        )
    else:
        drops = {epoch * steps_per_epoch - warmup: decay for epoch in milestones}
        rate = optax.piecewise_constant_schedule(learning_rate, drops)
    if warmup:
        rise = optax.linear_schedule(0.0, learning_rate, warmup)
        rate = optax.join_schedules([rise, rate], [warmup])
    return rate, optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(rate, momentum=momentum),
    )
