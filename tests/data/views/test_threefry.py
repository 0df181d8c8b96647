"""Compares the host's random numbers and choices with the device's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.data.views.augment import keys_of_view, per_image_keys
from invariance_propagation.data.views.chance import NUMBERS, draw, make_odds
from invariance_propagation.data.views.options import Augmentation
from invariance_propagation.data.views.threefry import host_uniforms

INDICES = np.array([0, 1, 2, 255, 70000, 1281166, 2**31 - 1], np.int32)
device_uniforms = jax.jit(
    lambda seed, epoch, indices, shape: jax.vmap(
        lambda key: jax.random.uniform(key, shape)
    )(per_image_keys(seed, epoch, indices)),
    static_argnums=(0, 3),
)


@pytest.mark.parametrize("seed", [0, 1, 7, 20261125, 2**31 - 1, 2**31, 2**32 - 1])
def test_numbers_are_jaxs_bit_for_bit(seed: int) -> None:
    for epoch in (0, 1, 2, 799, 2**31 - 1):
        expected = np.asarray(device_uniforms(seed, epoch, INDICES, NUMBERS))
        found = host_uniforms(seed, epoch, INDICES, NUMBERS)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("shape", [(1,), (3, 5, 2)])
def test_numbers_of_any_shape(shape: tuple[int, ...]) -> None:
    indices = np.random.default_rng(0).integers(0, 2**31, 500)
    expected = device_uniforms(3, 4, indices, shape)
    np.testing.assert_array_equal(host_uniforms(3, 4, indices, shape), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_hosts_chance_is_the_devices(channels: int) -> None:
    options = Augmentation(
        size=8,
        crop_scale=(),
        flip=0.5,
        jitter=(0.4, 0.3, 0.5, 0.1),
        jitter_probability=0.8,
        grayscale=0.3,
        blur=0.5,
        blur_sigma=(0.1, 2.0),
    )
    odds = make_odds(channels, options)
    uniform = host_uniforms(0, 0, np.arange(2000), NUMBERS)
    found = draw(uniform, odds)
    one_by_one = jax.jit(jax.vmap(lambda numbers: draw(numbers, odds)))
    expected = one_by_one(jnp.asarray(uniform))
    for name in ("order", "applied"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("warp", "factors", "sigma"):
        assert getattr(found, name).dtype == np.float32
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-7
        )


def test_several_views_of_an_image_have_numbers_of_their_own() -> None:
    keys = per_image_keys(3, 2, jnp.asarray(INDICES))
    draw = jax.vmap(lambda key: jax.random.uniform(key, NUMBERS))
    for view in (0, 1, 7):
        expected = draw(keys_of_view(keys, view))
        found = host_uniforms(3, 2, INDICES, NUMBERS, view=view)
        np.testing.assert_array_equal(found, expected)
    first = host_uniforms(3, 2, INDICES, NUMBERS)
    np.testing.assert_array_equal(first, draw(keys))
