"""A run: the parts that a config describes, and what can be made from them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr

from invariance_propagation.data import sources
from invariance_propagation.data.load.feed import Input, ViewGroup
from invariance_propagation.data.views import augment
from invariance_propagation.devices.runner import Runner
from invariance_propagation.evaluation.features import Embed
from invariance_propagation.methods import Batch, Method
from invariance_propagation.parallel import REPLICATED, SHARDED
from invariance_propagation.train.options import KnnOptions, TrainOptions
from invariance_propagation.train.step import TrainState


class Run(NamedTuple):
    """Holds the parts of a run.

    Attributes:
      dataset: its training images are the rows of the memory.
      runner: maps functions over the devices.
      method: the loss and the memory.
      optimizer: updates the encoder's parameters.
      schedule: step -> learning rate.
      spec: which parts of the state are sharded.
      input: where a step's images come from; `input.feed(start=, stop=)` yields the
        arguments of `step` after the state.
      looks: how the views of each group are made.
      example: shapes of a batch of one image, as `forward` takes it.
      step: (state, indices, images, columns) -> (state, metrics), compiled when it is
        first called; donates the state.
      embed: (params, batch_stats, uint8 [n, H, W, C]) -> Outputs on the host, likewise.
      steps_per_epoch: N // B, for the N that the run began with.
      options: the section `train`.
      knn: the section `knn`, with a number for K.
      seed: determines weights, order and augmentation.
    """

    dataset: sources.Dataset
    runner: Runner
    method: Method
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    spec: TrainState
    input: Input
    looks: Mapping[str, ViewGroup]
    example: Batch
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    embed: Embed
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
    def chances(self) -> Mapping[str, Any]:
        """The options of `augment` for the first group of views."""
        return next(iter(self.looks.values())).chances

    @property
    def gathers(self) -> bool:
        """Returns whether one host may hold all rows of the memory."""
        return self.options.gather_checkpoints

    @property
    def has_labels(self) -> bool:
        return self.dataset.train.labels is not None

    @property
    def has_knn(self) -> bool:
        held_out = self.dataset.held_out
        labelled = held_out is not None and held_out.labels is not None
        return self.has_labels and labelled and self.has_voters

    @property
    def has_voters(self) -> bool:
        """Returns whether kNN has rows to compare with."""
        return self.knn.embed_anew or self.kept_rows != ""

    @property
    def kept_rows(self) -> str:
        """Returns where in the memory kNN finds rows; '' if it finds none on one host."""
        return self.method.notes.rows if self.gathers else ""


class Programs(NamedTuple):
    """Holds what a run compiles, and the abstract arguments of a step.

    Attributes:
      state, indices, images, columns: jax.ShapeDtypeStruct, placed on the devices.
      create_network: makes parameters, statistics and the optimiser's state.
      create_memory: makes the memory.
      step: takes a training step.
      traced: what the step computes, before any compiler sees it.
    """

    state: TrainState
    indices: jax.ShapeDtypeStruct
    images: Any
    columns: dict[str, jax.ShapeDtypeStruct]
    create_network: jax.stages.Lowered
    create_memory: jax.stages.Lowered
    step: jax.stages.Lowered
    traced: ClosedJaxpr


def init_state(run: Run, start: tuple[dict, dict] | None = None) -> TrainState:
    """Makes the state before the first step, on the devices.

    Args:
      run: the run.
      start: (params, batch_stats) on the host that replace random weights of the same
        name. A method with heads of its own ignores other heads.
    """
    runner, method = run.runner, run.method
    params_key, memory_key = _keys(run)
    network = runner.create(partial(_init_network, run), REPLICATED, params_key)
    if start is not None:
        network = _with_weights(run, network, start)
    _, params, batch_stats, _ = network
    variables = {"params": params, "batch_stats": batch_stats}
    variables = runner.fetch(variables, REPLICATED, 0)
    memory = runner.create(
        method.init_memory, method.memory_spec, memory_key, variables
    )
    if method.begin is not None:
        images = run.dataset.train.images
        memory = runner.fetch(memory, method.memory_spec, run.num_examples)
        memory = method.begin(memory, lambda: run.embed(params, batch_stats, images))
        memory = runner.put(memory, method.memory_spec)
    return TrainState(*network, memory)


def state_shapes(run: Run) -> TrainState:
    """Returns the state as jax.ShapeDtypeStruct in global shapes; computes nothing."""
    params_key, memory_key = _keys(run)
    network = jax.eval_shape(partial(_init_network, run), params_key)
    variables = {"params": network[1], "batch_stats": network[2]}
    memory = jax.eval_shape(run.method.init_memory, memory_key, variables)
    return TrainState(*network, memory)


def lower(run: Run) -> Programs:
    """Traces everything that a run compiles; allocates nothing on the devices."""
    runner, method = run.runner, run.method
    params_key, memory_key = _keys(run)
    state = state_shapes(run)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    column = jax.ShapeDtypeStruct((run.options.batch_size,), jnp.int32)
    columns = dict.fromkeys(method.requires.columns, column)
    arguments = (
        runner.abstract(state, run.spec),
        *runner.abstract_batch(
            (column, run.input.shapes, columns), (SHARDED, run.input.spec, SHARDED)
        ),
    )
    create_network = runner.creator(partial(_init_network, run), REPLICATED)
    create_memory = runner.creator(method.init_memory, method.memory_spec)
    return Programs(
        *arguments,
        create_network.lower(params_key),
        create_memory.lower(memory_key, variables),
        run.step.lower(*arguments),
        jax.make_jaxpr(run.step)(*arguments),
    )


def views_of(run: Run, epoch: int, indices: np.ndarray) -> dict[str, jax.Array]:
    """Makes the views that a step of an epoch trains on.

    Args:
      run: the run.
      epoch: counted from 0.
      indices: int [n], rows of the training set.

    Returns:
      By group, float32 [v, n, size, size, C].
    """
    keys = augment.per_image_keys(run.seed, epoch, jnp.asarray(indices))
    return jax.jit(run.input.views)(keys, run.input.read(epoch, indices))


def plain_view(chances: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Makes the view for evaluation, without randomness.

    Args:
      chances: options of `augment`.
      images: uint8 [n, H, W, C].

    Returns:
      float32 [n, size, size, C].
    """
    names = ("size", "mean", "std")
    return augment.normalize(images, **{name: chances[name] for name in names})


