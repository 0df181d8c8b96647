"""The memory bank: its start and its moving average."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices, init_bank, update_bank
from invariance_propagation.core.bank import normalize
from invariance_propagation.parallel import AXIS, REPLICATED, SHARDED, take_rows
from tests.reference import objective as oracle


def test_start_is_uniform_with_unit_expected_norm() -> None:
    bank = np.asarray(init_bank(jax.random.key(0), 2000, 128))
    assert bank.shape == (2000, 128)
    assert bank.dtype == np.float32
    bound = 1 / np.sqrt(128 / 3)
    assert np.abs(bank).max() <= bound
    # 256,000 draws: the extremes come within a thousandth of the bound, and the moments are those of the uniform distribution.
    assert bank.max() > 0.999 * bound
    assert bank.min() < -0.999 * bound
    np.testing.assert_allclose(bank.mean(), 0, atol=5 * bound / np.sqrt(3 * bank.size))
    np.testing.assert_allclose((bank**2).sum(axis=1).mean(), 1, atol=0.01)
    np.testing.assert_allclose((np.abs(bank) < bound / 2).mean(), 0.5, atol=0.005)


def test_start_depends_on_the_key_alone() -> None:
    first, again, other = (
        np.asarray(init_bank(jax.random.key(seed), 7, 5)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


def test_fixture_rows() -> None:
    angles = np.deg2rad([0, 10, 25, 45, 70, 100, 140, 180])
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    views = np.deg2rad([4, 51])
    embeddings = np.stack([np.cos(views), np.sin(views)], axis=1) * [[3.0], [0.5]]
    expected = bank.copy()
    expected[[0, 3]] = np.stack(
        [np.cos(np.deg2rad([2, 48])), np.sin(np.deg2rad([2, 48]))], axis=1
    )
    np.testing.assert_allclose(
        oracle.update_bank(bank, [0, 3], embeddings, momentum=0.5), expected, atol=1e-12
    )
    np.testing.assert_allclose(
        update_bank(bank, np.array([0, 3]), embeddings), expected, atol=2e-7
    )


@pytest.mark.parametrize("momentum", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_update_is_the_oracle(make_problem, momentum: float) -> None:
    problem = make_problem(1, num_examples=29, batch=7)
    before = problem.bank.copy()
    bank = np.asarray(
        update_bank(
            problem.bank, problem.indices, problem.embeddings, momentum=momentum
        )
    )
    assert bank.dtype == np.float32
    np.testing.assert_allclose(
        bank,
        oracle.update_bank(
            before, problem.indices, problem.embeddings, momentum=momentum
        ),
        atol=5e-7,
    )
    np.testing.assert_allclose(
        np.linalg.norm(bank[problem.indices], axis=1), 1, atol=1e-6
    )
    rest = np.setdiff1d(np.arange(29), problem.indices)
    np.testing.assert_array_equal(
        bank[rest], before[rest]
    )  # to the bit, and some of these rows are not of unit norm
    np.testing.assert_array_equal(
        problem.bank, before
    )  # the caller's array is left alone


def test_momentum_is_one_half_by_default(make_problem) -> None:
    problem = make_problem(2)
    np.testing.assert_array_equal(
        update_bank(problem.bank, problem.indices, problem.embeddings),
        update_bank(problem.bank, problem.indices, problem.embeddings, momentum=0.5),
    )


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_length_of_an_embedding_does_not_matter(make_problem, scale: float) -> None:
    problem = make_problem(3)
    expected = update_bank(problem.bank, problem.indices, problem.embeddings)
    scaled = update_bank(
        problem.bank, problem.indices, problem.embeddings * np.float32(scale)
    )
    np.testing.assert_allclose(scaled, expected, atol=5e-7)


def test_zero_embedding_leaves_the_direction_of_its_row(make_problem) -> None:
    problem = make_problem(4)
    bank = np.asarray(
        update_bank(problem.bank, problem.indices, np.zeros_like(problem.embeddings))
    )
    old = problem.bank[problem.indices]
    np.testing.assert_allclose(
        bank[problem.indices],
        old / np.linalg.norm(old, axis=1, keepdims=True),
        atol=5e-7,
    )


def test_zero_embedding_on_a_zero_row_is_finite() -> None:
    assert np.all(
        np.isfinite(
            update_bank(
                np.zeros((3, 2), np.float32),
                np.array([1]),
                np.zeros((1, 2), np.float32),
            )
        )
    )


def test_permuting_the_batch_changes_nothing(make_problem) -> None:
    problem = make_problem(5, batch=9)
    order = np.random.default_rng(5).permutation(9)
    np.testing.assert_allclose(
        update_bank(problem.bank, problem.indices[order], problem.embeddings[order]),
        update_bank(problem.bank, problem.indices, problem.embeddings),
        atol=1e-7,
    )


@pytest.mark.parametrize("num_devices", [1, 4, 8])
def test_rows_over_devices(make_problem, num_devices: int) -> None:
    # 29 rows over 4 or 8 devices: three rows of padding, which must stay zero.
    problem = make_problem(6, num_examples=29, batch=16)
    padding = -29 % num_devices
    bank = np.pad(problem.bank, ((0, padding), (0, 0)))

    def split(array: np.ndarray) -> np.ndarray:
        return array.reshape(num_devices, -1, *array.shape[1:])

    def update(bank: jax.Array, indices: jax.Array, embeddings: jax.Array) -> jax.Array:
        return update_bank(bank, indices, embeddings, momentum=0.3, axis_name="batch")

    per_device = jax.jit(jax.vmap(update, axis_name="batch"))(
        split(bank), split(problem.indices), split(problem.embeddings)
    )
    result = np.asarray(per_device).reshape(bank.shape)
    np.testing.assert_array_equal(result[29:], 0)
    np.testing.assert_allclose(
        result[:29],
        update_bank(problem.bank, problem.indices, problem.embeddings, momentum=0.3),
        atol=1e-7,
        rtol=0,
    )
    rest = np.setdiff1d(np.arange(29), problem.indices)
    np.testing.assert_array_equal(result[rest], problem.bank[rest])


def test_bfloat16_embeddings_leave_a_float32_bank(make_problem) -> None:
    # A mixed-precision encoder must not turn the bank into bfloat16, nor should the average be taken in it.
    problem = make_problem(7)
    short = jnp.asarray(problem.embeddings, jnp.bfloat16)
    bank = update_bank(problem.bank, problem.indices, short)
    assert bank.dtype == jnp.float32
    np.testing.assert_allclose(
        bank,
        update_bank(problem.bank, problem.indices, np.asarray(short, np.float32)),
        atol=1e-7,
    )


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_momentum_outside_the_unit_interval_is_an_error(
    make_problem, momentum: float
) -> None:
    problem = make_problem(8)
    with pytest.raises(ValueError, match="momentum"):
        update_bank(
            problem.bank, problem.indices, problem.embeddings, momentum=momentum
        )


@pytest.mark.parametrize("scale", [3e38, 1e20, 1.0, 1e-20, 1e-37])
def test_rows_of_any_length_are_scaled_to_one(scale: float) -> None:
    x = np.array([[0.75, -1.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]], np.float32)
    expected = [[0.6, -0.8, 0], [0, 0, 1], [0, 0, 0]]
    found = normalize(x * np.float32(scale))
    np.testing.assert_allclose(found, expected, atol=2e-7)


def test_the_gradient_of_a_unit_row_is_exact_at_any_scale() -> None:
    """d(x / |x|) = (g - u <u, g>) / |x|, and a row of zeros is finite."""
    random = np.random.default_rng(0)
    g = random.normal(size=8).astype(np.float32)
    for scale in (1e20, 1.0, 1e-15):
        x = (scale * random.normal(size=8)).astype(np.float32)
        length = np.linalg.norm(np.float64(x))
        unit = x / length
        expected = (g - unit * (unit @ g)) / length
        found = jax.grad(lambda x: normalize(x) @ g)(x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6 / length)
    zero = jax.grad(lambda x: normalize(x) @ g)(np.zeros(8, np.float32))
    assert np.isfinite(zero).all()


def test_ordinary_rows_keep_every_bit() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(500, 64)) * random.uniform(1e-6, 1e6, (500, 1))
    x = jnp.asarray(x, jnp.float32)
    plain = x * jax.lax.rsqrt(jnp.square(x).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(normalize(x), plain)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_nan_and_no_other(value: float) -> None:
    x = np.array([[1.0, value], [3.0, 4.0]], np.float32)
    found = np.asarray(normalize(x))
    assert np.isnan(found[0, 1])
    np.testing.assert_allclose(found[1], [0.6, 0.8], atol=1e-7)


@pytest.mark.parametrize("num_devices", [1, 3, 8])
def test_rows_are_found_wherever_they_lie(num_devices: int) -> None:
    bank = np.random.default_rng(0).normal(size=(21, 4)).astype(np.float32)
    ids = np.array([20, 0, 7, 7, 13], np.int32)
    alone = take_rows(jax.numpy.asarray(bank), ids, None)
    np.testing.assert_array_equal(alone, bank[ids])
    runner = devices.make_runner("pmap", num_devices)
    look = runner.compile(
        partial(take_rows, axis_name=AXIS), (SHARDED, REPLICATED), REPLICATED
    )
    found = look(runner.put(bank, SHARDED), runner.put(ids, REPLICATED))
    np.testing.assert_array_equal(runner.fetch(found, REPLICATED, 0), bank[ids])
