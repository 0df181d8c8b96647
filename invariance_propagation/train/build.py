"""From a config to the parts of a run; every check of the input is made here.

Nothing is written. Below this module nobody sees the config.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
from invariance_propagation.devices.runner import Runner
from invariance_propagation.errors import UserError
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
from invariance_propagation.train.options import (
    KnnOptions,
    TrainOptions,
    check_batch,
    check_options,
)
from invariance_propagation.train.run import Programs, Run
from invariance_propagation.train.state import TrainState, state_spec
from invariance_propagation.train.step import train_step

TOP_LEVEL = ("task", "output", "seed", "weights", "parallel", "num_devices")
TOP_LEVEL += ("augmentation", "views")
SECTIONS = ("data", "augment", "encoder", "method", "optimizer", "knn", "train")
AUGMENTATIONS = ("device", "host")


def build(
    config: ConfigDict,
    *,
    dataset: sources.Dataset | None = None,
    steps_per_epoch: int | None = None,
) -> Run:
    """Checks a config and binds its parts.

    Args:
      config: as from configs/default.py.
      dataset: what the section `data` names, where it has been loaded already.
      steps_per_epoch: of a run that began with another number of images; None: N // B.

    Raises:
      UserError: anything the user can mend; one line that names the fix.
    """
    settings.check_names(config, (*TOP_LEVEL, *SECTIONS))
    options = settings.call(TrainOptions, "train", config)
    knn = settings.call(KnnOptions, "knn", config)
    check_options(options, knn)
    if config.augmentation not in AUGMENTATIONS:
        raise UserError(
            f"augmentation={config.augmentation!r}: choose one of "
            f"{', '.join(AUGMENTATIONS)}"
        )
    if config.weights:
        local(config.weights, key="weights")
    own = {"size": config.augment.size, "seed": config.seed}
    if dataset is None:
        dataset = settings.call(sources.load, "data", config, **own)
    images = dataset.train.images
    num_examples = len(images)
    knn = knn._replace(num_neighbors=_votes(knn.num_neighbors, dataset.train))
    check_batch(options, num_examples)
    check_neighbors(knn.num_neighbors, num_examples)

    encoder = settings.call(make_encoder, "encoder", config)
    norm_group = config.encoder.norm_group or 0
    devices.one_cpu_device_per_core(
        options.batch_size,
        fits=partial(fits_devices, norm_group, batch_size=options.batch_size),
    )
    runner = devices.make_runner(config.parallel, config.num_devices)
    if options.batch_size % runner.num_devices:
        raise UserError(
            f"train.batch_size={options.batch_size} does not divide over "
            f"{runner.num_devices} devices: set it to a multiple of "
            f"{runner.num_devices}, or num_devices to a divisor of it"
        )
    check_norm_group(
        norm_group, batch_size=options.batch_size, num_devices=runner.num_devices
    )
    steps_per_epoch = steps_per_epoch or num_examples // options.batch_size
    columns = dataset.train.columns
    problem = Problem(
        encoder=encoder,
        num_examples=num_examples,
        batch_size=options.batch_size,
        steps_per_epoch=steps_per_epoch,
        axis_name=AXIS,
        categories=dataset.train.categories(),
    )
    method = make_method(config, problem)
    _check_requirements(method, dataset)
    looks = make_looks(config, method)
    chances = next(iter(looks.values())).chances
    own_columns = {name: columns[name] for name in method.requires.columns}
    given = _input_of(
        config,
        images,
        looks,
        runner=runner,
        options=options,
        facts=Facts(config.seed, options.batch_size, steps_per_epoch, own_columns),
    )
    plain_view = partial(
        augment.normalize, **{name: chances[name] for name in ("size", "mean", "std")}
    )
    init_variables = partial(
        _init_variables, method, _example(method, given, own_columns)
    )
    labels = None
    if method.param_groups is not None:
        variables = jax.eval_shape(init_variables, jax.random.key(0))
        labels = method.param_groups(variables["params"])
    schedule, optimizer = settings.call(
        make_optimizer,
        "optimizer",
        config,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
        labels=labels,
    )
    spec = state_spec(method.memory_spec)
    step_specs = (spec, SHARDED, given.spec, SHARDED)
    step = partial(
        train_step,
        method=method,
        optimizer=optimizer,
        pick=given.pick,
        views=given.views,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        axis_name=AXIS,
    )
    mapped_step = runner.compile(step, step_specs, (spec, REPLICATED), donate=(0,))
    embed = make_embed(runner, method.encoder, plain_view)

    params_key, memory_key = jax.random.split(jax.random.key(config.seed))

    def init_network(key):
        variables = init_variables(key)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return jnp.int32(0), params, batch_stats, optimizer.init(params)

    create_network = runner.creator(init_network, REPLICATED)
    create_memory = runner.creator(method.init_memory, method.memory_spec)

    def init(*, start: tuple[dict, dict] | None = None) -> TrainState:
        network = runner.own(create_network(params_key), REPLICATED)
        if start is not None:
            step, *old, opt_state = network
            new = runner.put(start, (REPLICATED, REPLICATED))
            # A method with heads of its own has no use for those of the file.
            parts = (
                a | {name: x for name, x in b.items() if name in a}
                for a, b in zip(old, new, strict=True)
            )
            network = (step, *parts, opt_state)
        _, params, batch_stats, _ = network
        variables = {"params": params, "batch_stats": batch_stats}
        variables = runner.fetch(variables, REPLICATED, 0)
        memory = create_memory(memory_key, variables)
        memory = runner.own(memory, method.memory_spec)
        if method.begin is not None:
            memory = runner.fetch(memory, method.memory_spec, num_examples)
            memory = method.begin(memory, lambda: embed(params, batch_stats, images))
            memory = runner.put(memory, method.memory_spec)
        return TrainState(*network, memory)

    def lower() -> Programs:
        shape = jax.ShapeDtypeStruct
        network = jax.eval_shape(init_network, params_key)
        variables = {"params": network[1], "batch_stats": network[2]}
        memory = jax.eval_shape(method.init_memory, memory_key, variables)
        batch = (options.batch_size,)
        arguments = runner.abstract(
            (
                TrainState(*network, memory),
                shape(batch, jnp.int32),
                given.shapes,
                {name: shape(batch, jnp.int32) for name in own_columns},
            ),
            step_specs,
        )
        return Programs(
            *arguments,
            create_network.lower(params_key),
            create_memory.lower(memory_key, variables),
            mapped_step.lower(*arguments),
        )

    jitted_views = jax.jit(given.views)

    def views(epoch: int, indices: np.ndarray) -> dict[str, jax.Array]:
        keys = augment.per_image_keys(config.seed, epoch, jnp.asarray(indices))
        return jitted_views(keys, given.read(epoch, indices))

    return Run(
        dataset=dataset,
        runner=runner,
        method=method,
        spec=spec,
        init=init,
        lower=lower,
        step=mapped_step,
        feed=given.feed,
        views=views,
        plain_view=plain_view,
        chances=chances,
        embed=embed,
        schedule=schedule,
        steps_per_epoch=steps_per_epoch,
        options=options,
        knn=knn,
        seed=config.seed,
    )


def make_looks(config: Mapping[str, Any], method: Method) -> dict[str, ViewGroup]:
    """Reads how the views of each group look: `augment`, changed by `views` for a group.

    Raises:
      UserError: an unknown group or option, or one that cannot be.
    """
    bound = ("keys", "images")
    usual = settings.options(augment.augment, "augment", config, bound=bound)
    augment.check_chances(usual)
    changes = config.get("views", {})
    settings.check_names(changes, method.requires.views, prefix="views.")
    looks = {}
    for group, count in method.requires.views.items():
        chances = {**usual, **changes.get(group, {})}
        section = {f"views.{group}": chances}
        settings.options(augment.augment, f"views.{group}", section, bound=bound)
        augment.check_chances(chances, section=f"views.{group}")
        looks[group] = ViewGroup(count, chances)
    return looks


def _check_requirements(method: Method, dataset: sources.Dataset) -> None:
    fewest, count = method.requires.fewest_examples, len(dataset.train.images)
    if count < fewest:
        raise UserError(
            f"the method needs at least {fewest} training images, there are {count}"
        )
    for name in method.requires.columns:
        if name not in dataset.train.columns:
            raise UserError(
                f"the method needs to know the {name} of each image, which {dataset.name} "
                "does not tell: choose another method or data set"
            )


def _example(method: Method, given: Input, columns: Mapping[str, np.ndarray]) -> Batch:
    """Returns the shapes of a batch of one image, as `forward` gets it, without keys.

    All views are traced for it, which checks their options.
    """

    def make(images: Any) -> Batch:
        keys = jax.random.split(jax.random.key(0), 1)
        zeros = jnp.zeros(1, jnp.int32)
        named = dict.fromkeys(columns, zeros)
        batch = Batch(zeros, given.views(keys, images), named, keys)
        moment = Moment(jnp.int32(0), jnp.int32(0), jax.random.key(0))
        return method.prepare(batch, moment)._replace(keys=None)

    def of_one(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, 1, *x.shape[1:]), x.dtype)

    # A single device, which knows the axis: `prepare` may talk to others.
    one_device = jax.vmap(make, axis_name=AXIS)
    shapes = jax.eval_shape(one_device, jax.tree.map(of_one, given.shapes))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), shapes)


def _init_variables(method: Method, example: Batch, key: jax.Array) -> dict[str, Any]:
    """Draws the encoder's params and batch_stats."""
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example)
    batch = batch._replace(keys=jax.random.split(jax.random.key(0), 1))
    variables = method.encoder.init(key, batch, train=False, method=method.forward)
    return {name: variables.get(name, {}) for name in ("params", "batch_stats")}


def _input_of(
    config: ConfigDict,
    images: np.ndarray | Pictures,
    looks: Mapping[str, ViewGroup],
    *,
    runner: Runner,
    options: TrainOptions,
    facts: Facts,
) -> Input:
    own = {"groups": looks, "runner": runner, "facts": facts}
    on_host = config.augmentation == "host"
    if not on_host and not isinstance(images, Pictures):
        return resident(images, **own)
    threads = Threads(
        options.num_threads,
        options.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    divide = views_on_host if on_host else crops_on_host
    return from_host(images, **own, divide=divide, threads=threads)


def _votes(value: int | str, train: sources.Split) -> int:
    num_classes = None if train.labels is None else len(np.unique(train.labels))
    return neighbors_for(value, num_examples=len(train.images), num_classes=num_classes)