def init_variables(method: Method, example: Batch, key: jax.Array) -> dict[str, Any]:
    """Draws params and batch_stats of an encoder from a typed key.

    Args:
      method: with the encoder.
      example: shapes of a batch of one image.
      key: decides the random numbers.
    """

    def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.split(jax.random.key(0), x.shape)
        return jnp.zeros(x.shape, x.dtype)

    batch = jax.tree.map(fill, example)
    variables = method.encoder.init(key, batch, train=False, method=method.forward)
    return {name: variables.get(name, {}) for name in ("params", "batch_stats")}


def _init_network(run: Run, key: jax.Array) -> tuple[jax.Array, Any, Any, Any]:
    variables = init_variables(run.method, run.example, key)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return jnp.int32(0), params, batch_stats, run.optimizer.init(params)


def _with_weights(run: Run, network: tuple, start: tuple[dict, dict]) -> tuple:
    step, params, batch_stats, opt_state = network
    new = run.runner.put(start, (REPLICATED, REPLICATED))
    params, batch_stats = (
        old | {name: x for name, x in weights.items() if name in old}
        for old, weights in zip((params, batch_stats), new, strict=True)
    )
    return step, params, batch_stats, opt_state


def _keys(run: Run) -> tuple[jax.Array, jax.Array]:
    params_key, memory_key = jax.random.split(jax.random.key(run.seed))
    return params_key, memory_key
