"""Compares colours with torchvision's definitions and the oracles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from invariance_propagation.data.views import color, host
from tests.data.pictures import picture, planes, unit
from tests.reference import augment as oracle

adjust = {
    name: jax.jit(getattr(color, f"adjust_{name}"))
    for name in ("brightness", "contrast", "saturation", "hue")
}


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.7])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("channels", [1, 3])
def test_blends(patches, name: str, factor: float, channels: int) -> None:
    for patch in unit(patches[:3, :, :, :channels]):
        expected = getattr(oracle, name)(patch, factor)
        result = adjust[name](planes(patch), factor)
        np.testing.assert_allclose(picture(result), expected, atol=5e-7)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.03, 0.5])
def test_hue(patches, shift: float) -> None:
    levels = np.array([0, 0.25, 1])  # all orders and ties of the channels, and grays
    ties = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, 3, 3)
    for image in (unit(patches[0]), unit(patches[1]), ties):
        result = picture(adjust["hue"](planes(image), shift))
        np.testing.assert_allclose(result, oracle.hue(image, shift), atol=2e-6)


def test_channels_are_red_green_blue() -> None:
    red, green, blue = np.eye(3)[:, None, None]
    for before, after in ((red, green), (green, blue), (blue, red)):
        turned = picture(adjust["hue"](planes(before), 1 / 3))
        np.testing.assert_allclose(turned, after, atol=1e-6)
    grays = [float(color.gray(planes(x))[0, 0, 0]) for x in (red, green, blue)]
    np.testing.assert_allclose(grays, [0.299, 0.587, 0.114], atol=1e-7)
    gray = np.asarray(Image.new("RGB", (1, 1), (200, 100, 50)).convert("L"), np.float64)
    pixel = np.array([[[200, 100, 50]]]) / 255
    np.testing.assert_allclose(color.gray(planes(pixel))[0], gray / 255, atol=1 / 255)


def test_gray_is_the_oracle(patches) -> None:
    patch = unit(patches[0])
    np.testing.assert_allclose(
        color.gray(planes(patch))[0], oracle.luminance(patch), atol=2e-7
    )


def test_jitter_in_a_given_order(patches) -> None:
    names = ["hue", "contrast", "brightness", "saturation"]
    functions = [getattr(color, f"adjust_{name}") for name in names]
    jitter = jax.jit(partial(color.color_jitter, adjustments=functions))
    factors = {"hue": 0.07, "contrast": 1.6, "brightness": 1.5, "saturation": 0.5}
    patch = unit(patches[1])
    results = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        used = [names[i] for i in order]
        values = np.array([factors[name] for name in used], np.float32)
        result = jitter(planes(patch), jnp.array(order), values)
        expected = oracle.color_jitter(patch, used, values)
        np.testing.assert_allclose(picture(result), expected, atol=3e-6)
        results.append(expected)
    assert np.abs(results[0] - results[1]).max() > 0.1  # the order matters here


def test_jitter_ranges() -> None:
    names, ranges = color.jitter_ranges((0.4, 1.3, 0.2, 0.1), 3)
    assert names == ("brightness", "contrast", "saturation", "hue")
    np.testing.assert_allclose(
        ranges, [(0.6, 1.4), (0, 2.3), (0.8, 1.2), (-0.1, 0.1)], atol=1e-12
    )
    names, ranges = color.jitter_ranges((0.4, 0, 0, 0.1), 3)
    assert names == ("brightness", "hue")
    assert ranges == ((0.6, 1.4), (-0.1, 0.1))
    names, _ = color.jitter_ranges((0.4, 0.4, 0.4, 0.1), 1)
    assert names == ("brightness", "contrast")


def test_solarize_is_pils_at_every_level(patches) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(levels)))
    assert expected.max() == 127 and expected[8, 0] == 127 and expected[15, 15] == 0
    found = 255 * np.asarray(color.solarize(planes(unit(levels)[:, :, None])))
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    np.testing.assert_array_equal(host.SOLARIZED[levels], expected)
    patch = unit(patches[0])
    found = picture(color.solarize(planes(patch)))
    np.testing.assert_allclose(found, oracle.solarize(patch), atol=2e-7)
