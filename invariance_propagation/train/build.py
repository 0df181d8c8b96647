"""Builds a run from a config, and checks every input."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from invariance_propagation import devices, settings
from invariance_propagation.data import sources
from invariance_propagation.data.load.feed import (
    Facts,
    Input,
    Threads,
    ViewGroup,
    from_host,
    resident,
)
from invariance_propagation.data.load.making import crops_on_host, views_on_host
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.views import augment
from invariance_propagation.data.views.ranges import check_view
from invariance_propagation.devices import processes
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.evaluation.protocols.knn import (
    check_neighbors,
    neighbors_for,
)
from invariance_propagation.files.paths import local
from invariance_propagation.methods import Batch, Method, Moment, Problem, make_method
from invariance_propagation.models import make_encoder
from invariance_propagation.models.norm import check_norm_group, fits_devices
from invariance_propagation.optimizer import make_optimizer
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from invariance_propagation.phases import phase
from invariance_propagation.train.options import (
    KnnOptions,
    TrainOptions,
    check_batch,
    check_options,
)
from invariance_propagation.train.run import Run, init_variables, plain_view
from invariance_propagation.train.step import state_spec, train_step

TOP_LEVEL = ("task", "output", "seed", "weights", "parallel", "num_devices")
TOP_LEVEL += ("augmentation", "views", "topology")
SECTIONS = ("data", "augment", "encoder", "method", "optimizer", "knn", "train")
AUGMENTATIONS = ("device", "host")


def build(
    config: ConfigDict,
    *,
    dataset: sources.Dataset | None = None,
    steps_per_epoch: int | None = None,
    described: Sequence[jax.Device] | None = None,
) -> Run:
    """Checks a config and builds its run.

    Args:
      config: as configs/default.py makes it.
      dataset: the data set of the section `data`, if it has been loaded already.
      steps_per_epoch: of a run that began with another number of images; None means
        N // B.
      described: devices to compile for, which are not here; None for those that are.

    Raises:
      UserError: bad input, in one line that names the fix.
    """
    options, knn = _read_options(config)
    if config.get("topology") and described is None:
        raise UserError(
            f"--config.topology={config.topology!r} is for --config.task=plan alone: "
            "its devices are not here; leave it out"
        )
    if dataset is None:
        dataset = _load(config)
    num_examples = len(dataset.train.images)
    knn = knn._replace(num_neighbors=_votes(knn.num_neighbors, dataset.train))
    check_batch(options, num_examples)
    check_neighbors(knn.num_neighbors, num_examples)
    encoder = settings.call(make_encoder, "encoder", config)
    runner = _make_runner(config, options.batch_size, described)
    problem = Problem(
        encoder=encoder,
        num_examples=num_examples,
        batch_size=options.batch_size,
        steps_per_epoch=steps_per_epoch or num_examples // options.batch_size,
        axis_name=AXIS,
        categories=dataset.train.categories(),
    )
    method = make_method(config, problem)
    _check_requirements(method, dataset)
    looks = make_looks(config, method)
    columns = {name: dataset.train.columns[name] for name in method.requires.columns}
    facts = Facts(config.seed, options.batch_size, problem.steps_per_epoch, columns)
    images = dataset.train.images
    inputs = _make_input(config, images, looks, runner=runner, facts=facts)
    example = _make_example(method, inputs)
    schedule, optimizer = _make_optimizer(config, method, example, problem)
    step = partial(
        train_step, seed=config.seed, steps_per_epoch=problem.steps_per_epoch
    )
    chances = next(iter(looks.values())).chances
    return Run(
        dataset=dataset,
        runner=runner,
        method=method,
        optimizer=optimizer,
        schedule=schedule,
        spec=state_spec(method.memory_spec),
        input=inputs,
        looks=looks,
        example=example,
        step=_map_step(step, runner, method, optimizer, inputs),
        embed=make_embed(runner, method.encoder, partial(plain_view, chances)),
        steps_per_epoch=problem.steps_per_epoch,
        options=options,
        knn=knn,
        seed=config.seed,
    )


def make_looks(config: Mapping[str, Any], method: Method) -> dict[str, ViewGroup]:
    """Reads how the views of each group are made.

    The section `augment` holds the options; `views.GROUP` changes them for a group.

    Raises:
      UserError: an unknown group or option, or a value out of its range.
    """
    bound = ("keys", "images")
    usual = settings.options(augment.augment, "augment", config, bound=bound)
    check_view(usual)
    changes = config.get("views", {})
    settings.check_names(changes, method.requires.views, prefix="views.")
    settings.check_finite(changes, prefix="views.")
    looks = {}
    used = {group: count for group, count in method.requires.views.items() if count}
    for group, count in used.items():
        chances = {**usual, **changes.get(group, {})}
        section = {f"views.{group}": chances}
        settings.options(augment.augment, f"views.{group}", section, bound=bound)
        check_view(chances, section=f"views.{group}")
        looks[group] = ViewGroup(count, chances)
    return looks


def _read_options(config: ConfigDict) -> tuple[TrainOptions, KnnOptions]:
    settings.check_names(config, (*TOP_LEVEL, *SECTIONS))
    options = settings.call(TrainOptions, "train", config)
    knn = settings.call(KnnOptions, "knn", config)
    check_options(options, knn)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: set it from 0 to {2**32 - 1}")
    check_choice("augmentation", config.augmentation, AUGMENTATIONS)
    if config.weights:
        local(config.weights, key="weights")
    return options, knn


def _load(config: ConfigDict) -> sources.Dataset:
    more = {"size": config.augment.size, "seed": config.seed}
    with phase("reading the data") if processes.speaks() else nullcontext():
        return settings.call(sources.load, "data", config, **more)


def _votes(value: int | str, train: sources.Split) -> int:
    num_classes = None if train.labels is None else len(np.unique(train.labels))
    return neighbors_for(value, num_examples=len(train.images), num_classes=num_classes)


def _make_runner(
    config: ConfigDict, batch_size: int, described: Sequence[jax.Device] | None
) -> Runner:
    """Chooses the devices; a CPU is split before JAX starts."""
    norm_group = config.encoder.norm_group or 0
    devices.one_cpu_device_per_core(
        batch_size, fits=partial(fits_devices, norm_group, batch_size=batch_size)
    )
    runner = devices.make_runner(
        config.parallel, config.num_devices, described=described
    )
    if batch_size % runner.num_devices:
        raise UserError(
            f"train.batch_size={batch_size} does not divide over "
            f"{runner.num_devices} devices: set it to a multiple of "
            f"{runner.num_devices}, or num_devices to a divisor of it"
        )
    check_norm_group(norm_group, batch_size=batch_size, num_devices=runner.num_devices)
    return runner


def _check_requirements(method: Method, dataset: sources.Dataset) -> None:
    fewest, count = method.requires.fewest_examples, len(dataset.train.images)
    if count < fewest:
        raise UserError(
            f"the method needs at least {fewest} training images, there are {count}"
        )
    for name in method.requires.columns:
        if name not in dataset.train.columns:
            raise UserError(
                f"the method needs the {name} of each image, which {dataset.name} does "
                "not have: choose another method or data set"
            )


def _make_input(
    config: ConfigDict,
    images: np.ndarray | Pictures,
    looks: Mapping[str, ViewGroup],
    *,
    runner: Runner,
    facts: Facts,
) -> Input:
    """Chooses where views are made: on the devices, or partly or wholly on the host."""
    parts = {"groups": looks, "runner": runner, "facts": facts}
    on_host = config.augmentation == "host"
    if not on_host and not isinstance(images, Pictures):
        return resident(images, **parts)
    threads = Threads(
        config.train.num_threads,
        config.train.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    divide = views_on_host if on_host else crops_on_host
    return from_host(images, **parts, divide=divide, threads=threads)


def _make_example(method: Method, inputs: Input) -> Batch:
    """Returns the shapes of a batch of one image, as `forward` takes it.

    Tracing all views also checks their options.
    """

    def make(images: Any) -> Batch:
        keys = jax.random.split(jax.random.key(0), 1)
        zeros = jnp.zeros(1, jnp.int32)
        columns = dict.fromkeys(method.requires.columns, zeros)
        batch = Batch(zeros, inputs.views(keys, images), columns, keys)
        moment = Moment(jnp.int32(0), jnp.int32(0), jax.random.key(0))
        return method.prepare(batch, moment)

    def of_one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 1, *x.shape[1:]), x.dtype)

    # vmap over one device, because `prepare` may use the device axis.
    one_device = jax.vmap(make, axis_name=AXIS)
    shapes = jax.eval_shape(one_device, jax.tree.map(of_one, inputs.shapes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)


def _map_step(
    step: Callable,
    runner: Runner,
    method: Method,
    optimizer: optax.GradientTransformation,
    inputs: Input,
) -> Callable:
    """Maps the step over the devices; the state is donated."""
    step = partial(
        step,
        method=method,
        optimizer=optimizer,
        pick=inputs.pick,
        views=inputs.views,
        axis_name=AXIS,
    )
    spec = state_spec(method.memory_spec)
    specs = (spec, SHARDED, inputs.spec, SHARDED)
    return runner.compile(step, specs, (spec, REPLICATED), donate=(0,))


def _make_optimizer(
    config: ConfigDict, method: Method, example: Batch, problem: Problem
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    labels = None
    if method.param_groups is not None:
        draw = partial(init_variables, method, example)
        variables = jax.eval_shape(draw, jax.random.key(0))
        labels = method.param_groups(variables["params"])
    return settings.call(
        make_optimizer,
        "optimizer",
        config,
        epochs=config.train.epochs,
        steps_per_epoch=problem.steps_per_epoch,
        labels=labels,
    )
