"""The heads, on a backbone small enough to compute by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invariance_propagation.models import Encoder, Outputs, ResNet


class _MeanColour(nn.Module):
    """A backbone without parameters: [b, H, W, C] -> [b, C]."""

    dtype: type = jnp.float32

    def __call__(self, images, *, train):
        sign = 1 if train else -1
        return (sign * images.mean((1, 2))).astype(self.dtype)


IMAGES = np.random.default_rng(0).normal(size=(4, 2, 2, 24)).astype("f")


def _init(encoder, images=IMAGES, **kwargs):
    init = functools.partial(encoder.init_with_output, train=True, **kwargs)
    return jax.jit(init)(jax.random.key(0), images)


def test_linear_head_is_one_dense_and_leaves_the_norm_alone():
    encoder = Encoder(_MeanColour(), "linear", dim=16)
    outputs, variables = _init(encoder)
    assert isinstance(outputs, Outputs)
    assert set(variables["params"]) == {"head_output"}
    features = IMAGES.mean((1, 2))
    np.testing.assert_allclose(outputs.features, features, rtol=1e-5, atol=1e-6)
    kernel, bias = (variables["params"]["head_output"][k] for k in ("kernel", "bias"))
    expected = features @ np.asarray(kernel) + np.asarray(bias)
    np.testing.assert_allclose(outputs.embedding, expected, rtol=1e-4, atol=1e-5)

    # Not normalised: twice the features give twice the embedding (the bias is 0).
    double = encoder.apply(variables, 2 * IMAGES, train=True)
    np.testing.assert_allclose(double.embedding, 2 * outputs.embedding, rtol=1e-4)


def test_mlp_head_is_dense_relu_dense():
    encoder = Encoder(_MeanColour(), "mlp", hidden=32, dim=16)
    outputs, variables = _init(encoder)
    assert set(variables) == {"params"}  # no BatchNorm, hence no statistics
    params = variables["params"]
    assert set(params) == {"head_hidden", "head_output"}
    x = np.asarray(outputs.features) @ np.asarray(params["head_hidden"]["kernel"])
    expected = np.maximum(x, 0) @ np.asarray(params["head_output"]["kernel"])
    assert (x < 0).any()
    np.testing.assert_allclose(outputs.embedding, expected, rtol=1e-4, atol=1e-5)


def test_initial_head_is_xavier_uniform_with_bias_zero():
    encoder = Encoder(_MeanColour(), "mlp", hidden=200, dim=100)
    params = _init(encoder)[1]["params"]
    for name, fan_in, fan_out in [("head_hidden", 24, 200), ("head_output", 200, 100)]:
        kernel = np.asarray(params[name]["kernel"])
        bound = np.sqrt(6 / (fan_in + fan_out))
        assert kernel.shape == (fan_in, fan_out)
        assert 0.99 * bound < np.abs(kernel).max() <= bound
        assert abs(kernel.std() / (bound / np.sqrt(3)) - 1) < 0.03
        assert not np.any(params[name]["bias"])


def test_train_reaches_the_backbone():
    encoder = Encoder(_MeanColour(), "linear")
    trained, variables = _init(encoder)
    evaluated = encoder.apply(variables, IMAGES, train=False)
    np.testing.assert_allclose(evaluated.features, -trained.features, rtol=1e-5)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_bfloat16_keeps_float32_parameters_and_results(head):
    encoder = Encoder(
        _MeanColour(jnp.bfloat16), head, hidden=32, dim=16, dtype=jnp.bfloat16
    )
    outputs, variables = _init(encoder, capture_intermediates=True, mutable=True)
    assert outputs.features.dtype == outputs.embedding.dtype == jnp.float32
    assert {p.dtype for p in jax.tree.leaves(variables["params"])} == {
        jnp.dtype(jnp.float32)
    }
    (output,) = variables["intermediates"]["head_output"]["__call__"]
    assert output.dtype == jnp.bfloat16
    exact = Encoder(_MeanColour(), head, hidden=32, dim=16).apply(
        {"params": variables["params"]}, IMAGES, train=True
    )
    error = np.abs(outputs.embedding - exact.embedding).max()
    assert 0 < error < 0.05 * np.abs(exact.embedding).max()


def test_on_a_resnet_with_the_default_dim():
    encoder = Encoder(ResNet(50, "cifar", width=16), "mlp", hidden=512)
    init = functools.partial(encoder.init_with_output, train=True)
    images = jnp.zeros((2, 32, 32, 3))
    outputs, variables = jax.eval_shape(init, jax.random.key(0), images)
    assert outputs.features.shape == (2, 512)
    assert outputs.embedding.shape == (2, 128)
    assert set(variables["params"]) == {"backbone", "head_hidden", "head_output"}
    assert set(variables["batch_stats"]) == {"backbone"}


def test_unknown_head_names_the_allowed_ones():
    with pytest.raises(ValueError, match="head='projector': choose one of linear, mlp"):
        Encoder(_MeanColour(), "projector")
