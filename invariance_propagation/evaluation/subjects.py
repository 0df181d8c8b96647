"""Makes what is measured: an encoder, the same network untrained, and raw pixels."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from invariance_propagation.data.dataset import Split
from invariance_propagation.data.views.augment import normalize
from invariance_propagation.devices.runner import Runner
from invariance_propagation.evaluation.bench import Bench, View
from invariance_propagation.evaluation.features import make_embed
from invariance_propagation.evaluation.meaning import check_finite
from invariance_propagation.models.encoder import Headless
from invariance_propagation.parallel import AXIS, REPLICATED
from invariance_propagation.phases import phase
from invariance_propagation.store.reading import Source
from invariance_propagation.store.restore import Trained

RANDOM, PIXELS = "random encoder", "raw pixels"


class Subject(NamedTuple):
    """Holds a network that is measured, and its features.

    Attributes:
      name: its row in a table.
      backbone: maps views to features float32 [b, F].
      params, batch_stats: its variables.
      features: () -> float32 [n, F], of the training images without augmentation.
      queries: () -> float32 [q, F], of the held-out images, likewise.
    """

    name: str
    backbone: nn.Module
    params: dict
    batch_stats: dict
    features: Callable[[], np.ndarray]
    queries: Callable[[], np.ndarray]


Scores = Iterator[tuple[str, float]]  # names, and values in [0, 1]
Measure = Callable[[Subject, int], Scores]  # of a subject and a seed
ScoresOf = Callable[[np.ndarray, np.ndarray], Scores]  # of logits and labels


class Pixels(nn.Module):
    """Uses an image's pixels, in [0, 1], as its features; undoes `mean` and `std`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        del train
        pixels = images * np.float32(self.std) + np.float32(self.mean)
        return pixels.reshape(len(images), -1)


@functools.lru_cache(maxsize=8)
def _embedder(runner: Runner, backbone: nn.Module, view: View) -> Callable:
    see = partial(normalize, **view._asdict())
    embed = make_embed(runner, Headless(backbone), see, bar="embedding")

    def features(params: dict, batch_stats: dict, images: Any) -> np.ndarray:
        params = {"backbone": params} if params else {}
        batch_stats = {"backbone": batch_stats} if batch_stats else {}
        return embed(params, batch_stats, images).features

    return features


def embedder(bench: Bench, backbone: nn.Module) -> Callable[..., np.ndarray]:
    """Returns a function (params, batch_stats, images) -> features, on the host."""
    return _embedder(bench.runner, backbone, bench.view)


def make_subject(
    bench: Bench, name: str, backbone: nn.Module, params: dict, batch_stats: dict
) -> Subject:
    """Makes a subject whose features are computed once, when they are first needed.

    Computing them raises TrainingError if one is NaN or infinite.
    """
    embed = embedder(bench, backbone)

    def features_of(split: Split, kind: str) -> Callable[[], np.ndarray]:
        @functools.cache
        def features() -> np.ndarray:
            with phase(f"{name}: computing features of {len(split.images):,} {kind}"):
                found = embed(params, batch_stats, split.images)
            check_finite(found, kind)
            return found

        return features

    parts = (
        features_of(bench.dataset.train, "training images"),
        features_of(bench.dataset.held_out, "held-out images"),
    )
    return Subject(name, backbone, params, batch_stats, *parts)


def pixels(bench: Bench) -> Subject:
    """Makes the subject whose features are raw pixels; it has no parameters."""
    backbone = Pixels(bench.view.mean, bench.view.std)
    return make_subject(bench, PIXELS, backbone, {}, {})


@functools.lru_cache(maxsize=8)
def _initializer(runner: Runner, backbone: nn.Module, view: View) -> Callable:
    def init(key: jax.Array) -> dict:
        images = jnp.zeros((1, view.size, view.size, len(view.mean)))
        return backbone.init(key, images, train=False)

    return runner.creator(init, REPLICATED)


def untrained(bench: Bench, backbone: nn.Module, seed: int) -> Subject:
    """Makes the subject with this network's initial weights, which `seed` decides."""
    init = _initializer(bench.runner, backbone, bench.view)
    variables = jax.device_get(init(jax.random.key(seed)))
    parts = variables["params"], variables["batch_stats"]
    return make_subject(bench, RANDOM, backbone, *parts)


class Row(NamedTuple):
    """Describes a row of every table.

    Attributes:
      about: the fields `encoder`, `network` and `checkpoint` of its cards.
      by_chance: whether another seed makes another subject.
      make: (bench, seed) -> the subject.
    """

    about: dict[str, Any]
    by_chance: bool
    make: Callable[[Bench, int], Subject]


def rows_of(source: Source, trained: Trained) -> tuple[Row, Row, Row]:
    """Returns the rows of a table: the encoder, its untrained network, raw pixels."""
    backbone, run = trained.backbone, trained.run
    # Fine-tuning normalises by the whole batch, which may be padded for the devices.
    module = backbone.module.clone(norm_axis_name=AXIS, norm_group=0)
    network = {
        "depth": module.depth,
        "stem": module.stem,
        "width": module.width,
        "channels": backbone.channels,
    }
    name = source.path.name
    weights: dict[str, Any] = {"digest": backbone.digest()}
    if run is not None:
        name, weights["step"] = f"step {run.step}", run.step
    weights["path"] = source.name

    def own(bench: Bench, seed: int) -> Subject:
        del seed
        parts = backbone.params, backbone.batch_stats
        return make_subject(bench, name, module, *parts)

    def random(bench: Bench, seed: int) -> Subject:
        return untrained(bench, module, seed)

    def raw(bench: Bench, seed: int) -> Subject:
        del seed
        return pixels(bench)

    def about(encoder: str, network: dict, checkpoint: dict) -> dict[str, Any]:
        return {"encoder": encoder, "network": network, "checkpoint": checkpoint}

    return (
        Row(about(name, network, weights), False, own),
        Row(about(RANDOM, network, {}), True, random),
        Row(about(PIXELS, {}, {}), False, raw),
    )
