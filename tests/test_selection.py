"""The background's threshold and the nearest columns, against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.selection import (
    Entries,
    background_threshold,
    block_maxima,
    block_size,
    nearest,
    nearest_of_all,
)


def rows(kind: str, columns: int) -> np.ndarray:
    """float32 [5, columns] of a distribution that is not kind to interpolation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, columns))
    return {
        "normal": x,
        "grid": np.round(4 * x) / 4,
        "equal": np.zeros_like(x),
        "two values": np.sign(x),
        "near zero": x * 1e-39,
        "far apart": x * 10.0 ** rng.integers(-30, 30, x.shape),
        "sorted": np.sort(x, axis=1),
        "one outlier": np.where(np.arange(columns) == 3, 1e30, x),
    }[kind].astype(np.float32)


KINDS = (
    "normal",
    "grid",
    "equal",
    "two values",
    "near zero",
    "far apart",
    "sorted",
    "one outlier",
)


def entries(x: np.ndarray, size: int, split: int) -> tuple[Entries, int]:
    """The last `split` columns are those that were looked up."""
    rest, few = jnp.array(x[:, : x.shape[1] - split]), x[:, x.shape[1] - split :]
    few = jnp.concatenate([jnp.full((len(x), 1), -jnp.inf), few], axis=1)
    block = block_size(rest.shape[1], size)
    return Entries(rest, block_maxima(rest, block), few), block


find = jax.jit(background_threshold, static_argnums=(1, 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("columns", "size", "split"),
    [(1, 1, 0), (7, 7, 3), (300, 1, 0), (300, 299, 5), (1000, 10, 7), (1000, 400, 7)],
)
def test_threshold_is_that_of_a_sort(
    kind: str, columns: int, size: int, split: int
) -> None:
    x = rows(kind, columns)
    threshold = find(entries(x, size, split)[0], size, None)
    weights = np.asarray(threshold.weights(jnp.array(x)))
    if kind == "near zero":  # flushed to zero by the processor: all are equal
        x = np.zeros_like(x)
    for row, weight in zip(x, weights, strict=True):
        last = np.sort(row)[-size]
        tied = row == last
        share = (size - np.sum(row > last)) / np.sum(tied)
        expected = np.where(row > last, 1.0, np.where(tied, share, 0.0))
        np.testing.assert_allclose(weight, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, -np.nan])
def test_a_nan_ends_the_search_and_shows(value: float) -> None:
    x = rows("normal", 100)
    x[1, 5], x[2] = value, value
    weights = find(entries(x, 10, 0)[0], 10, None).weights(jnp.array(x))
    assert weights[1, 5] == 1.0
    assert (weights[2] == 1.0).all()
    np.testing.assert_allclose(np.sum(weights[0]), 10)


# Whether floats near zero are equal is the processor's choice.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "near zero"])
@pytest.mark.parametrize(("columns", "count"), [(4, 4), (100, 1), (1000, 4), (1000, 9)])
def test_nearest_are_those_of_a_stable_sort(
    kind: str, columns: int, count: int
) -> None:
    x, split = rows(kind, columns), 2
    found, block = entries(x, 20, split)
    found = found._replace(few=found.few[:, 1:])
    places = jnp.broadcast_to(jnp.arange(columns - split, columns), (len(x), split))
    result = nearest_of_all(nearest(found, places, block, count, None), count, None)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("columns", "block"), [(64, 16), (65, 16), (5, 8), (7, 1)])
def test_block_maxima(columns: int, block: int) -> None:
    x = rows("normal", columns)
    starts = range(0, columns, block)
    expected = [x[:, start : start + block].max(axis=1) for start in starts]
    np.testing.assert_array_equal(block_maxima(x, block), np.stack(expected, axis=1))


def test_blocks_hold_one_of_the_largest_or_none() -> None:
    assert block_size(60_000, 4096) == 8
    assert block_size(1_281_167, 4096) == 64  # the most there are
    assert block_size(100, 100) == 1
    assert block_size(10, 100) == 1
