"""Compares views made on the host with the device's of the same seed, epoch and index.

Errors are in grey levels, of 255. The host rounds to whole ones after each operation.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invariance_propagation.data.views import host
from invariance_propagation.data.views.augment import augment, per_image_keys
from invariance_propagation.data.views.chance import NUMBERS
from invariance_propagation.data.views.threefry import host_uniforms

OFF = dict(
    crop_scale=(),
    flip=0.0,
    jitter=(),
    jitter_probability=1.0,
    grayscale=0.0,
    blur=0.0,
)
ALL = dict(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_probability=0.8,
    grayscale=0.2,
    blur=0.5,
    solarize=0.3,
)
WARP = dict(rotation=20.0, shear=0.3, stretch=0.2)
EPOCHS = range(4)
SEED = 3


def errors(images: np.ndarray, size: int, **options) -> np.ndarray:
    """Returns the differences of host and device in grey levels, [epochs, n, size, size, C]."""
    channels, indices = images.shape[3], np.arange(len(images)) * 70001
    neutral = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    on_device = jax.jit(partial(augment, size=size, **neutral, **options))
    found = []
    for epoch in EPOCHS:
        keys = per_image_keys(SEED, epoch, jnp.asarray(indices))
        expected = 255 * np.asarray(on_device(keys, images))
        numbers = host_uniforms(SEED, epoch, indices, NUMBERS)
        made = host.views(images, numbers, channels=channels, size=size, **options)
        views = np.stack(list(made))
        assert views.dtype == np.uint8 and views.shape == expected.shape
        found.append(np.abs(views - expected))
    return np.stack(found)


@pytest.mark.parametrize(
    ("part", "largest"),
    [
        ({}, 0.51),
        ({"crop_scale": (0.2, 1.0)}, 0.51),
        (WARP, 0.51),
        (WARP | {"crop_scale": (0.2, 1.0)}, 0.51),
        ({"jitter": (0.4, 0.0, 0.0, 0.0)}, 0.51),
        ({"jitter": (0.0, 0.4, 0.0, 0.0)}, 0.51),
        ({"jitter": (0.0, 0.0, 0.4, 0.0)}, 1.0),
        ({"jitter": (0.0, 0.0, 0.0, 0.5)}, 0.51),
        ({"grayscale": 1.0}, 0.51),
        ({"blur": 1.0}, 2.0),
        ({"flip": 1.0}, 0.001),
        ({"solarize": 1.0}, 0.001),
    ],
)
def test_each_part_is_the_devices(patches, part: dict, largest: float) -> None:
    # Square, so that only a part that asks for it is resized.
    size = 24 if not part or "crop_scale" in part or part is WARP else 40
    found = errors(patches[:, :, :40], size, **OFF | part)
    assert found.max() <= largest
    assert found.mean() <= 0.3


@pytest.mark.parametrize("jitter_first", [True, False])
@pytest.mark.parametrize("warp", [{}, WARP])
def test_all_parts_together_are_the_devices(patches, jitter_first, warp) -> None:
    found = errors(patches, 32, **ALL, **warp, jitter_first=jitter_first)
    assert found.mean() < 0.45
    assert found.mean(axis=(2, 3, 4)).max() < 1
    assert found.max() < 6


@pytest.mark.parametrize("warp", [{}, WARP])
def test_views_of_gray_images_are_the_devices(digits, warp) -> None:
    found = errors(digits[:100], 8, **ALL, **warp)
    assert found.mean() < 0.45
    assert found.max() < 4


def test_views_of_a_photo_are_the_devices(photo) -> None:
    # As large as in ImageNet, and already cropped.
    crops = np.stack([photo[:224, i : i + 224] for i in range(0, 400, 100)])
    found = errors(crops, 224, **ALL | {"crop_scale": ()})
    assert found.mean() < 0.45
    assert found.max() < 6


def test_images_may_be_of_any_shape(patches) -> None:
    numbers = host_uniforms(0, 0, np.arange(3), NUMBERS)
    images = [patches[0], patches[1][:9], patches[2][:, :5]]
    views = host.views(images, numbers, channels=3, size=16, **ALL)
    assert [view.shape for view in views] == [(16, 16, 3)] * 3
