"""Fine-tuning: each part at its own rate, BatchNorm in training, on all devices."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from invariance_propagation.devices import make_runner
from invariance_propagation.evaluation.classifier.fit import (
    FitState,
    learnt_features,
    make_fit,
)
from invariance_propagation.evaluation.classifier.head import Head
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED
from tests.tiny import TinyBackbone, pictures

CLASSES = 3
IMAGES = pictures()
LABELS = (np.arange(len(IMAGES)) % CLASSES).astype(np.int32)  # as their kinds
BATCHES = [np.arange(i, i + 48, dtype=np.int32) % len(IMAGES) for i in (0, 31, 62)]
RATES = {"backbone": 0.05, "head": 0.5}
HEAD = Head(CLASSES)


class Linear(nn.Module):
    """Features that are linear in the pixels, without statistics."""

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        flat = images.reshape(len(images), -1)
        return nn.Dense(8, use_bias=False)(flat)


def view(seed, images, indices, step):
    del seed, step
    return images[indices].astype(jnp.float32) / 255


def tune(
    backbone: nn.Module,
    batches: list[np.ndarray],
    *,
    num_devices: int = 1,
    mode: str = "pmap",
    rates: dict[str, float] = RATES,
    batch_size: int | None = None,
) -> tuple[dict, FitState]:
    """The backbone's first variables, and the last state."""
    runner = make_runner(mode, num_devices)
    alone = TinyBackbone(None) if isinstance(backbone, TinyBackbone) else backbone
    variables = alone.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)), train=False)
    variables = jax.device_get(variables)
    fit = make_fit(
        runner,
        learnt_features(backbone),
        view=view,
        head=HEAD,
        num_features=8,
        optimizers={name: optax.sgd(rate, 0.9) for name, rate in rates.items()},
        spec=REPLICATED,
        batch_size=batch_size,
    )

    def given() -> Iterator[tuple]:
        placed = runner.put(IMAGES, REPLICATED)
        for indices in batches:
            yield runner.put(indices, SHARDED), placed

    stats = variables.get("batch_stats", {})
    first = {"params": variables["params"], "batch_stats": stats}
    return variables, fit(given(), **first, labels=LABELS, seed=7)


def in_numpy(
    first: np.ndarray, head: dict, batches: list[np.ndarray] = BATCHES
) -> tuple[np.ndarray, ...]:
    """Both layers by the chain rule, SGD with momentum 0.9."""
    layers = [np.float64(first), *(np.float64(head[x]) for x in ("kernel", "bias"))]
    traces = [np.zeros_like(x) for x in layers]
    rates = RATES["backbone"], RATES["head"], RATES["head"]
    for indices in batches:
        x = IMAGES[indices].reshape(len(indices), -1) / 255
        a, b, c = layers
        logits = x @ a @ b + c
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        error = (shares - np.eye(CLASSES)[LABELS[indices]]) / len(x)
        grads = x.T @ error @ b.T, (x @ a).T @ error, error.sum(axis=0)
        traces = [0.9 * t + g for t, g in zip(traces, grads, strict=True)]
        layers = [w - r * t for w, r, t in zip(layers, rates, traces, strict=True)]
    return tuple(layers)


@pytest.mark.parametrize("num_devices", [1, 4])
def test_both_layers_learn_at_their_own_rate(num_devices: int) -> None:
    variables, state = tune(Linear(), BATCHES, num_devices=num_devices)
    head = HEAD.init(jax.random.key(7), jnp.zeros((1, 8)))["params"]["output"]
    kernel = variables["params"]["Dense_0"]["kernel"]
    expected = in_numpy(kernel, head)
    found = state.params["backbone"]["Dense_0"]["kernel"]
    output = state.params["head"]["output"]
    for x, y in zip((found, output["kernel"], output["bias"]), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)
    assert int(state.step) == len(BATCHES)


# Of 20 images the devices hold 7, 7 and 6, or 3 each and then 2; of 5, three hold none.
PADDED = [
    *((mode, 3, 20) for mode in ("pmap", "shard_map")),
    *((mode, 8, 20) for mode in ("pmap", "shard_map")),
    ("pmap", 8, 5),
]


@pytest.mark.parametrize(("mode", "num_devices", "count"), PADDED)
def test_what_pads_a_batch_has_no_part_in_the_loss(
    mode: str, num_devices: int, count: int
) -> None:
    batches = [x[:count] for x in BATCHES]
    variables, state = tune(
        Linear(), batches, num_devices=num_devices, mode=mode, batch_size=count
    )
    head = HEAD.init(jax.random.key(7), jnp.zeros((1, 8)))["params"]["output"]
    expected = in_numpy(variables["params"]["Dense_0"]["kernel"], head, batches)
    found = state.params["backbone"]["Dense_0"]["kernel"]
    output = state.params["head"]["output"]
    for x, y in zip((found, output["kernel"], output["bias"]), expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(("mode", "num_devices", "count"), PADDED)
def test_what_pads_a_batch_has_no_part_in_the_statistics(
    mode: str, num_devices: int, count: int
) -> None:
    batches = [x[:count] for x in BATCHES]
    options = {"mode": mode, "batch_size": count}
    _, alone = tune(TinyBackbone(AXIS), batches, **options)
    _, found = tune(TinyBackbone(AXIS), batches, num_devices=num_devices, **options)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
        (found.params, found.batch_stats),
        (alone.params, alone.batch_stats),
    )


def test_a_rate_of_zero_leaves_a_backbone_as_it_is() -> None:
    variables, state = tune(Linear(), BATCHES, rates={"backbone": 0.0, "head": 0.5})
    jax.tree.map(
        np.testing.assert_array_equal, state.params["backbone"], variables["params"]
    )


def test_statistics_are_those_of_the_whole_batch() -> None:
    _, alone = tune(TinyBackbone(None), BATCHES)
    for mode in ("pmap", "shard_map"):
        _, four = tune(TinyBackbone(AXIS), BATCHES, num_devices=4, mode=mode)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
            (four.params, four.batch_stats),
            (alone.params, alone.batch_stats),
        )


def test_statistics_move_by_a_tenth_of_the_way() -> None:
    variables, state = tune(TinyBackbone(None), BATCHES[:1])
    kernel = variables["params"]["Conv_0"]["kernel"]
    images = jnp.asarray(IMAGES[BATCHES[0]] / np.float32(255))
    out = jax.lax.conv_general_dilated(
        images,
        kernel,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean = state.batch_stats["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * out.mean(axis=(0, 1, 2)), rtol=1e-4)


def test_what_can_be_learnt_is_learnt() -> None:
    _, state = tune(TinyBackbone(None), BATCHES * 20)
    variables = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
    images = IMAGES.astype(np.float32) / 255
    features = TinyBackbone(None).apply(variables, images, train=False)
    logits = HEAD.apply({"params": state.params["head"]}, features)
    assert np.mean(np.argmax(logits, axis=1) == LABELS) > 0.95
