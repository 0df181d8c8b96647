"""What a run consists of, once its config has been read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from invariance_propagation.data import sources
from invariance_propagation.data.load.feed import Feed
from invariance_propagation.devices.runner import Runner
from invariance_propagation.evaluation.features import Embed
from invariance_propagation.methods import Method
from invariance_propagation.train.options import KnnOptions, TrainOptions
from invariance_propagation.train.state import TrainState


class Programs(NamedTuple):
    """What a run is about to compile, and the abstract arguments of a step.

    Attributes:
      state, indices, images, columns: of jax.ShapeDtypeStruct, on their devices.
      create_network: makes parameters, statistics and the optimiser's state.
      create_memory: makes the memory.
      step: a training step.
    """

    state: TrainState
    indices: jax.ShapeDtypeStruct
    images: Any
    columns: dict[str, jax.ShapeDtypeStruct]
    create_network: jax.stages.Lowered
    create_memory: jax.stages.Lowered
    step: jax.stages.Lowered


class Run(NamedTuple):
    """The parts of a run, bound to each other and to the devices.

    Attributes:
      dataset: with the training images that the memory is indexed by.
      runner: maps functions over the devices.
      method: what is trained.
      spec: where each part of the state lies.
      init: (start: (params, batch_stats) on the host, in place of those of the same
        name, or None) -> TrainState, placed.
      lower: () -> Programs; allocates nothing.
      step: (state, *what `feed` yields) -> (state, metrics).
      feed: (start=, stop=) -> what each of these steps is given, placed.
      views: (epoch, indices int [n]) -> by group float32 [v, n, size, size, C], what a
        step of that epoch makes of these training images.
      plain_view: uint8 [n, H, W, C] -> float32 [n, size, size, C], without chance.
      chances: options of `augment`, of the method's first group of views.
      embed: (params, batch_stats, uint8 [n, H, W, C]) -> Outputs on the host.
      schedule: step -> learning rate.
      steps_per_epoch: N // B, of the N that the run began with.
      options: the section `train`.
      knn: the section `knn`, its K a number.
      seed: of weights, order and augmentation.
    """

    dataset: sources.Dataset
    runner: Runner
    method: Method
    spec: TrainState
    init: Callable[..., TrainState]
    lower: Callable[[], Programs]
    step: Callable
    feed: Callable[..., Feed]
    views: Callable[[int, np.ndarray], dict[str, jax.Array]]
    plain_view: Callable[[jax.Array], jax.Array]
    chances: dict[str, Any]
    embed: Embed
    schedule: optax.Schedule
    steps_per_epoch: int
    options: TrainOptions
    knn: KnnOptions
    seed: int

    @property
    def num_examples(self) -> int:
        return len(self.dataset.train.images)

    @property
    def total_steps(self) -> int:
        return self.options.epochs * self.steps_per_epoch

    @property
    def has_labels(self) -> bool:
        return self.dataset.train.labels is not None

    @property
    def has_knn(self) -> bool:
        held_out = self.dataset.held_out
        return self.has_labels and held_out is not None and held_out.labels is not None
