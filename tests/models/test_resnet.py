"""Compares ResNet with a slow NumPy version of torchvision's networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invariance_propagation.models import ResNet

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def _shapes(model, image_shape, **kwargs):
    """(features, variables) as shapes and dtypes; nothing is computed."""
    init = functools.partial(model.init_with_output, train=True, **kwargs)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, *image_shape)))


def _random_variables(model, image_shape, seed=0):
    """Makes variables in which no scale, bias or statistic stays at 0 or 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kind = path[-1].key
        if kind == "kernel":
            std = np.sqrt(2 / np.prod(leaf.shape[:3]))
            value = rng.normal(0, std, leaf.shape)
        elif kind in ("scale", "var"):
            value = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            value = rng.normal(0, 0.2, leaf.shape)
        return value.astype(np.float32)

    return jax.tree.map_with_path(draw, _shapes(model, image_shape)[1])


# --- The oracle: float64, channels last, padding spelled out. ---


def _torch_pads(length, size, stride):
    return size // 2, size // 2


def _same_pads(length, size, stride):
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


def _windows(x, size, stride, pads, fill):
    """Yields (i, j, the strided slice under offset i, j of a size x size window)."""
    widths = [pads(n, size, stride) for n in x.shape[1:3]]
    x = np.pad(x, [(0, 0), *widths, (0, 0)], constant_values=fill)
    rows, cols = ((n - size) // stride + 1 for n in x.shape[1:3])
    for i in range(size):
        for j in range(size):
            row_slice = slice(i, i + stride * (rows - 1) + 1, stride)
            yield i, j, x[:, row_slice, slice(j, j + stride * (cols - 1) + 1, stride)]


def _np_conv(x, kernel, stride, pads):
    size = kernel.shape[0]
    return sum(w @ kernel[i, j] for i, j, w in _windows(x, size, stride, pads, 0.0))


def _np_resnet(variables, images, depth, stem, pads=_torch_pads):
    """The forward pass in evaluation mode, written from torchvision's structure."""

    def lookup(tree, path):
        for name in path:
            tree = tree[name]
        return {k: np.asarray(v, np.float64) for k, v in tree.items()}

    def conv(x, stride, *path):
        kernel = lookup(variables["params"], path)["kernel"]
        return _np_conv(x, kernel, stride, pads)

    def norm(x, *path):
        p = lookup(variables["params"], path)
        s = lookup(variables["batch_stats"], path)
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def relu(x):
        return np.maximum(x, 0)

    x = np.asarray(images, np.float64)
    x = conv(x, 2 if stem == "imagenet" else 1, "stem_conv")
    x = relu(norm(x, "stem_norm"))
    if stem == "imagenet":
        x = np.max([w for _, _, w in _windows(x, 3, 2, pads, -np.inf)], axis=0)
    for stage, num_blocks in enumerate(BLOCKS[depth]):
        for index in range(num_blocks):
            name = f"layer{stage + 1}_block{index}"
            stride = 2 if index == 0 and stage > 0 else 1
            # The 3x3 that strides: conv1 of a basic block, conv2 of a bottleneck.
            strides = (stride, 1) if depth == 18 else (1, stride, 1)
            y = x
            for n, s in enumerate(strides, start=1):
                y = norm(conv(y, s, name, f"conv{n}"), name, f"norm{n}")
                y = relu(y) if n < len(strides) else y
            if index == 0 and (stage > 0 or depth == 50):
                x = conv(x, stride, name, "downsample_conv")
                x = norm(x, name, "downsample_norm")
            x = relu(x + y)
    return x.mean((1, 2))


@pytest.mark.parametrize(
    "depth, stem, size",
    [(18, "imagenet", 32), (18, "cifar", 9), (50, "cifar", 8)],
)
def test_forward_matches_torchvision_and_same_padding_does_not(depth, stem, size):
    model = ResNet(depth, stem, width=4)
    variables = _random_variables(model, (size, size, 3))
    images = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype("f")
    features = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    expected = _np_resnet(variables, images, depth, stem)
    np.testing.assert_allclose(
        features, expected, rtol=1e-4, atol=1e-5 * expected.max()
    )

    if size % 2 == 0:  # an odd length is padded alike by both at kernel 3, stride 2
        same = _np_resnet(variables, images, depth, stem, _same_pads)
        assert np.abs(same - expected).max() > 0.01 * expected.max()


@pytest.mark.parametrize("size, stride", [(3, 2), (7, 2)])
def test_one_strided_conv_fails_with_same_padding(size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 8, 8, 2)).astype("f")
    kernel = rng.normal(size=(size, size, 2, 3)).astype("f")

    def conv(padding):
        layer = nn.Conv(3, (size, size), stride, padding=padding, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, x)

    expected = _np_conv(x, kernel, stride, _torch_pads)
    np.testing.assert_allclose(conv(size // 2), expected, atol=1e-4)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(conv("SAME"), expected, atol=1e-4)


# --- Structure ---


@pytest.mark.parametrize("depth, count", [(18, 11_176_512), (50, 23_508_032)])
def test_parameter_count_matches_torchvision_without_fc(depth, count):
    _, variables = _shapes(ResNet(depth, "imagenet"), (64, 64, 3))
    assert sum(p.size for p in jax.tree.leaves(variables["params"])) == count


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize(
    "depth, num_features, image_shape",
    [
        (18, 128, (8, 8, 1)),
        (18, 128, (32, 32, 3)),
        (18, 128, (64, 64, 3)),
        (50, 512, (8, 8, 1)),
    ],
)
def test_output_shape(depth, num_features, image_shape, stem):
    features, variables = _shapes(ResNet(depth, stem, width=16), image_shape)
    assert features.shape == (2, num_features)
    assert features.dtype == jnp.float32
    size = 7 if stem == "imagenet" else 3
    kernel = variables["params"]["stem_conv"]["kernel"]
    assert kernel.shape == (size, size, image_shape[-1], 16)


def test_default_width_and_names_of_depth_18():
    features, variables = _shapes(ResNet(18, "imagenet"), (64, 64, 3))
    assert features.shape == (2, 512)
    params = variables["params"]
    blocks = {f"layer{s}_block{i}" for s in (1, 2, 3, 4) for i in (0, 1)}
    assert set(params) == {"stem_conv", "stem_norm"} | blocks
    plain = {"conv1", "norm1", "conv2", "norm2"}
    assert set(params["layer1_block0"]) == plain
    assert set(params["layer2_block1"]) == plain
    projected = plain | {"downsample_conv", "downsample_norm"}
    assert set(params["layer2_block0"]) == projected
    assert set(params["stem_conv"]) == {"kernel"}


def test_default_width_and_projections_of_depth_50():
    features, variables = _shapes(ResNet(50, "cifar"), (32, 32, 3))
    assert features.shape == (2, 2048)
    projected = {k for k, v in variables["params"].items() if "downsample_conv" in v}
    assert projected == {f"layer{s}_block0" for s in (1, 2, 3, 4)}


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_initial_values(stem):
    model = ResNet(18, stem, width=16)

    @jax.jit
    def init(key):
        variables = model.init(key, jnp.zeros((1, 16, 16, 3)), train=False)
        leaves = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(variables)
        }
        # Only a few kernels, because compiling every draw takes seconds.
        few = ("params/stem_conv/", "params/layer2_block0/")
        return {
            name: leaf
            for name, leaf in leaves.items()
            if not name.endswith("/kernel") or name.startswith(few)
        }

    leaves = init(jax.random.key(0, impl="rbg"))  # compiles faster than threefry
    assert sum(name.endswith("/kernel") for name in leaves) == 4
    for name, leaf in leaves.items():
        leaf = np.asarray(leaf)
        if name.endswith("/kernel"):
            fan_out = leaf.shape[0] * leaf.shape[1] * leaf.shape[3]
            sigma = np.sqrt(2 / fan_out)
            # Six standard errors of a standard deviation.
            assert abs(leaf.std() / sigma - 1) < 6 / np.sqrt(2 * leaf.size), name
            # Not the truncated normal, which ends at 2.3 of its standard deviations.
            assert np.abs(leaf).max() > 2.4 * sigma, name
        else:
            assert np.all(leaf == name.endswith(("/scale", "/var"))), name


# --- Batch statistics and types ---


def test_training_updates_the_statistics_and_evaluation_does_not():
    model = ResNet(18, "cifar", width=4)
    variables = _random_variables(model, (8, 8, 1))
    images = np.random.default_rng(1).normal(size=(4, 8, 8, 1)).astype("f")

    @functools.partial(jax.jit, static_argnames="train")
    def run(train):
        return model.apply(variables, images, train=train, mutable=["batch_stats"])

    _, evaluated = run(train=False)
    jax.tree.map(
        np.testing.assert_array_equal,
        evaluated["batch_stats"],
        variables["batch_stats"],
    )
    _, trained = run(train=True)
    for old, new in zip(
        jax.tree.leaves(variables["batch_stats"]),
        jax.tree.leaves(trained["batch_stats"]),
        strict=True,
    ):
        assert np.all(old != new)

    # The stem's values by hand: one tenth of the batch's mean and biased variance.
    kernel = variables["params"]["stem_conv"]["kernel"]
    x = _np_conv(images.astype(np.float64), kernel, 1, _torch_pads)
    old = variables["batch_stats"]["stem_norm"]
    new = trained["batch_stats"]["stem_norm"]
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * var, rtol=1e-4)


