"""BatchNorm over groups: against NumPy, for every number of devices and runner."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from invariance_propagation import devices
from invariance_propagation.errors import UserError
from invariance_propagation.models.norm import BatchNorm, check_norm_group
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED, pmean

SHAPE = (16, 3, 2, 5)


def batch() -> np.ndarray:
    """Images whose statistics differ from group to group."""
    random = np.random.default_rng(0)
    x = random.normal(size=SHAPE) * random.uniform(0.5, 3, size=(16, 1, 1, 5))
    return (x + np.arange(16)[:, None, None, None]).astype(np.float32)


def start() -> dict:
    random = np.random.default_rng(1)
    scale, bias, mean = random.normal(size=(3, 5)).astype(np.float32)
    var = random.uniform(0.5, 2, size=5).astype(np.float32)
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }


def expected(x, variables, group_size, mask=None):
    """Loops over groups, in float64."""
    params, old = variables["params"], variables["batch_stats"]
    x, out = x.astype(np.float64), np.zeros(x.shape)
    size = group_size or len(x)
    means, variances = [], []
    for first in range(0, len(x), size):
        rows = np.arange(first, first + size)
        counted = rows if mask is None else rows[mask[rows]]
        means.append(x[counted].mean(axis=(0, 1, 2)))
        variances.append(x[counted].var(axis=(0, 1, 2)))
        out[rows] = (x[rows] - means[-1]) / np.sqrt(variances[-1] + 1e-5)
    out = out * params["scale"] + params["bias"]
    return out, {
        "mean": 0.9 * old["mean"] + 0.1 * np.mean(means, axis=0),
        "var": 0.9 * old["var"] + 0.1 * np.mean(variances, axis=0),
    }


def run(mode, num_devices, norm, x, variables, mask=None, *, loss=None):
    """Output, statistics and the gradient by x, mapped as a training step is."""
    runner = devices.make_runner(mode, num_devices)
    mask = np.ones(len(x), bool) if mask is None else mask
    masked = norm.group_size == 0

    def apply(variables, x, mask):
        out, new = norm.apply(
            variables, x, mask if masked else None, mutable=["batch_stats"]
        )
        return out, new["batch_stats"]

    def one_device(variables, x, weights, mask):
        def value(x):
            return pmean(jnp.sum(apply(variables, x, mask)[0] * weights), AXIS)

        out, stats = apply(variables, x, mask)
        return out, pmean(stats, AXIS), jax.grad(value)(x)

    weights = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)
    mapped = runner.compile(
        one_device,
        (REPLICATED, SHARDED, SHARDED, SHARDED),
        (SHARDED, REPLICATED, SHARDED),
    )
    placed = runner.put(
        (variables, x, weights, mask), (REPLICATED, SHARDED, SHARDED, SHARDED)
    )
    return runner.fetch(mapped(*placed), (SHARDED, REPLICATED, SHARDED), len(x))


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
@pytest.mark.parametrize("group_size", [0, 1, 2, 4, 8, 16])
def test_it_is_the_loop_over_groups_for_any_devices(mode, num_devices, group_size):
    x, variables = batch(), start()
    norm = BatchNorm(False, group_size=group_size, axis_name=AXIS)
    out, stats, gradient = run(mode, num_devices, norm, x, variables)
    right, right_stats = expected(x, variables, group_size)
    np.testing.assert_allclose(out, right, rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], right_stats[name], rtol=1e-5)
    alone = BatchNorm(False, group_size=group_size)
    *_, whole = run("pmap", 1, alone, x, variables)
    np.testing.assert_allclose(gradient, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_rows_that_do_not_count_change_nothing(num_devices):
    x, variables = batch(), start()
    mask = np.arange(16) < 11  # the last devices have no row that counts
    x[11:] = np.nan
    norm = BatchNorm(False, axis_name=AXIS)
    out, stats, _ = run("pmap", num_devices, norm, x, variables, mask)
    right, right_stats = expected(x, variables, 0, mask)
    np.testing.assert_allclose(out[:11], right[:11], rtol=1e-4, atol=1e-4)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], right_stats[name], rtol=1e-5)


def test_a_whole_batch_is_flax():
    x, variables = batch(), start()
    new = BatchNorm(False)
    old = nn.BatchNorm(False, momentum=0.9, epsilon=1e-5)
    assert jax.tree.map(jnp.shape, new.init(jax.random.key(0), x)) == jax.tree.map(
        jnp.shape, old.init(jax.random.key(0), x)
    )
    for dtype in (jnp.float32, jnp.bfloat16):
        found, wanted = (
            module.clone(dtype=dtype).apply(
                variables, x.astype(dtype), mutable=["batch_stats"]
            )
            for module in (new, old)
        )
        assert found[0].dtype == wanted[0].dtype == dtype
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-2), found, wanted
        )
        assert found[1]["batch_stats"]["mean"].dtype == jnp.float32
    found, wanted = (
        module.clone(use_running_average=True).apply(variables, x)
        for module in (new, old)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm_group", "batch_size", "num_devices", "line"),
    [
        (-1, 16, 1, "norm_group=-1: .* or to 0 for the whole batch"),
        (32, 48, 1, "norm_group to 24, or to 0 .* train.batch_size to 64"),
        (32, 16, 1, "norm_group to 16, or to 0 .* train.batch_size to 32"),
        (32, 96, 2, "each of 2 devices 48, .* num_devices to 1 or 3, or .*_group to 0"),
        (24, 96, 6, "each of 6 devices 16, .* num_devices to 4 or 8, or .*_group to 0"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    norm_group, batch_size, num_devices, line
):
    with pytest.raises(UserError, match=line):
        check_norm_group(norm_group, batch_size=batch_size, num_devices=num_devices)
    sizes = {"batch_size": batch_size, "num_devices": num_devices}
    check_norm_group(0, **sizes)


def test_a_mask_needs_the_whole_batch():
    with pytest.raises(ValueError, match="whole batch"):
        BatchNorm(False, group_size=4).apply(
            start(), batch(), np.ones(16, bool), mutable=["batch_stats"]
        )


def test_without_parameters_it_only_normalises() -> None:
    x = batch()
    norm = BatchNorm(use_running_average=False, group_size=4, affine=False)
    variables = norm.init(jax.random.key(0), x)
    assert variables.keys() == {"batch_stats"}
    found, _ = norm.apply(variables, x, mutable=["batch_stats"])
    affine = {
        "params": {"scale": np.ones(5, np.float32), "bias": np.zeros(5, np.float32)},
        "batch_stats": variables["batch_stats"],
    }
    right, _ = norm.clone(affine=True).apply(affine, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(found, right)
