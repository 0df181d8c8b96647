"""One device's share of a training step: a free function, mapped by a runner."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from invariance_propagation import parallel
from invariance_propagation.data.augment import per_image_keys
from invariance_propagation.methods.base import Batch, Method
from invariance_propagation.train_state import TrainState


def train_step(
    state: TrainState,
    indices: jax.Array,
    images: jax.Array,
    *,
    encoder: nn.Module,
    method: Method,
    optimizer: optax.GradientTransformation,
    pick: Callable[[jax.Array, jax.Array], jax.Array],
    view: Callable[[jax.Array, jax.Array], jax.Array],
    seed: int,
    steps_per_epoch: int,
    axis_name: str | None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Takes one step.

    The loss reads the old bank and graph; both are then updated with what this
    pass found, the bank with the embeddings from before the parameter update.

    Args:
      state: as it was.
      indices: int32 [b], this device's images.
      images: what `pick` takes.
      encoder: returns `Outputs(features, embedding)`.
      method: what to minimise and remember.
      optimizer: of the encoder's parameters.
      pick: (images, indices) -> uint8 [b, H, W, C], this device's images.
      view: (keys [b], uint8 [b, H, W, C]) -> float32 views.
      seed: with epoch and index it determines each view.
      steps_per_epoch: N // B.
      axis_name: the device axis, or None for one device.

    Returns:
      The next state and scalar metrics, averaged over all images of the step.
    """
    epoch = state.step // steps_per_epoch
    keys = per_image_keys(seed, epoch, indices)
    batch = Batch(view(keys, pick(images, indices)), indices)
    step_key = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = method.prepare(step_key, batch)

    def mean_loss(params):
        outputs, updates = encoder.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.images,
            train=True,
            mutable=["batch_stats"],
        )
        loss, aux = method.loss(outputs, batch, state.memory, state.step)
        # The mean inside and outside of the gradient: right in every runner.
        loss = parallel.pmean(loss.mean(), axis_name)
        return loss, (outputs, updates["batch_stats"], aux)

    gradient = jax.value_and_grad(mean_loss, has_aux=True)
    (loss, (outputs, batch_stats, aux)), grads = gradient(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    metrics = {
        "loss": loss,
        **parallel.pmean(aux.metrics, axis_name),
        "similarity": mean_similarity(outputs.embedding, axis_name=axis_name),
        "gradient_norm": optax.tree.norm(grads),
    }
    # A step that is not finite ends the run, and leaves zeros.
    outputs, found = zero_unless_finite((outputs, aux.found), metrics)
    aux = aux._replace(found=found)
    memory = method.update_memory(state.memory, outputs, batch, aux, state.step)
    state = TrainState(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        # Each device has followed the blocks of images that it has a part in.
        batch_stats=parallel.pmean(batch_stats, axis_name),
        opt_state=opt_state,
        memory=memory,
    )
    return state, metrics


def mean_similarity(embeddings: jax.Array, *, axis_name: str | None) -> jax.Array:
    """Measures how alike embeddings are: the mean cosine of all pairs of a batch.

    Args:
      embeddings: float [b, d], this device's rows, all of about one length.
      axis_name: the device axis, or None for one device.

    Returns:
      A scalar: 1 if all rows are the same, about 1 / B for B directions at random (the
      pairs include each row with itself), 0 if all rows are zero.
    """
    center = parallel.pmean(embeddings.mean(axis=0), axis_name)
    square = parallel.pmean(jnp.square(embeddings).sum(axis=1).mean(), axis_name)
    least = jnp.finfo(square.dtype).tiny
    return jnp.square(center).sum() / jnp.maximum(square, least)


def zero_unless_finite(tree: Any, values: Any) -> Any:
    """`tree`, or zeros if a number in `values` is not finite.

    What is then written into a bank depends on `values`. If they came from all that
    was read of it, XLA writes in place; it would write into a copy otherwise.
    """
    finite = jnp.all(
        jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(values)])
    )
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)
