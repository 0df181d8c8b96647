"""A network, a data set and a run small enough to compile in a second or two."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from invariance_propagation import devices, parallel
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.views.augment import augment
from invariance_propagation.methods import Method, Problem
from invariance_propagation.methods.invariance_propagation import invariance_propagation
from invariance_propagation.models.encoder import Encoder
from invariance_propagation.models.norm import BatchNorm
from invariance_propagation.optimizer import make_optimizer
from invariance_propagation.train.step import TrainState, state_spec, train_step

NUM_EXAMPLES = 93  # not a multiple of any number of devices but 1
BATCH_SIZE = 16
STEPS_PER_EPOCH = NUM_EXAMPLES // BATCH_SIZE
# Options of Invariance Propagation.
METHOD = {
    "num_neighbors": 3,
    "num_hops": 2,
    "num_hard": 6,
    "background_size": 40,
    "temperature": 0.2,
    "form": "paper",
    "positives": "hard",
    "selection": "exact",
    "precision": "highest",
    "bank_momentum": 0.5,
    "bank_start": "uniform",
    "propagation_weight": 0.6,
    "start": "epoch",
    "start_epoch": 1,
    "start_overlap": 0.05,
    "ramp": "binary",
}


class TinyBackbone(nn.Module):
    """One convolution and BatchNorm, over all devices if they have an axis."""

    axis_name: str | None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        x = nn.Conv(8, (3, 3), strides=2, use_bias=False, padding=1)(images)
        norm = BatchNorm(not train, axis_name=self.axis_name)
        # Smooth: at ReLU's kink, devices that differ in the last bit part ways.
        return nn.gelu(norm(x, mask)).mean(axis=(1, 2))


class Parts(NamedTuple):
    """Holds everything that a test needs to take steps in any runner."""

    method: Method
    spec: TrainState
    init: Any
    step: Any
    images: np.ndarray


def pictures() -> np.ndarray:
    """Returns uint8 [N, 8, 8, 1]: noisy variants of three images."""
    random = np.random.default_rng(0)
    kinds = random.integers(40, 200, size=(3, 8, 8, 1))
    noise = random.integers(-40, 40, size=(NUM_EXAMPLES, 8, 8, 1))
    kind = np.arange(NUM_EXAMPLES) % 3
    return np.clip(kinds[kind] + noise, 0, 255).astype(np.uint8)


def problem_of(
    encoder: Any, axis_name: str | None, *, num_examples: int = NUM_EXAMPLES
) -> Problem:
    """Returns the problem that methods are made for here."""
    return Problem(
        encoder=encoder,
        num_examples=num_examples,
        batch_size=BATCH_SIZE,
        steps_per_epoch=STEPS_PER_EPOCH,
        axis_name=axis_name,
    )


def make_parts(
    axis_name: str | None,
    *,
    view: Any = None,
    num_examples: int = NUM_EXAMPLES,
    dim: int = 8,
    **options: Any,
) -> Parts:
    """Makes one device's functions; `options` change the method."""
    encoder = Encoder(TinyBackbone(axis_name), "linear", dim=dim)
    problem = problem_of(encoder, axis_name, num_examples=num_examples)
    method = invariance_propagation(**(METHOD | options), problem=problem)
    _, optimizer = make_optimizer(
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        milestones=(),
        decay=0.1,
        warmup_epochs=0,
        epochs=8,
        steps_per_epoch=STEPS_PER_EPOCH,
    )
    view = view or partial(
        augment,
        size=8,
        crop_scale=(0.5, 1.0),
        flip=0.5,
        jitter=(),
        jitter_probability=0.0,
        grayscale=0.0,
        blur=0.0,
        mean=(0.5,),
        std=(0.25,),
    )

    def init(key: jax.Array) -> TrainState:
        images = jnp.zeros((1, 8, 8, 1))
        variables = encoder.init(key, images, train=False)
        params = variables["params"]
        return TrainState(
            jnp.int32(0),
            params,
            variables["batch_stats"],
            optimizer.init(params),
            method.init_memory(jax.random.fold_in(key, 1), variables),
        )

    step = partial(
        train_step,
        method=method,
        optimizer=optimizer,
        pick=lambda images, indices: images[indices],
        views=lambda keys, images: {"view": view(keys, images)[None]},
        seed=0,
        steps_per_epoch=STEPS_PER_EPOCH,
        axis_name=axis_name,
    )
    return Parts(method, state_spec(method.memory_spec), init, step, pictures())


def batches(num_steps: int) -> list[np.ndarray]:
    """Returns the int32 [B] indices of the first `num_steps` steps."""
    epochs = range(-(-num_steps // STEPS_PER_EPOCH))
    order = [
        epoch_order(
            seed=0, epoch=epoch, num_examples=NUM_EXAMPLES, batch_size=BATCH_SIZE
        )
        for epoch in epochs
    ]
    return list(np.concatenate(order)[:num_steps])


def start(runner: devices.Runner, parts: Parts) -> tuple[Any, TrainState]:
    """Returns the mapped step, which donates its state, and the first state."""
    step = runner.compile(
        parts.step,
        (parts.spec, parallel.SHARDED, parallel.REPLICATED, parallel.SHARDED),
        (parts.spec, parallel.REPLICATED),
        donate=(0,),
    )
    return step, runner.create(parts.init, parts.spec, jax.random.key(0))


def run_mapped(
    mode: str, num_devices: int, num_steps: int, **options: Any
) -> tuple[TrainState, list[dict[str, float]]]:
    """Takes steps with a runner; the state comes back in global shapes."""
    runner = devices.make_runner(mode, num_devices)
    parts = make_parts(parallel.AXIS, **options)
    step, state = start(runner, parts)
    images = runner.put(parts.images, parallel.REPLICATED)
    metrics = []
    for indices in batches(num_steps):
        placed = runner.put(indices, parallel.SHARDED)
        with jax.transfer_guard("disallow"):
            state, found = step(state, placed, images, {})
        metrics.append({name: float(x) for name, x in found.items()})
    return runner.fetch(state, parts.spec, NUM_EXAMPLES), metrics
