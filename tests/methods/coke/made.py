"""A small problem for CoKe: what a network could find, without a network."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.methods import Batch, Method, Moment, Problem
from invariance_propagation.methods.coke import Memory, coke
from invariance_propagation.methods.coke.memory import Outputs
from invariance_propagation.methods.coke.network import Encoded
from invariance_propagation.models import Encoder
from tests.reference import coke as oracle

N, B, DIM, SIZES = 35, 8, 6, (5, 9)  # three images wait for another epoch
STEPS_PER_EPOCH = N // B
OPTIONS = {
    "views": "two",
    "num_small": 3,
    "num_clusters": SIZES,
    "least_size": 0.4,
    "dual_rate": 0.5,
    "temperature": 0.1,
    "prediction_weight": 0.7,
    "average_from": 801,
    "num_slots": 5,
    "slot_temperature": 0.5,
    "hard_weight": 0.2,
    "large_weight": 0.6,
}


def make_method(axis_name: str | None = None, **changes: Any) -> Method:
    encoder = Encoder(backbone=None, head="linear", hidden=4, dim=DIM)
    problem = Problem(
        encoder,
        num_examples=N,
        batch_size=B,
        steps_per_epoch=STEPS_PER_EPOCH,
        axis_name=axis_name,
    )
    return coke(problem=problem, **OPTIONS | changes)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def passes(
    epochs: int, *, views: int, small: int = 0, seed: int = 0
) -> Iterator[oracle.Step]:
    """Yields the batches of some epochs: noisy unit vectors around one for each image."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(size=(N, DIM))

    def near(indices: np.ndarray, count: int) -> np.ndarray:
        noise = rng.normal(size=(count, len(indices), DIM))
        return unit(middle[indices] + 0.7 * noise)

    for _ in range(epochs):
        order = rng.permutation(N)[: STEPS_PER_EPOCH * B].astype(np.int32)
        for indices in order.reshape(-1, B):
            yield oracle.Step(
                indices,
                near(indices, views),
                near(indices, views),
                near(indices, small) if small else None,
                near(indices, small) if small else None,
            )


def outputs_of(batch: oracle.Step) -> Outputs:
    large = Encoded(jnp.asarray(batch.p), jnp.asarray(batch.q))
    if batch.small_p is None:
        return Outputs(large)
    return Outputs(
        large, Encoded(jnp.asarray(batch.small_p), jnp.asarray(batch.small_q))
    )


def take_step(
    method: Method, memory: Memory, outputs: Outputs, indices: Any, step: Any
) -> tuple[Memory, Any, dict[str, Any]]:
    """Does with the memory what a training step does: loss, update, refresh."""
    moment = Moment(step, step // STEPS_PER_EPOCH, jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), len(indices))
    batch = Batch(indices, views={}, columns={}, keys=keys)
    losses, aux = method.loss(outputs, batch, memory, moment)
    memory = method.update(memory, outputs, batch, aux, {}, moment)
    memory = jax.lax.cond(
        (step + 1) % method.refresh_every == 0,
        lambda memory: method.refresh(memory, moment),
        lambda memory: memory,
        memory,
    )
    return memory, losses, aux.metrics
