"""Trains a linear classifier by SGD on all devices, with the backbone or without it."""

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
from invariance_propagation.errors import TrainingError
from invariance_propagation.evaluation.classifier.head import Head, mean_cross_entropy
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED

# Few enough for the progress bar to be right, many enough that no step waits.
STEPS_AHEAD = 16
# (params, batch_stats, frozen, views, **rows) -> features float32 [b, F] and the new
# batch_stats. `params` and `batch_stats` learn, `frozen` does not.
Extract = Callable[..., tuple[jax.Array, dict]]


class FitState(NamedTuple):
    """Holds everything that a step changes.

    Attributes:
      step: int32 [], counted from 0.
      params: by part, 'head' and, where the backbone learns, 'backbone'.
      batch_stats: of a backbone that learns.
      opt_state: of the optimiser.
    """

    step: jax.Array
    params: dict
    batch_stats: dict
    opt_state: Any


def frozen_features(backbone: nn.Module) -> Extract:
    """Computes features with the variables in `frozen`, in evaluation mode."""

    def extract(params, batch_stats, frozen, views, **rows):
        del params, rows
        return backbone.apply(frozen, views, train=False), batch_stats

    return extract


def learnt_features(backbone: nn.Module) -> Extract:
    """Computes features with the parameters that learn, with BatchNorm in training."""

    def extract(params, batch_stats, frozen, views, **rows):
        del frozen
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        features, updates = backbone.apply(
            variables, views, train=True, **rows, mutable=["batch_stats"]
        )
        return features, updates.get("batch_stats", {})

    return extract


def fit_step(
    state: FitState,
    frozen: dict,
    labels: jax.Array,
    seed: jax.Array,
    indices: jax.Array,
    images: jax.Array,
    *,
    view: Callable[..., jax.Array],
    extract: Extract,
    head: Head,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    axis_name: str | None,
) -> tuple[FitState, jax.Array]:
    """Takes one step on this device's share of a batch.

    Args:
      state: the state before the step.
      frozen: variables of a backbone that does not learn.
      labels: int32 [N], of all images.
      seed: int32 [], decides the views.
      indices: int32 [b], this device's images.
      images: the input of `view`.
      view: (seed, images, indices, step) -> the input of the backbone, [b, ...].
      extract: see `Extract`; where rows pad the batch it also gets `mask`, bool [b],
        False for these rows.
      head: classifies the features.
      optimizer: updates all of `state.params`.
      batch_size: B. Further rows, which make the devices' shares equal, are ignored.
        None: there are none.
      axis_name: the device axis, or None for one device.

    Returns:
      The next state, and the mean loss, float32 [].
    """
    views = view(seed, images, indices, state.step)
    weights = parallel.row_weights(len(indices), batch_size, axis_name)
    held = len(indices) * parallel.axis_size(axis_name)
    padded = batch_size is not None and batch_size < held
    rows = {"mask": weights > 0} if padded else {}

    def mean_loss(params):
        features, batch_stats = extract(
            params, state.batch_stats, frozen, views, **rows
        )
        logits = head.apply({"params": params["head"]}, features)
        loss = mean_cross_entropy(logits, labels[indices], weights)
        # The mean inside and outside of the gradient: right in every runner.
        return parallel.pmean(loss, axis_name), batch_stats

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, batch_stats), grads = gradient(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = FitState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=parallel.pmean(batch_stats, axis_name),
        opt_state=opt_state,
    )
    return state, loss


def make_fit(
    runner: Runner,
    extract: Extract,
    *,
    view: Callable[..., jax.Array],
    head: Head,
    num_features: int,
    optimizers: dict[str, optax.GradientTransformation],
    spec: Any,
    batch_size: int | None = None,
) -> Callable[..., FitState]:
    """Compiles the training of a classifier.

    Args:
      runner: maps the step over devices.
      extract, view, head, batch_size: as for `fit_step`.
      num_features: F.
      optimizers: for each part that learns: 'head', and 'backbone' if it does too.
      spec: how the images are spread over devices.

    Returns:
      A function (batches, *, labels, seed, params, batch_stats, frozen) -> the last
      state, on the host. `batches` yields the indices int32 [B] and the images of each
      step, placed on the devices; `labels` are int32 [N]; `seed` decides the head's first
      weights and the views. `params` and `batch_stats` are the first variables of a
      backbone that learns, `frozen` those of one that does not; what is left out is
      empty. It raises TrainingError if the loss is not finite.
    """
    optimizer = optax.multi_transform(optimizers, {part: part for part in optimizers})

    def init(key: jax.Array, params: dict, batch_stats: dict) -> FitState:
        new = head.init(key, jnp.zeros((1, num_features)))["params"]
        params = {**params, "head": new}
        return FitState(jnp.int32(0), params, batch_stats, optimizer.init(params))

    options = {"view": view, "extract": extract, "head": head, "optimizer": optimizer}
    step = runner.compile(
        partial(fit_step, **options, batch_size=batch_size, axis_name=AXIS),
        (REPLICATED, REPLICATED, REPLICATED, REPLICATED, SHARDED, spec),
        (REPLICATED, REPLICATED),
        donate=(0,),
    )
    create = runner.creator(init, REPLICATED)

    def fit(
        batches: Iterable[tuple],
        *,
        labels: np.ndarray,
        seed: int,
        params: dict | None = None,
        batch_stats: dict | None = None,
        frozen: dict | None = None,
    ) -> FitState:
        first = {} if params is None else {"backbone": params}
        state = create(jax.random.key(seed), first, batch_stats or {})
        fixed = ({} if frozen is None else frozen, labels, np.int32(seed))
        placed = runner.put(fixed, (REPLICATED, REPLICATED, REPLICATED))
        return _run(step, state, placed, batches)

    return fit


def _run(
    step: Callable, state: FitState, fixed: tuple, batches: Iterable[tuple]
) -> FitState:
    """Takes a step for each batch; returns the last state, on the host.

    Raises:
      TrainingError: the last loss is not finite. Once one is not, no later one is.
    """
    loss = jnp.float32(0)
    for number, batch in enumerate(batches):
        state, loss = step(state, *fixed, *batch)
        if number % STEPS_AHEAD == 0:
            jax.block_until_ready(loss)
    if not jnp.isfinite(loss):
        raise TrainingError(
            f"the loss of the classifier is {loss}: set a smaller learning_rate in the "
            "section of this protocol"
        )
    return jax.device_get(state)
