"""The augmentation against torchvision's definitions, PIL, OpenCV and statistics."""

import functools
import inspect
import math
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import stats
from sklearn.datasets import load_digits, load_sample_image

from invariance_propagation.data import augment as module
from invariance_propagation.data.augment import per_image_keys
from invariance_propagation.errors import UserError
from tests.reference import augment as oracle

OFF = dict(
    crop_scale=(),
    flip=0.0,
    jitter=(),
    jitter_probability=0.0,
    grayscale=0.0,
    blur=0.0,
)
ALL = dict(
    crop_scale=(0.2, 1.0),
    flip=0.5,
    jitter=(0.4, 0.3, 0.5, 0.1),
    jitter_probability=0.8,
    grayscale=0.3,
    blur=0.5,
)
STATISTICS = {
    1: dict(mean=(0.3,), std=(0.2,)),
    3: dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
}
FULL_RATIO = (3 / 4, 4 / 3)
PROBABILITIES = ("jitter_probability", "grayscale", "blur", "flip")


def compiled(function):
    """`function` with its keyword-only options static, under strict promotion."""
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    jitted = jax.jit(function, static_argnames=options)

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.numpy_dtype_promotion("strict"):
            return jitted(*args, **kwargs)

    return call


augment, normalize = compiled(module.augment), compiled(module.normalize)
resize = jax.jit(module.resize, static_argnums=1)
warp = jax.jit(module.warp, static_argnums=1)
blur = jax.jit(module.gaussian_blur, static_argnums=2)
adjust = {
    name: jax.jit(getattr(module, f"adjust_{name}"))
    for name in ("brightness", "contrast", "saturation", "hue")
}


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [427, 640, 3]: a building, sky, saturated colours."""
    return load_sample_image("china.jpg")


@pytest.fixture(scope="module")
def patches(photo: np.ndarray) -> np.ndarray:
    """uint8 [24, 40, 52, 3]: 24 small pictures with colour and detail in them."""
    flower = load_sample_image("flower.jpg")
    patches = [
        (photo if i % 2 else flower)[200 + 6 * i :, 60 + 16 * i :][:40, :52]
        for i in range(24)
    ]
    assert min(patch.std() for patch in patches) > 20
    return np.stack(patches)


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """uint8 [1797, 8, 8, 1]."""
    return (load_digits().images[..., None] * 255 / 16).astype(np.uint8)


def planes(image: np.ndarray) -> jax.Array:
    """[height, width, C] in [0, 1] -> planes."""
    return jnp.asarray(np.moveaxis(image, -1, 0), jnp.float32)


def picture(planes: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(planes, np.float64), 0, -1)


def unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float64) / 255


def standardized(image: np.ndarray) -> np.ndarray:
    """[..., C] in [0, 1] -> what `augment` and `normalize` return."""
    statistics = STATISTICS[image.shape[-1]]
    return (image - np.array(statistics["mean"])) / np.array(statistics["std"])


@functools.cache
def draws(
    indices: range, shape: tuple[int, int] = (32, 32), channels: int = 3, **changes
) -> module.Chance:
    """Chance of the images `indices` under ALL with `changes`, as NumPy arrays."""
    options = {"crop_ratio": FULL_RATIO, "blur_sigma": (0.1, 2.0)} | ALL | changes
    draw = partial(
        module.draw,
        shape=shape,
        crop_scale=options["crop_scale"],
        crop_ratio=options["crop_ratio"],
        ranges=module.color_adjustments(options["jitter"], channels)[1],
        blur_sigma=options["blur_sigma"],
        probabilities=[options[name] for name in PROBABILITIES],
    )
    keys = per_image_keys(3, 5, jnp.arange(indices.start, indices.stop))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


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
    matrix = module.warp_matrix(jnp.eye(4)[part], **off | options)
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    back = module.warp_matrix(-jnp.eye(4)[part], **off | options)
    np.testing.assert_allclose(back @ matrix, np.eye(2), atol=1e-6)


def test_the_warp_stretches_then_leans_then_turns() -> None:
    quarter, half = 90.0, 0.5
    matrix = module.warp_matrix(jnp.ones(4), quarter, half, half)
    expected = np.array([[0, 1], [-1, 0]]) @ [[1, 0], [half, 1]] * 1.5
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_the_warp_is_drawn_evenly_on_both_sides() -> None:
    warps = draws(range(20000), (8, 8)).warp
    for sample in warps.T:
        assert stats.kstest((sample + 1) / 2, "uniform").pvalue > 1e-3
    assert np.abs(np.corrcoef(warps.T) - np.eye(4)).max() < 5 / math.sqrt(20000)


@pytest.mark.parametrize("part", ["rotation", "shear", "stretch"])
def test_a_warp_of_nothing_changes_nothing(digits, part: str) -> None:
    keys = per_image_keys(0, 0, jnp.arange(8))
    options = OFF | STATISTICS[1] | {"size": 8}
    plain = augment(keys, digits[:8], **options)
    barely = augment(keys, digits[:8], **options, **{part: 1e-6})
    np.testing.assert_allclose(plain, barely, atol=1e-4)
    assert (
        np.abs(plain - augment(keys, digits[:8], **options, **{part: 0.5})).max() > 0.02
    )


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
    grays = [float(module.gray(planes(color))[0, 0, 0]) for color in (red, green, blue)]
    np.testing.assert_allclose(grays, [0.299, 0.587, 0.114], atol=1e-7)
    gray = np.asarray(Image.new("RGB", (1, 1), (200, 100, 50)).convert("L"), np.float64)
    color = np.array([[[200, 100, 50]]]) / 255
    np.testing.assert_allclose(module.gray(planes(color))[0], gray / 255, atol=1 / 255)


def test_gray_is_the_oracle(patches) -> None:
    patch = unit(patches[0])
    np.testing.assert_allclose(
        module.gray(planes(patch))[0], oracle.luminance(patch), atol=2e-7
    )


def test_jitter_in_a_given_order(patches) -> None:
    names = ["hue", "contrast", "brightness", "saturation"]
    functions = [getattr(module, f"adjust_{name}") for name in names]
    jitter = jax.jit(partial(module.color_jitter, adjustments=functions))
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
    functions, ranges = module.color_adjustments((0.4, 1.3, 0.2, 0.1), 3)
    assert functions == (
        module.adjust_brightness,
        module.adjust_contrast,
        module.adjust_saturation,
        module.adjust_hue,
    )
    np.testing.assert_allclose(
        ranges, [(0.6, 1.4), (0, 2.3), (0.8, 1.2), (-0.1, 0.1)], atol=1e-12
    )
    functions, ranges = module.color_adjustments((0.4, 0, 0, 0.1), 3)
    assert functions == (module.adjust_brightness, module.adjust_hue)
    assert ranges == ((0.6, 1.4), (-0.1, 0.1))
    functions, _ = module.color_adjustments((0.4, 0.4, 0.4, 0.1), 1)
    assert functions == (module.adjust_brightness, module.adjust_contrast)


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
    # that comes nearest to it, to less than one of 255 gray levels, is its radius.
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
    crop = partial(module.crop_box, shape=shape, scale=scale, ratio=ratio)
    boxes = np.asarray(jax.jit(jax.vmap(crop))(uniform))
    expected = np.array([oracle.crop_box(u, shape, scale, ratio) for u in uniform])
    # A try that fits by a hair in float64 may not do so in float32.
    same = np.all(np.abs(boxes - expected) < 1e-4 * max(shape), axis=1)
    assert same.mean() > 0.998
    assert np.all((boxes[:, :2] >= 0) & (boxes[:, 2:] > 0))
    assert np.all(boxes[:, :2] + boxes[:, 2:] <= np.array(shape) * (1 + 1e-6))


def test_central_box_when_nothing_fits() -> None:
    crop = jax.jit(module.crop_box, static_argnums=(1, 2, 3))
    uniform = np.random.default_rng(2).random((2, 11), np.float32)
    for shape, box in (
        ((10, 101), (0, 44.25, 10, 12.5)),
        ((101, 10), (44.25, 0, 12.5, 10)),
    ):
        result = crop(uniform, shape, (0.9, 1.0), (0.8, 1.25))
        np.testing.assert_allclose(result, box)


def test_area_ratio_and_position_are_distributed_as_stated() -> None:
    # Every first try fits here.
    boxes = draws(range(20000), (3000, 3000), crop_scale=(0.2, 0.5)).box / 3000
    top, left, height, width = boxes.T
    samples = {
        "area": (height * width - 0.2) / 0.3,
        "ratio": np.log(width / height) / (2 * math.log(4 / 3)) + 0.5,
        "top": top / (1 - height),
        "left": left / (1 - width),
    }
    for name, sample in samples.items():
        assert stats.kstest(sample, "uniform").pvalue > 1e-3, name
    assert np.abs(np.corrcoef(list(samples.values())) - np.eye(4)).max() < 0.08


def test_probabilities_factors_and_sigma() -> None:
    chance = draws(range(20000))
    noise = 1 / math.sqrt(20000)
    error = chance.applied.mean(axis=0) - [ALL[name] for name in PROBABILITIES]
    np.testing.assert_array_less(np.abs(error), 4 * 0.5 * noise)
    assert np.abs(np.corrcoef(chance.applied.T) - np.eye(4)).max() < 4 * noise
    assert stats.kstest((chance.sigma - 0.1) / 1.9, "uniform").pvalue > 1e-3
    low, high = np.array(module.color_adjustments(ALL["jitter"], 3)[1]).T
    factors = np.take_along_axis(chance.factors, np.argsort(chance.order), axis=1)
    for sample in ((factors - low) / (high - low)).T:
        assert stats.kstest(sample, "uniform").pvalue > 1e-3


def test_parts_are_drawn_independently() -> None:
    chance = draws(range(20000))
    places = np.argsort(chance.order, axis=1)  # of each adjustment in the order
    factors = np.take_along_axis(chance.factors, places, axis=1)
    parts = [chance.box, places, factors, chance.sigma[:, None], chance.applied]
    parts += [chance.warp]
    part = np.repeat(np.arange(6), [x.shape[1] for x in parts])
    correlations = np.corrcoef(np.concatenate(parts, axis=1).T)
    across = np.abs(correlations[part[:, None] != part])
    assert across.max() < 5 / math.sqrt(20000)


def test_every_order_of_the_jitter_is_equally_likely() -> None:
    orders, counts = np.unique(draws(range(20000)).order, axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_part_switched_off_or_always_on_leaves_the_others_alone() -> None:
    full = draws(range(20000))
    changes = {"crop_scale": None, "jitter_probability": 1.0, "blur": 0.0}
    other = draws(range(20000), **changes)
    jittered, grayed, blurred, flipped = other.applied.T
    assert jittered.all()
    assert not blurred.any()
    np.testing.assert_array_equal(grayed, full.applied[:, 1])
    np.testing.assert_array_equal(flipped, full.applied[:, 3])
    for same in ("order", "factors", "sigma"):
        np.testing.assert_array_equal(getattr(other, same), getattr(full, same))
    np.testing.assert_array_equal(other.box, np.tile([0, 0, 32, 32], (20000, 1)))


def expected_views(images: np.ndarray, size: int, *, jitter_first: bool) -> np.ndarray:
    """What `augment` makes of images 0, 1, ... under ALL, by the oracle."""
    chances = draws(range(len(images)), images.shape[1:3], images.shape[3])
    functions, _ = module.color_adjustments(ALL["jitter"], images.shape[3])
    names = [function.__name__.removeprefix("adjust_") for function in functions]
    assert np.all(chances.applied.any(axis=0) & ~chances.applied.all(axis=0))
    views = []
    for i, image in enumerate(images):
        chance = jax.tree.map(lambda x, i=i: x[i], chances)
        jittered, grayed, blurred, flipped = chance.applied
        x = oracle.resized_crop(unit(image), chance.box, size)
        if grayed and not jitter_first:
            x = oracle.grayscale(x)
        if jittered:
            x = oracle.color_jitter(x, [names[j] for j in chance.order], chance.factors)
        if grayed and jitter_first:
            x = oracle.grayscale(x)
        if blurred:
            x = oracle.gaussian_blur(x, float(chance.sigma), min(6, size - 1))
        views.append(standardized(x[:, ::-1] if flipped else x))
    return np.stack(views)


@pytest.mark.parametrize("jitter_first", [True, False])
def test_augment_is_the_oracle(patches, jitter_first: bool) -> None:
    keys = per_image_keys(3, 5, jnp.arange(24))
    options = STATISTICS[3] | ALL | {"size": 20}
    views = augment(keys, patches, jitter_first=jitter_first, **options)
    assert views.shape == (24, 20, 20, 3)
    assert views.dtype == np.float32
    expected = expected_views(patches, 20, jitter_first=jitter_first)
    np.testing.assert_allclose(views, expected, atol=1e-4)
    other = expected_views(patches, 20, jitter_first=not jitter_first)
    assert np.abs(expected - other).max() > 0.05  # the data tells the two orders apart


def test_augment_of_gray_images_is_the_oracle(digits) -> None:
    keys = per_image_keys(3, 5, jnp.arange(64))
    views = augment(keys, digits[:64], size=8, **STATISTICS[1], **ALL)
    assert views.shape == (64, 8, 8, 1)
    expected = expected_views(digits[:64], 8, jitter_first=True)
    np.testing.assert_allclose(views, expected, atol=1e-4)


def test_a_view_depends_on_image_and_key_alone(patches) -> None:
    options = STATISTICS[3] | ALL | {"size": 20, "jitter_first": True}
    indices = jnp.arange(24) * 7
    views = np.asarray(augment(per_image_keys(1, 2, indices), patches, **options))
    chosen = np.array([11, 3, 20])
    again = augment(per_image_keys(1, 2, indices[chosen]), patches[chosen], **options)
    np.testing.assert_allclose(again, views[chosen], atol=1e-5)
    # Other keys give other views.
    other = np.asarray(augment(per_image_keys(1, 3, indices), patches, **options))
    assert np.all(np.abs(other - views).max(axis=(1, 2, 3)) > 0.1)


def test_keys_differ_by_seed_epoch_and_index() -> None:
    make = jax.jit(per_image_keys)
    indices = jnp.array([0, 1, 2, 70000, 1281166])
    data = [
        jax.random.key_data(make(seed, epoch, indices))
        for seed in (0, 1)
        for epoch in (0, 1, 2, 799)
    ]
    assert len(np.unique(np.concatenate(data), axis=0)) == 2 * 4 * 5
    alone = per_image_keys(1, 799, indices[3:4])
    np.testing.assert_array_equal(jax.random.key_data(alone)[0], data[-1][3])


@pytest.mark.parametrize("size", [24, 40])
def test_everything_off_is_normalize(patches, size: int) -> None:
    square = patches[:, :, :40]
    keys = per_image_keys(0, 0, jnp.arange(len(square)))
    views = augment(keys, square, size=size, **STATISTICS[3], **OFF)
    plain = normalize(square, size=size, **STATISTICS[3])
    np.testing.assert_allclose(views, plain, atol=1e-6)
    whole = (0, 0, 40, 40)
    resized = np.stack([oracle.resized_crop(unit(x), whole, size) for x in square])
    np.testing.assert_allclose(plain, standardized(resized), atol=2e-5)


def test_normalize_resizes_what_is_not_square(patches) -> None:
    plain = normalize(patches[:2], size=40, **STATISTICS[3])
    resized = [oracle.resized_crop(unit(x), (0, 0, 40, 52), 40) for x in patches[:2]]
    np.testing.assert_allclose(plain, standardized(np.stack(resized)), atol=2e-5)


@pytest.mark.parametrize("size", [24, 40])
def test_crop_of_everything_is_a_resize(patches, size: int) -> None:
    square = patches[:, :, :40]
    keys = per_image_keys(0, 0, jnp.arange(len(square)))
    options = {**OFF, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    views = augment(keys, square, size=size, **STATISTICS[3], **options)
    plain = normalize(square, size=size, **STATISTICS[3])
    np.testing.assert_allclose(views, plain, atol=1e-5)


def test_flip_and_grayscale_alone(patches) -> None:
    square = patches[:, :, :40]
    keys = per_image_keys(0, 0, jnp.arange(len(square)))
    plain = np.asarray(normalize(square, size=40, **STATISTICS[3]))
    flipped = augment(keys, square, size=40, **STATISTICS[3], **{**OFF, "flip": 1.0})
    np.testing.assert_array_equal(flipped, plain[:, :, ::-1])
    options = {**OFF, "grayscale": 1.0}
    colorless = augment(keys, square, size=40, **STATISTICS[3], **options)
    expected = np.stack([standardized(oracle.grayscale(unit(x))) for x in square])
    np.testing.assert_allclose(colorless, expected, atol=1e-5)


def compiled_text(channels: int, options: dict) -> str:
    """The program XLA makes of `augment` for two images of 16 x 16."""
    make = jax.jit(partial(module.augment, size=16, **STATISTICS[channels], **options))
    keys = per_image_keys(0, 0, jnp.arange(2))
    images = np.zeros((2, 16, 16, channels), np.uint8)
    return make.lower(keys, images).compile().as_text()


@pytest.mark.parametrize(
    ("part", "operation"),
    [
        ("crop_scale", "dot"),
        ("blur", "dot"),
        ("jitter", "while"),
        ("grayscale", "select"),
        ("flip", "reverse"),
        (None, None),
    ],
)
def test_what_is_off_costs_nothing(part: str | None, operation: str | None) -> None:
    options = {**OFF, "jitter_probability": 0.8}
    operations = ("dot", "while", "select", "reverse", "sort", "shift-right-logical")
    if part is not None:
        options[part] = ALL[part]
        operations = (operation,)
    text = compiled_text(3, options)
    for name in operations:
        assert (f" {name}(" in text) == (part is not None), name


def test_colour_operations_cost_gray_images_nothing() -> None:
    jitter = {"jitter": (0.0, 0.0, 0.4, 0.1), "jitter_probability": 0.8}
    text = compiled_text(1, OFF | jitter | {"grayscale": 0.2})
    for name in ("while", "select", "shift-right-logical"):
        assert f" {name}(" not in text


def test_compiles_once(digits) -> None:
    traces = 0

    @jax.jit
    def make(epoch: int, indices: jax.Array, images: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        keys = per_image_keys(0, epoch, indices)
        options = {**OFF, "flip": 0.5}
        return module.augment(keys, images, size=8, **STATISTICS[1], **options)

    for epoch in range(3):
        views = make(epoch, jnp.arange(16) + epoch, digits[epoch : epoch + 16])
        assert np.isfinite(views).all()
    assert traces == 1


def test_bad_images_are_named() -> None:
    keys = per_image_keys(0, 0, jnp.arange(2))
    images = np.zeros((2, 8, 8, 1), np.uint8)
    with pytest.raises(UserError, match="float32"):
        normalize(images.astype(np.float32), size=8, **STATISTICS[1])
    with pytest.raises(UserError, match="1 channels, mean 3"):
        augment(keys, images, size=8, **STATISTICS[3], **OFF)
    with pytest.raises(UserError, match="4 channels"):
        normalize(np.zeros((2, 8, 8, 4), np.uint8), size=8, mean=(0,) * 4, std=(1,) * 4)
