"""One device's share of a training step: a free function, mapped by a runner."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from invariance_propagation import parallel
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.methods.base import Batch, Memory, Method, Moment
from invariance_propagation.train.state import TrainState


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

    The loss reads the old memory. The method then updates the memory with what this
    pass found: with the outputs from before the parameter update, and the variables
    from after it.

    Args:
      state: as it was.
      indices: int32 [b], this device's images.
      images: what `pick` takes.
      columns: int32 [b] by name, facts about these images.
      method: what to minimise and remember.
      optimizer: of the encoder's parameters.
      pick: (images, indices) -> what `views` takes of this device's images.
      views: (keys [b], images) -> float32 [v, b, size, size, C] by group.
      seed: with epoch and index it determines each view.
      steps_per_epoch: N // B.
      axis_name: the device axis, or None for one device.

    Returns:
      The next state and scalar metrics, averaged over all images of the step.
    """
    epoch = state.step // steps_per_epoch
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    moment = Moment(state.step, epoch, step_key)
    keys = per_image_keys(seed, epoch, indices)
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
        # The mean inside and outside of the gradient: right in every runner.
        loss = parallel.pmean(loss.mean(), axis_name)
        return loss, (outputs, updates.get("batch_stats", {}), aux)

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (outputs, batch_stats, aux)), grads = gradient(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # Each device has followed the blocks of images that it has a part in.
    batch_stats = parallel.pmean(batch_stats, axis_name)
    metrics = {
        "loss": loss,
        **parallel.pmean(aux.metrics, axis_name),
        "gradient_norm": optax.tree.norm(grads),
    }
    # A step that is not finite ends the run, and leaves zeros.
    outputs, found = zero_unless_finite((outputs, aux.found), metrics)
    aux = aux._replace(found=found)
    variables = {"params": params, "batch_stats": batch_stats}
    memory = method.update(state.memory, outputs, batch, aux, variables, moment)
    memory = _refresh_if_due(memory, method, moment)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, memory)
    return state, metrics


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

    What is then written into the memory depends on `values`. If they came from all that
    was read of it, XLA writes in place; it would write into a copy otherwise.
    """
    finite = jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(values)])
    )
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)
