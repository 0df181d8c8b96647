"""From a config to the parts of a run; every check of the input is made here.

Nothing is written. Below this module nobody sees the config.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from invariance_propagation import auto, devices, settings
from invariance_propagation.data import augment, sources
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.devices import Runner
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.evaluation.knn import check_neighbors
from invariance_propagation.feed import Input, host_made, resident, streamed
from invariance_propagation.methods import find_method
from invariance_propagation.models import Encoder, ResNet
from invariance_propagation.models.norm import check_norm_group, fits_devices
from invariance_propagation.optimizer import make_optimizer
from invariance_propagation.options import (
    KnnOptions,
    TrainOptions,
    check_batch,
    check_chances,
    check_options,
)
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from invariance_propagation.paths import local
from invariance_propagation.run import Programs, Run
from invariance_propagation.train_state import TrainState, state_spec
from invariance_propagation.train_step import train_step

TOP_LEVEL = ("task", "output", "seed", "weights", "parallel", "num_devices")
TOP_LEVEL += ("augmentation",)
SECTIONS = ("data", "augment", "encoder", "method", "optimizer", "knn", "train")
AUGMENTATIONS = ("device", "host")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


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
    own_options = dict(config.method)
    method = settings.call(
        find_method(own_options.pop("name")),
        "method",
        {"method": own_options},
        num_examples=num_examples,
        embedding_dim=config.encoder.dim,
        steps_per_epoch=steps_per_epoch,
        axis_name=AXIS,
    )
    schedule, optimizer = settings.call(
        make_optimizer,
        "optimizer",
        config,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    chances = settings.options(
        augment.augment, "augment", config, bound=("keys", "images")
    )
    check_chances(chances)
    given = _input_of(
        config,
        images,
        chances,
        runner=runner,
        options=options,
        steps_per_epoch=steps_per_epoch,
    )
    plain_view = partial(
        augment.normalize, **{name: chances[name] for name in ("size", "mean", "std")}
    )
    spec = state_spec(method.memory_spec)
    step_specs = (spec, SHARDED, given.spec)
    step = partial(
        train_step,
        encoder=encoder,
        method=method,
        optimizer=optimizer,
        pick=given.pick,
        view=given.view,
        seed=config.seed,
        steps_per_epoch=steps_per_epoch,
        axis_name=AXIS,
    )
    mapped_step = runner.compile(step, step_specs, (spec, REPLICATED), donate=(0,))
    embed = make_embed(runner, encoder, plain_view)
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    example = jax.eval_shape(plain_view, one)
    # Traced for its checks alone.
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    jax.eval_shape(given.view, key, one)

    params_key, memory_key = jax.random.split(jax.random.key(config.seed))

    def init_network(key):
        images = jnp.zeros(example.shape, example.dtype)
        variables = encoder.init(key, images, train=False)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return jnp.int32(0), params, batch_stats, optimizer.init(params)

    create_network = runner.creator(init_network, REPLICATED)
    create_memory = runner.creator(method.init_memory, method.memory_spec)

    def init(*, start: tuple[dict, dict] | None = None) -> TrainState:
        network = runner.own(create_network(params_key), REPLICATED)
        embeddings = None
        if start is not None:
            step, *old, opt_state = network
            new = runner.put(start, (REPLICATED, REPLICATED))
            parts = (a | b for a, b in zip(old, new, strict=True))
            network = (step, *parts, opt_state)
        if method.needs_embeddings:
            _, params, batch_stats, _ = network
            embeddings = embed(params, batch_stats, images).embedding
        memory = runner.own(create_memory(memory_key, embeddings), method.memory_spec)
        return TrainState(*network, memory)

    def lower() -> Programs:
        shape, embeddings = jax.ShapeDtypeStruct, None
        if method.needs_embeddings:
            embeddings = shape((num_examples, config.encoder.dim), jnp.float32)
        network = jax.eval_shape(init_network, params_key)
        memory = jax.eval_shape(method.init_memory, memory_key, embeddings)
        arguments = runner.abstract(
            (
                TrainState(*network, memory),
                shape((options.batch_size,), jnp.int32),
                shape(given.shape, images.dtype),
            ),
            step_specs,
        )
        return Programs(
            *arguments,
            create_network.lower(params_key),
            create_memory.lower(memory_key, embeddings),
            mapped_step.lower(*arguments),
        )

    jitted_view = jax.jit(given.view)

    def views(epoch: int, indices: np.ndarray) -> jax.Array:
        keys = augment.per_image_keys(config.seed, epoch, jnp.asarray(indices))
        return jitted_view(keys, given.read(epoch, indices))

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


def _input_of(
    config: ConfigDict,
    images: np.ndarray | Pictures,
    chances: dict[str, Any],
    *,
    runner: Runner,
    options: TrainOptions,
    steps_per_epoch: int,
) -> Input:
    own = {"runner": runner, "seed": config.seed, "batch_size": options.batch_size}
    own |= {"steps_per_epoch": steps_per_epoch}
    on_host = config.augmentation == "host"
    if not on_host and not isinstance(images, Pictures):
        return resident(images, chances, **own)
    return (host_made if on_host else streamed)(
        images,
        chances,
        **own,
        num_threads=options.num_threads,
        num_workers=options.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _votes(value: int | str, train: sources.Split) -> int:
    num_classes = None if train.labels is None else len(np.unique(train.labels))
    return auto.votes(value, num_examples=len(train.images), num_classes=num_classes)


def make_encoder(
    *,
    depth: int,
    stem: str,
    width: int,
    head: str,
    hidden: int,
    dim: int,
    norm_group: int | None,
    dtype: str,
) -> Encoder:
    """The encoder of the section `encoder`; its BatchNorm knows the device axis."""
    if dtype not in DTYPES:
        raise UserError(f"encoder.dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
    for name, value in (("width", width), ("hidden", hidden), ("dim", dim)):
        if value < 1:
            raise UserError(f"encoder.{name}={value}: set it to 1 or above")
    norm = {"norm_axis_name": AXIS, "norm_group": norm_group or 0}
    try:
        backbone = ResNet(depth, stem, width, dtype=DTYPES[dtype], **norm)
        return Encoder(backbone, head, hidden, dim, DTYPES[dtype])
    except ValueError as error:
        raise UserError(f"encoder: {error}") from error
