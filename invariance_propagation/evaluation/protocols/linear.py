"""Linear probe: a head learns to classify frozen features, by SGD on the devices."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from invariance_propagation import parallel
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import TrainingError
from invariance_propagation.evaluation.protocols.classifier import (
    Head,
    mean_cross_entropy,
)
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED

# Few enough for the bar to tell the truth, many enough for no step to wait.
STEPS_AHEAD = 16


class ProbeState(NamedTuple):
    """step int32 [], the head's parameters, the optimiser's state."""

    step: jax.Array
    params: dict
    opt_state: Any


def probe_step(
    state: ProbeState,
    variables: Any,
    labels: jax.Array,
    indices: jax.Array,
    images: jax.Array,
    *,
    look: Callable[..., jax.Array],
    head: Head,
    optimizer: optax.GradientTransformation,
    batch_size: int | None,
    axis_name: str | None,
) -> tuple[ProbeState, jax.Array]:
    """One device's share of a step.

    Args:
      state: as it was.
      variables: what `look` needs.
      labels: int32 [N], of all images.
      indices: int32 [b], this device's images.
      images: what `look` takes.
      look: (variables, images, indices, step) -> features float32 [b, F]; frozen.
      head: classifies them.
      optimizer: of the head's parameters.
      batch_size: B; rows beyond these pad what the devices hold together. None: there
        are none.
      axis_name: the device axis, or None for one device.

    Returns:
      The next state, and the mean loss.
    """
    features = look(variables, images, indices, state.step)
    weights = parallel.row_weights(len(indices), batch_size, axis_name)

    def mean_loss(params):
        logits = head.apply({"params": params}, features)
        loss = mean_cross_entropy(logits, labels[indices], weights)
        # The mean inside and outside of the gradient: right in every runner.
        return parallel.pmean(loss, axis_name)

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    grads = parallel.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return ProbeState(state.step + 1, params, opt_state), loss


def make_probe(
    runner: Runner,
    look: Callable[..., jax.Array],
    *,
    head: Head,
    num_features: int,
    optimizer: optax.GradientTransformation,
    spec: Any,
    batch_size: int | None = None,
) -> Callable[..., dict]:
    """Compiles the training of a head.

    Args:
      runner: maps the step over devices.
      look, head, optimizer: as for `probe_step`.
      num_features: F.
      spec: where the images lie.
      batch_size: as for `probe_step`.

    Returns:
      (given, variables, labels int32 [N], seed) -> the head's parameters after all
      that is given: for each step its indices int32 [B] and images, placed. `seed` is
      that of the first weights. It raises TrainingError for a loss that is not finite.
    """

    def init(key: jax.Array) -> ProbeState:
        params = head.init(key, jnp.zeros((1, num_features)))["params"]
        return ProbeState(jnp.int32(0), params, optimizer.init(params))

    own = {"look": look, "head": head, "optimizer": optimizer}
    step = runner.compile(
        partial(probe_step, **own, batch_size=batch_size, axis_name=AXIS),
        (REPLICATED, REPLICATED, REPLICATED, SHARDED, spec),
        (REPLICATED, REPLICATED),
        donate=(0,),
    )
    create = runner.creator(init, REPLICATED)

    def train(
        given: Iterable[tuple], variables: Any, labels: np.ndarray, seed: int
    ) -> dict:
        state = create(jax.random.key(seed))
        fixed = runner.put((variables, labels), (REPLICATED, REPLICATED))
        return run_steps(step, state, fixed, given).params

    return train


def run_steps(
    step: Callable, state: Any, fixed: tuple, given: Iterable[tuple[jax.Array, ...]]
) -> Any:
    """`state, loss = step(state, *fixed, *parts)` for all that is given.

    Returns:
      The last state, on the host.

    Raises:
      TrainingError: the last loss is not finite; after one that was not, none is.
    """
    loss = jnp.float32(0)
    for number, parts in enumerate(given):
        state, loss = step(state, *fixed, *parts)
        if number % STEPS_AHEAD == 0:
            jax.block_until_ready(loss)
    if not jnp.isfinite(loss):
        raise TrainingError(
            f"the loss of the classifier is {loss}: set a smaller learning_rate in the "
            "section of this protocol"
        )
    return jax.device_get(state)
