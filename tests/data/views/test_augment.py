"""Compares the augmentation with torchvision's definitions, PIL, OpenCV and statistics."""

import functools
import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from invariance_propagation.data.views import augment as module
from invariance_propagation.data.views import chance
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.data.views.color import jitter_ranges
from invariance_propagation.data.views.geometry import crop_box
from invariance_propagation.data.views.options import Augmentation
from invariance_propagation.errors import UserError
from tests.data.pictures import unit
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
    solarize=0.4,
)
STATISTICS = {
    1: dict(mean=(0.3,), std=(0.2,)),
    3: dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)),
}
FULL_RATIO = (3 / 4, 4 / 3)
PROBABILITIES = ("jitter_probability", "grayscale", "blur", "flip", "solarize")


def compiled(function):
    """Compiles a function with static keyword-only options, under strict promotion."""
    parameters = inspect.signature(function).parameters.values()
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    jitted = jax.jit(function, static_argnames=options)

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.numpy_dtype_promotion("strict"):
            return jitted(*args, **kwargs)

    return call


augment, normalize = compiled(module.augment), compiled(module.normalize)


def standardized(image: np.ndarray) -> np.ndarray:
    """Turns [..., C] in [0, 1] into what `augment` and `normalize` return."""
    statistics = STATISTICS[image.shape[-1]]
    return (image - np.array(statistics["mean"])) / np.array(statistics["std"])


@functools.cache
def uniforms(indices: range) -> np.ndarray:
    """Draws the numbers [n, *NUMBERS] of the images `indices`."""
    keys = per_image_keys(3, 5, jnp.arange(indices.start, indices.stop))
    numbers = jax.jit(jax.vmap(partial(jax.random.uniform, shape=chance.NUMBERS)))
    return np.asarray(numbers(keys))


@functools.cache
def draws(indices: range, channels: int = 3, **changes) -> chance.Chance:
    """Draws the choices for images under ALL with `changes`, as NumPy arrays."""
    options = Augmentation(**{"size": 8} | ALL | changes)
    draw = partial(chance.draw, odds=chance.make_odds(channels, options))
    return jax.tree.map(np.asarray, jax.jit(draw)(jnp.asarray(uniforms(indices))))


def boxes_of(
    indices: range, shape: tuple[int, int], scale: tuple[float, float]
) -> np.ndarray:
    """Draws the crops [n, 4] of the images `indices`, each of `shape`."""
    box = partial(crop_box, shape=shape, scale=scale, ratio=FULL_RATIO)
    return np.asarray(jax.jit(jax.vmap(box))(uniforms(indices)))


def test_the_warp_is_drawn_evenly_on_both_sides() -> None:
    warps = draws(range(20000)).warp
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


def test_area_ratio_and_position_are_distributed_as_stated() -> None:
    # Every first try fits here.
    boxes = boxes_of(range(20000), (3000, 3000), (0.2, 0.5)) / 3000
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
    drawn = draws(range(20000))
    noise = 1 / math.sqrt(20000)
    error = drawn.applied.mean(axis=0) - [ALL[name] for name in PROBABILITIES]
    np.testing.assert_array_less(np.abs(error), 4 * 0.5 * noise)
    assert np.abs(np.corrcoef(drawn.applied.T) - np.eye(5)).max() < 4 * noise
    assert stats.kstest((drawn.sigma - 0.1) / 1.9, "uniform").pvalue > 1e-3
    low, high = np.array(jitter_ranges(ALL["jitter"], 3)[1]).T
    factors = np.take_along_axis(drawn.factors, np.argsort(drawn.order), axis=1)
    for sample in ((factors - low) / (high - low)).T:
        assert stats.kstest(sample, "uniform").pvalue > 1e-3


def test_parts_are_drawn_independently() -> None:
    drawn = draws(range(20000))
    places = np.argsort(drawn.order, axis=1)  # of each adjustment in the order
    factors = np.take_along_axis(drawn.factors, places, axis=1)
    parts = [
        boxes_of(range(20000), (32, 32), (0.2, 1.0)),
        places,
        factors,
        drawn.sigma[:, None],
        drawn.applied,
    ]
    parts += [drawn.warp]
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
    changes = {"jitter_probability": 1.0, "blur": 0.0}
    other = draws(range(20000), **changes)
    jittered, grayed, blurred, flipped, solarized = other.applied.T
    assert jittered.all()
    assert not blurred.any()
    np.testing.assert_array_equal(grayed, full.applied[:, 1])
    np.testing.assert_array_equal(flipped, full.applied[:, 3])
    np.testing.assert_array_equal(solarized, full.applied[:, 4])
    for same in ("order", "factors", "sigma", "warp"):
        np.testing.assert_array_equal(getattr(other, same), getattr(full, same))


def expected_views(images: np.ndarray, size: int, *, jitter_first: bool) -> np.ndarray:
    """Makes the views of images 0, 1, ... under ALL by the oracle."""
    chances = draws(range(len(images)), images.shape[3])
    boxes = boxes_of(range(len(images)), images.shape[1:3], ALL["crop_scale"])
    names, _ = jitter_ranges(ALL["jitter"], images.shape[3])
    some = chances.applied.any(axis=0) & ~chances.applied.all(axis=0)
    assert some.tolist() == [True, images.shape[3] == 3, True, True, True]
    views = []
    for i, image in enumerate(images):
        own = jax.tree.map(lambda x, i=i: x[i], chances)
        jittered, grayed, blurred, flipped, solarized = own.applied
        x = oracle.resized_crop(unit(image), boxes[i], size)
        if grayed and not jitter_first:
            x = oracle.grayscale(x)
        if jittered:
            x = oracle.color_jitter(x, [names[j] for j in own.order], own.factors)
        if grayed and jitter_first:
            x = oracle.grayscale(x)
        if blurred:
            x = oracle.gaussian_blur(x, float(own.sigma), min(6, size - 1))
        if solarized:
            x = oracle.solarize(x)
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
    """Returns XLA's program of `augment` for two images of 16 x 16."""
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
        ("solarize", "compare"),
        (None, None),
    ],
)
def test_what_is_off_costs_nothing(
    part: str | None, operation: str | None, optimized: None
) -> None:
    options = {**OFF, "jitter_probability": 0.8}
    operations = ("dot", "while", "select", "reverse", "sort", "shift-right-logical")
    if part is not None:
        options[part] = ALL[part]
        operations = (operation,)
    text = compiled_text(3, options)
    for name in operations:
        assert (f" {name}(" in text) == (part is not None), name


def test_colour_operations_cost_gray_images_nothing(optimized: None) -> None:
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
    with pytest.raises(UserError, match=r"1 channel\(s\), mean 3"):
        augment(keys, images, size=8, **STATISTICS[3], **OFF)
    with pytest.raises(UserError, match=r"4 channel\(s\)"):
        normalize(np.zeros((2, 8, 8, 4), np.uint8), size=8, mean=(0,) * 4, std=(1,) * 4)
