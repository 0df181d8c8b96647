"""Compares crops, resizing, warps and blur with PIL, OpenCV and the oracles."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from invariance_propagation.data.views import geometry
from tests.data.pictures import picture, planes, unit
from tests.reference import augment as oracle

FULL_RATIO = (3 / 4, 4 / 3)
resize = jax.jit(geometry.resize, static_argnums=1)
warp = jax.jit(geometry.warp, static_argnums=1)
blur = jax.jit(geometry.gaussian_blur, static_argnums=2)

BOXES = [
    ((0, 0, 427, 640), 64),  # the whole picture, 7 and 10 times smaller
    ((100, 200, 130, 97), 64),
    ((31, 400, 17, 240), 64),  # larger in one direction, smaller in the other
    ((5, 7, 3, 1), 16),  # a single column
    ((200, 300, 64, 64), 64),  # neither
]


@pytest.mark.parametrize(("box", "size"), BOXES)
def test_resized_crop_is_pil_and_the_oracle(photo, box, size: int) -> None:
    result = picture(resize(photo, size, jnp.array(box)))
    assert result.shape == (size, size, 3)
    np.testing.assert_allclose(
        result, oracle.resized_crop(unit(photo), box, size), atol=2e-5
    )
    # `crop`, then `resize`: with `resize(box=...)` PIL lets pixels in from outside.
    top, left, height, width = box
    for channel in range(3):
        image = Image.fromarray(photo[:, :, channel].astype(np.float32))
        image = image.crop((left, top, left + width, top + height))
        expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(result[:, :, channel], expected / 255, atol=2e-5)


@pytest.mark.parametrize(
    "box", [(0.3, 1.7, 5.2, 6.1), (2.0, 0.9, 5.5, 4.0), (7.4, 3.2, 0.3, 0.2)]
)
def test_a_box_may_begin_and_end_inside_pixels(digits, box) -> None:
    for digit in digits[:3]:
        expected = oracle.resized_crop(unit(digit), box, 8)
        result = picture(resize(digit, 8, jnp.array(box)))
        np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize(
    "matrix", [((1, 0), (0, 1)), ((1, 0), (-0.6, 1)), ((0.7, 0.4), (-0.5, 1.3))]
)
@pytest.mark.parametrize(
    ("box", "size"), [((0, 0, 8, 8), 8), ((0.3, 1.7, 5.2, 6.1), 8), ((0, 0, 8, 8), 5)]
)
def test_a_warped_crop_is_the_oracle(digits, box, size: int, matrix) -> None:
    for digit in digits[:3]:
        expected = oracle.warped_crop(unit(digit), box, matrix, size)
        result = picture(warp(digit, size, jnp.array(box), jnp.array(matrix)))
        np.testing.assert_allclose(result, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("part", "options", "expected"),
    [
        (0, {"rotation": 90.0}, [[0, 1], [-1, 0]]),
        (1, {"shear": 0.4}, [[1, 0], [0.4, 1]]),
        (2, {"stretch": 0.25}, [[1.25, 0], [0, 1]]),
        (3, {"stretch": 0.25}, [[1, 0], [0, 1.25]]),
    ],
)
def test_each_part_of_the_warp(part: int, options: dict, expected: list) -> None:
    off = {"rotation": 0.0, "shear": 0.0, "stretch": 0.0}
    matrix = geometry.warp_matrix(jnp.eye(4)[part], **off | options)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    back = geometry.warp_matrix(-jnp.eye(4)[part], **off | options)
    np.testing.assert_allclose(back @ matrix, np.eye(2), atol=1e-6)


def test_the_warp_stretches_then_leans_then_turns() -> None:
    quarter, half = 90.0, 0.5
    matrix = geometry.warp_matrix(jnp.ones(4), quarter, half, half)
    expected = np.array([[0, 1], [-1, 0]]) @ [[1, 0], [half, 1]] * 1.5
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("size", [5, 8, 13])
def test_resize_of_digits(digits, size: int) -> None:
    for digit in digits[:3]:
        expected = oracle.resized_crop(unit(digit), (0, 0, 8, 8), size)
        np.testing.assert_allclose(picture(resize(digit, size)), expected, atol=2e-6)


def test_pixels_outside_the_box_have_no_influence(photo) -> None:
    box = (100, 200, 130, 97)
    other = 255 - photo
    other[100:230, 200:297] = photo[100:230, 200:297]
    first, second = (resize(image, 32, jnp.array(box)) for image in (photo, other))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("size", "radius"), [(40, 6), (40, 3), (8, 6), (4, 3)])
@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0])
def test_blur_is_opencv_and_the_oracle(
    photo, sigma: float, size: int, radius: int
) -> None:
    image = unit(photo[150 : 150 + size, 300 : 300 + size])
    result = picture(blur(planes(image), sigma, radius))
    np.testing.assert_allclose(
        result, oracle.gaussian_blur(image, sigma, radius), atol=1e-6
    )
    kernel = (2 * radius + 1, 2 * radius + 1)
    expected = cv2.GaussianBlur(
        image, kernel, sigmaX=sigma, sigmaY=sigma, borderType=cv2.BORDER_REFLECT_101
    )
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_close_to_that_of_the_reference_code(photo, sigma: float) -> None:
    # PIL replaces the Gaussian by three box filters, and repeats the edges. The sigma
    # that comes nearest to it, to less than one of 255 grey levels, is its radius.
    image = photo[250:314, 250:314]
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))
    expected = unit(np.asarray(blurred))[8:-8, 8:-8]
    results = [
        picture(blur(planes(unit(image)), k * sigma, 6)) for k in (0.9, 1.0, 1.1)
    ]
    less, same, more = (np.abs(x[8:-8, 8:-8] - expected).mean() for x in results)
    assert same < min(less, more, 1 / 255)


CROPS = [
    ((32, 32), (0.2, 1.0), FULL_RATIO),
    ((8, 8), (0.2, 1.0), FULL_RATIO),
    ((427, 640), (0.08, 1.0), FULL_RATIO),
    ((20, 100), (0.3, 1.0), FULL_RATIO),  # wide: often none of the ten tries fits
    ((100, 20), (0.3, 1.0), (0.5, 1.0)),
    ((3, 100), (0.9, 1.0), (1.0, 1.0)),  # none ever fits
]


@pytest.mark.parametrize(("shape", "scale", "ratio"), CROPS)
def test_boxes_are_the_oracles(shape, scale, ratio) -> None:
    uniform = np.random.default_rng(1).random((3000, 2, 11), np.float32)
    crop = partial(geometry.crop_box, shape=shape, scale=scale, ratio=ratio)
    boxes = np.asarray(jax.jit(jax.vmap(crop))(uniform))
    expected = np.array([oracle.crop_box(u, shape, scale, ratio) for u in uniform])
    on_host = np.array([crop(u) for u in uniform])
    assert on_host.dtype == np.float32
    same = np.all(np.abs(boxes - on_host) < 1e-4 * max(shape), axis=1)
    assert same.mean() > 0.998
    # A try that fits by a hair in float64 may not do so in float32.
    same = np.all(np.abs(boxes - expected) < 1e-4 * max(shape), axis=1)
    assert same.mean() > 0.998
    assert np.all((boxes[:, :2] >= 0) & (boxes[:, 2:] > 0))
    assert np.all(boxes[:, :2] + boxes[:, 2:] <= np.array(shape) * (1 + 1e-6))


def test_central_box_when_nothing_fits() -> None:
    crop = jax.jit(geometry.crop_box, static_argnums=(1, 2, 3))
    uniform = np.random.default_rng(2).random((2, 11), np.float32)
    for shape, box in (
        ((10, 101), (0, 44.25, 10, 12.5)),
        ((101, 10), (44.25, 0, 12.5, 10)),
    ):
        result = crop(uniform, shape, (0.9, 1.0), (0.8, 1.25))
        np.testing.assert_allclose(result, box)


def test_a_warp_that_shrinks_is_antialiased(photo) -> None:
    # A turn by nothing: what a resize shows, whose tents are as wide.
    image, box, same = photo[:256, :256], (0, 0, 256, 256), jnp.eye(2)
    expected = picture(resize(image, 64, jnp.array(box, jnp.float32)))
    found = picture(warp(image, 64, jnp.array(box, jnp.float32), same))
    inner = slice(2, -2)  # at the edge one is cut and the other is black
    differences = 255 * np.abs(found - expected)[inner, inner]
    assert differences.max() < 4
    stripes = np.zeros((90, 90, 3), np.uint8)
    stripes[:, ::2] = 255
    found = picture(warp(stripes, 20, jnp.array((0.0, 0, 90, 90)), same))
    assert 255 * found[inner, inner].std() < 4  # 128 if pixels are left out


def test_a_warp_that_does_not_shrink_is_not_smoothed() -> None:
    for scale in (0.3, 1.0):
        matrix = geometry.smoothing_matrix(jnp.float32(scale), 9)
        np.testing.assert_array_equal(matrix, np.eye(9))
    matrix = np.asarray(geometry.smoothing_matrix(jnp.float32(3), 31))
    distances = np.arange(31) - 15
    assert matrix[15] @ distances**2 == pytest.approx((3**2 - 1) / 6)
