"""Fine-tuning: a backbone and a new head learn from labels, at rates of their own."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from invariance_propagation import parallel
from invariance_propagation.devices.runner import Runner
from invariance_propagation.evaluation.protocols.classifier import (
    Head,
    mean_cross_entropy,
)
from invariance_propagation.evaluation.protocols.linear import run_steps
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED


class TuneState(NamedTuple):
    """step int32 []; params of 'backbone' and 'head'; statistics; the optimiser's."""

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: Any


def finetune_step(
    state: TuneState,
    labels: jax.Array,
    seed: jax.Array,
    indices: jax.Array,
    images: jax.Array,
    *,
    backbone: nn.Module,
    head: Head,
    view: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    axis_name: str | None,
) -> tuple[TuneState, jax.Array]:
    """One device's share of a step.

    Args:
      state: as it was.
      labels: int32 [N], of all images.
      seed: int32 [], of the views.
      indices: int32 [b], this device's images.
      images: what `view` takes.
      backbone: images -> features float32 [b, F], with BatchNorm in training; where
        rows pad the batch, also `mask`, bool [b], for the rows that do not.
      head: classifies them.
      view: (seed, images, indices, step) -> float32 [b, H, W, C].
      optimizer: of all parameters.
      batch_size: B; rows beyond these pad what the devices hold together. None: there
        are none.
      axis_name: the device axis, or None for one device.

    Returns:
      The next state, and the mean loss.
    """
    views = view(seed, images, indices, state.step)
    weights = parallel.row_weights(len(indices), batch_size, axis_name)
    held = len(indices) * parallel.axis_size(axis_name)
    padded = batch_size is not None and batch_size < held
    rows = {"mask": weights > 0} if padded else {}

    def mean_loss(params):
        features, updates = backbone.apply(
            {"params": params["backbone"], "batch_stats": state.batch_stats},
            views,
            train=True,
            **rows,
            mutable=["batch_stats"],
        )
        logits = head.apply({"params": params["head"]}, features)
        loss = mean_cross_entropy(logits, labels[indices], weights)
        # The mean inside and outside of the gradient: right in every runner.
        return parallel.pmean(loss, axis_name), updates.get("batch_stats", {})

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, batch_stats), grads = gradient(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = TuneState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=parallel.pmean(batch_stats, axis_name),
        opt_state=opt_state,
    )
    return state, loss


def make_finetune(
    runner: Runner,
    backbone: nn.Module,
    view: Callable[..., jax.Array],
    *,
    head: Head,
    num_features: int,
    optimizers: dict[str, optax.GradientTransformation],
    spec: Any,
    batch_size: int | None = None,
) -> Callable[..., TuneState]:
    """Compiles the training of backbone and head.

    Args:
      runner: maps the step over devices.
      backbone, view, head: as for `finetune_step`.
      num_features: F.
      optimizers: of 'backbone' and 'head'.
      spec: where the images lie.
      batch_size: as for `finetune_step`.

    Returns:
      (given, params, batch_stats, labels int32 [N], seed) -> the last state, on the
      host; `params` and `batch_stats` are the backbone's, the rest is as for
      `make_probe`.
    """
    optimizer = optax.multi_transform(
        optimizers, {"backbone": "backbone", "head": "head"}
    )

    def init(key: jax.Array, params: dict, batch_stats: dict) -> TuneState:
        new = head.init(key, jnp.zeros((1, num_features)))["params"]
        params = {"backbone": params, "head": new}
        return TuneState(jnp.int32(0), params, batch_stats, optimizer.init(params))

    own = {"backbone": backbone, "head": head, "view": view, "optimizer": optimizer}
    step = runner.compile(
        partial(finetune_step, **own, batch_size=batch_size, axis_name=AXIS),
        (REPLICATED, REPLICATED, REPLICATED, SHARDED, spec),
        (REPLICATED, REPLICATED),
        donate=(0,),
    )
    create = runner.creator(init, REPLICATED)

    def train(
        given: Iterable[tuple],
        params: dict,
        batch_stats: dict,
        labels: np.ndarray,
        seed: int,
    ) -> TuneState:
        state = create(jax.random.key(seed), params, batch_stats)
        fixed = runner.put((labels, np.int32(seed)), (REPLICATED, REPLICATED))
        return run_steps(step, state, fixed, given)

    return train