def test_norm_over_an_axis_is_norm_over_the_whole_batch():
    images = np.random.default_rng(1).normal(size=(8, 8, 8, 1)).astype("f")
    shards = images.reshape(4, 2, 8, 8, 1)
    whole, across = (
        ResNet(18, "cifar", width=4, norm_axis_name=name) for name in (None, "batch")
    )
    variables = _random_variables(across, (8, 8, 1))  # init needs no axis in scope

    def run(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    expected, expected_stats = jax.jit(functools.partial(run, whole))(images)
    run_shards = jax.vmap(functools.partial(run, across), axis_name="batch")
    features, stats = jax.jit(run_shards)(shards)
    features = features.reshape(8, -1)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
    for shard in range(4):
        jax.tree.map(
            lambda a, b, i=shard: np.testing.assert_allclose(a[i], b, 1e-3, 1e-5),
            stats,
            expected_stats,
        )


@pytest.mark.parametrize("depth", [18, 50])
def test_bfloat16_computes_in_bfloat16_and_keeps_float32(depth):
    model = ResNet(depth, "imagenet", width=4, dtype=jnp.bfloat16)
    features, variables = _shapes(
        model, (16, 16, 3), capture_intermediates=True, mutable=True
    )
    assert features.dtype == jnp.float32
    for collection in ("params", "batch_stats"):
        assert {p.dtype for p in jax.tree.leaves(variables[collection])} == {
            jnp.dtype(jnp.float32)
        }
    inner = variables["intermediates"]
    inner.pop("__call__")  # the features themselves
    assert {p.dtype for p in jax.tree.leaves(inner)} == {jnp.dtype(jnp.bfloat16)}


def test_unknown_values_name_the_allowed_ones():
    with pytest.raises(ValueError, match="depth=34: choose one of 6, 18, 50"):
        ResNet(34, "cifar")
    with pytest.raises(ValueError, match="stem='svhn': choose one of imagenet, cifar"):
        ResNet(18, "svhn")
