"""The network of Online Deep Clustering: what its neck computes, and with which start."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.methods import Batch
from invariance_propagation.methods.odc.network import Neck
from tests.methods.odc.test_method import DIM, make

FEATURES = np.random.default_rng(0).normal(size=(32, 10)).astype(np.float32)


def neck_of(**changes: Any) -> Neck:
    options = {"hidden": 400, "dim": 300, "rate": 0.5, "norm_momentum": 0.9}
    options |= {"norm_group": 0, "axis_name": None, "dtype": jnp.float32}
    return Neck(**options | changes)


def test_the_neck_is_the_released_one() -> None:
    neck = neck_of()
    variables = neck.init(jax.random.key(0), FEATURES, None, train=False)
    one, two = (variables["params"][f"Dense_{i}"] for i in (0, 1))
    assert variables["params"].keys() == {"Dense_0", "Dense_1"}  # BatchNorm has none
    # necks.py:144-145: Kaiming's normal by the inputs, and no bias.
    for layer, inputs in ((one, 10), (two, 400)):
        spread = np.asarray(layer["kernel"]).std()
        assert spread == pytest.approx((2 / inputs) ** 0.5, rel=0.05)
        assert np.all(layer["bias"] == 0)

    found, updates = neck.apply(
        variables, FEATURES, None, train=True, mutable=["batch_stats"]
    )
    hidden = FEATURES.astype(np.float64) @ one["kernel"]
    mean, var = hidden.mean(axis=0), hidden.var(axis=0)
    hidden = np.maximum((hidden - mean) / np.sqrt(var + 1e-5), 0)
    np.testing.assert_allclose(found, np.maximum(hidden @ two["kernel"], 0), atol=1e-4)
    stats = updates["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, atol=1e-5)

    many = [
        neck.apply(variables, FEATURES, keys, train=True, mutable=["batch_stats"])[0]
        for keys in jax.random.split(jax.random.key(1), (3, 32))
    ]
    assert not np.allclose(many[0], found) and not np.allclose(many[0], many[1])
    assert found.min() == 0 and (found > 0).any()


def test_what_evaluation_sees_has_no_dropout() -> None:
    encoder = make().encoder
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 1)).astype(np.float32)
    batch = Batch(
        jnp.arange(4),
        {"view": images[None]},
        {},
        jax.random.split(jax.random.key(0), 4),
    )
    forward = make().forward
    variables = encoder.init(jax.random.key(0), batch, train=False, method=forward)
    plain = encoder.apply(variables, images, train=False)
    assert plain.embedding.shape == (4, DIM) and plain.features.shape == (4, 8)
    same = encoder.apply(variables, batch, train=False, method=forward)
    np.testing.assert_array_equal(same.embedding, plain.embedding)
    assert same.logits.shape == (4, 7)
    trained, _ = encoder.apply(
        variables, batch, train=True, method=forward, mutable=["batch_stats"]
    )
    undropped, _ = encoder.apply(variables, images, train=True, mutable=["batch_stats"])
    assert not np.allclose(trained.embedding, undropped.embedding)


def test_the_classifier_is_a_group_of_its_own() -> None:
    params = {"backbone": {"x": 1}, "neck": {"y": 2}, "classifier": {"z": 3}}
    labels = make().param_groups(params)
    assert labels == {"backbone": "body", "neck": "body", "classifier": "head"}
