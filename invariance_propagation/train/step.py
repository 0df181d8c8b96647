"""One training step on one device, and the state that it reads and writes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from invariance_propagation import parallel
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.methods.base import Batch, Memory, Method, Moment


class TrainState(NamedTuple):
    """Holds everything that a step reads and writes: arrays only.

    There is no random state: randomness is a function of (seed, epoch, image).

    Attributes:
      step: int32 [], the number of steps taken.
      params: parameters of the encoder, replicated.
      batch_stats: running statistics of BatchNorm, averaged over devices.
      opt_state: state of the Optax optimiser.
      memory: the method's memory; arrays with one row per image are sharded.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    memory: Any


def state_spec(memory_spec: Any) -> TrainState:
    """Returns which parts of the state are replicated and which are sharded."""
    whole = parallel.REPLICATED
    return TrainState(whole, whole, whole, whole, memory_spec)


def train_step(
    state: TrainState,
    indices: jax.Array,
    images: Any,
    columns: dict[str, jax.Array],
    *,
    method: Method,
    optimizer: optax.GradientTransformation,
    pick: Callable[[Any, jax.Array], Any],
    views: Callable[[jax.Array, Any], dict[str, jax.Array]],
    seed: int,
    steps_per_epoch: int,
    axis_name: str | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step.

    The loss reads the old memory. The method then updates the memory from what this
    pass found: from the outputs before the parameter update, and the variables after
    it.

    Args:
      state: before the step.
      indices: int32 [b], rows of the training set, this device's share of the batch.
      images: the input of `pick`.
      columns: by name, int32 [b], facts about these images.
      method: the loss and the memory.
      optimizer: updates the encoder's parameters.
      pick: (images, indices) -> this device's images, as `views` takes them.
      views: (keys [b], images) -> by group, float32 [v, b, size, size, C].
      seed: determines each view, together with epoch and index.
      steps_per_epoch: N // B.
      axis_name: the device axis, or None for a single device.

    Returns:
      The next state, and scalar metrics, averaged over all images of the step.
    """
    moment = moment_of(state.step, seed, steps_per_epoch)
    keys = per_image_keys(seed, moment.epoch, indices)
    batch = Batch(indices, views(keys, pick(images, indices)), columns, keys)
    batch = method.prepare(batch, moment)

    def mean_loss(params):
        outputs, updates = method.encoder.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch,
            train=True,
            mutable=["batch_stats"],
            method=method.forward,
        )
        loss, aux = method.loss(outputs, batch, state.memory, moment)
        # The mean is taken inside and outside of the gradient: right in every runner.
        loss = parallel.pmean(loss.mean(), axis_name)
        return loss, (outputs, updates.get("batch_stats", {}), aux)

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (outputs, batch_stats, aux)), grads = gradient(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Each device has only seen its groups of images.
    batch_stats = parallel.pmean(batch_stats, axis_name)
    metrics = {
        "loss": loss,
        **parallel.pmean(aux.metrics, axis_name),
        "gradient_norm": optax.tree.norm(grads),
    }
    # A step that is not finite ends the run. Until the host notices, `update` gets
    # zeros, so that no NaN reaches the memory.
    outputs, found = zero_unless_finite((outputs, aux.found), metrics)
    aux = aux._replace(found=found)
    variables = {"params": params, "batch_stats": batch_stats}
    memory = method.update(state.memory, outputs, batch, aux, variables, moment)
    memory = _refresh_if_due(memory, method, moment)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, memory)
    return state, metrics


def moment_of(step: jax.Array, seed: int, steps_per_epoch: int) -> Moment:
    """Returns when the step after `step`, int32 [], steps takes place."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return Moment(step, step // steps_per_epoch, key)


def _refresh_if_due(memory: Memory, method: Method, moment: Moment) -> Memory:
    if not method.refresh_every:
        return memory
    return jax.lax.cond(
        (moment.step + 1) % method.refresh_every == 0,
        lambda memory: method.refresh(memory, moment),
        lambda memory: memory,
        memory,
    )


def zero_unless_finite(tree: Any, values: Any) -> Any:
    """Returns `tree`, or zeros if a number in `values` is not finite.

    This makes what is written into the memory depend on `values`. When `values` were
    computed from everything that is read from the memory, XLA can then write in place;
    otherwise it writes into a copy.
    """
    finite = jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(values)])
    )
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)
