"""The nearest columns, against sorting."""

import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.core.nearest import (
    BLOCK,
    Nearest,
    block_maxima,
    nearest,
    nearest_of_all,
)
from tests.tied_rows import KINDS, rows


# Some processors treat floats near zero as equal.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "near zero"])
@pytest.mark.parametrize(("columns", "count"), [(4, 4), (100, 1), (1000, 4), (1000, 9)])
def test_nearest_are_those_of_a_stable_sort(
    kind: str, columns: int, count: int
) -> None:
    x, split = rows(kind, columns), 2
    rest, few = jnp.array(x[:, :-split]), x[:, -split:]
    places = jnp.broadcast_to(jnp.arange(columns - split, columns), few.shape)
    maxima, few = block_maxima(rest, BLOCK), Nearest(few, places)
    result = nearest_of_all(nearest(rest, maxima, few, count, None), count, None)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("columns", "block"), [(64, 16), (65, 16), (5, 8), (7, 1)])
def test_block_maxima(columns: int, block: int) -> None:
    x = rows("normal", columns)
    starts = range(0, columns, block)
    expected = [x[:, start : start + block].max(axis=1) for start in starts]
    np.testing.assert_array_equal(
        block_maxima(jnp.array(x), block), np.stack(expected, axis=1)
    )
