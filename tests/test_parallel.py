"""Collectives do to the whole batch what their names say, however it is divided."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation import devices
from invariance_propagation.parallel import AXIS, SHARDED, reverse_rows

ROWS = 8
WHOLE = np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3)


@pytest.mark.parametrize("mode", devices.MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_whole_batch_is_reversed(mode: str, count: int) -> None:
    runner = devices.make_runner(mode, count)
    reverse = runner.compile(partial(reverse_rows, axis_name=AXIS), (SHARDED,), SHARDED)
    found = runner.fetch(reverse(runner.put(WHOLE, SHARDED)), SHARDED, ROWS)
    np.testing.assert_array_equal(found, WHOLE[::-1])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_it_is_reversed_under_vmap_along_any_axis(count: int) -> None:
    # As views lie: [v, B, ...].
    views = WHOLE.swapaxes(0, 1)
    divided = views.reshape(2, count, ROWS // count, 3).swapaxes(0, 1)
    reverse = partial(reverse_rows, axis_name=AXIS, axis=1)
    found = jax.vmap(reverse, axis_name=AXIS)(divided)
    found = found.swapaxes(0, 1).reshape(views.shape)
    np.testing.assert_array_equal(found, views[:, ::-1])


def test_one_device_reverses_alone_and_keys_too() -> None:
    np.testing.assert_array_equal(reverse_rows(WHOLE, None), WHOLE[::-1])
    np.testing.assert_array_equal(reverse_rows(jnp.arange(3), None), [2, 1, 0])
    keys = jax.random.split(jax.random.key(0), 6)
    found = jax.vmap(partial(reverse_rows, axis_name=AXIS), axis_name=AXIS)(
        keys.reshape(3, 2)
    )
    data = jax.random.key_data
    np.testing.assert_array_equal(data(found.reshape(6)), data(keys[::-1]))


def test_a_device_receives_only_its_own_rows() -> None:
    runner = devices.make_runner("shard_map", 4)
    reverse = runner.compile(partial(reverse_rows, axis_name=AXIS), (SHARDED,), SHARDED)
    program = reverse.lower(runner.put(WHOLE, SHARDED)).compile().as_text()
    assert "collective-permute" in program and "all-gather" not in program
