"""The background's threshold, against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.core.nearest import BLOCK, block_maxima
from invariance_propagation.core.threshold import (
    Threshold,
    background_threshold,
)
from tests.tied_rows import KINDS, rows

find_threshold = jax.jit(background_threshold, static_argnums=(3, 4, 5))


def find(x: np.ndarray, size: int, split: int = 0, axis: int = 1) -> Threshold:
    """Finds the threshold; the last `split` columns count as looked up."""
    rest, few = jnp.array(x[:, : x.shape[1] - split]), x[:, x.shape[1] - split :]
    few = jnp.concatenate([jnp.full((len(x), 1), -jnp.inf), few], axis=1)
    maxima = block_maxima(rest, BLOCK)
    return find_threshold(rest, few, maxima, size, None, axis)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("columns", "size", "split"),
    [
        (1, 1, 0),
        (7, 7, 3),
        (300, 1, 0),
        (300, 299, 5),
        (1000, 10, 7),
        (1000, 400, 7),
        (1031, 400, 7),  # 1,024 columns, in several parts down the columns
    ],
)
def test_threshold_is_that_of_a_sort(
    kind: str, axis: int, columns: int, size: int, split: int
) -> None:
    x = rows(kind, columns)
    threshold = find(x, size, split, axis)
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
    weights = find(x, 10).weights(jnp.array(x))
    assert weights[1, 5] == 1.0
    assert (weights[2] == 1.0).all()
    np.testing.assert_allclose(np.sum(weights[0]), 10)
