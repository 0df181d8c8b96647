"""Compares pictures and their crops with Pillow and torchvision's definitions."""

import io
import pickle
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from invariance_propagation.data.load.pictures import (
    central_crop,
    crops,
    resize,
    whole_box,
)
from invariance_propagation.data.views import geometry
from invariance_propagation.data.views.chance import NUMBERS
from invariance_propagation.data.views.geometry import crop_box
from invariance_propagation.errors import TrainingError
from tests.data.pictures import pictures_of


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pillows(image: np.ndarray, size: int, box: tuple[int, ...]) -> np.ndarray:
    """Crops (x0, y0, x1, y1) and resizes by Pillow, as torchvision does."""
    part = Image.fromarray(image).crop(box)
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))


@pytest.fixture(scope="module")
def picture(photo: np.ndarray) -> Image.Image:
    return Image.fromarray(photo[100:157, 200:283])


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_damaged_file_is_named(
    picture: Image.Image, tmp_path: Path, kind: str, damage: str
) -> None:
    content = encoded(picture, kind)
    content = {"empty": b"", "cut": content[:700], "text": b"hello"}[damage]
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(TrainingError, match="a.jpg cannot be used"):
        pictures_of(tmp_path, ["a.jpg"], 8).read(0)


def test_slices_are_the_middle_of_pictures(
    picture: Image.Image, tmp_path: Path
) -> None:
    for i in range(5):
        picture.rotate(90 * i, expand=True).save(tmp_path / f"{i}.png")
    pictures = pictures_of(tmp_path, [f"{i}.png" for i in range(5)], 16)
    assert len(pictures) == 5 and pictures.shape == (5, 16, 16, 3)
    views = pictures[1:4]
    assert views.shape == (3, 16, 16, 3)
    for view, index in zip(views, range(1, 4), strict=True):
        np.testing.assert_array_equal(view, central_crop(pictures.read(index), 16))
    assert pictures[5:9].shape == (0, 16, 16, 3)
    first = pictures.take(np.arange(2))
    assert len(first) == 2 and first.ids == ["0.png", "1.png"]
    np.testing.assert_array_equal(first[0:9], pictures[0:2])


def test_some_of_them_are_pictures_too(tmp_path: Path, photo: np.ndarray) -> None:
    ids = [f"{i}.png" for i in range(5)]
    for i, name in enumerate(ids):
        Image.fromarray(photo[i * 20 : i * 20 + 40, :50]).save(tmp_path / name)
    pictures = pictures_of(tmp_path, ids, 16)
    some = pictures.take(np.array([3, 0, 4]))
    assert some.ids == ["3.png", "0.png", "4.png"] and some.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(some[:], pictures[:][[3, 0, 4]])
    again = pickle.loads(pickle.dumps(some.take(np.array([2]))))
    np.testing.assert_array_equal(again.read(0), pictures.read(4))


def test_the_middle_is_seven_eighths_of_the_shorter_side(photo: np.ndarray) -> None:
    expected = pillows(photo, 32, (133, 26, 133 + 374, 26 + 374))
    np.testing.assert_array_equal(central_crop(photo, 32), expected)
    assert central_crop(photo[:1, :1], 4).shape == (4, 4, 3)


SHAPES = [(100, 100), (60, 400), (400, 60), (1, 1), (1, 50), (375, 500)]


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_boxes_lie_inside_and_are_rounded(shape: tuple[int, int]) -> None:
    for numbers in np.random.default_rng(0).random((500, 2, 11), np.float32):
        box = crop_box(numbers, shape, (0.2, 1.0), (3 / 4, 4 / 3))
        top, left, height, width = whole_box(box, shape)
        assert 0 <= top and 0 <= left and 1 <= height and 1 <= width
        assert top + height <= shape[0] and left + width <= shape[1]
        # Half a pixel of rounding, and as much where the box would stick out.
        assert abs(np.array([top, left, height, width]) - box).max() <= 1.001
        extents = np.maximum(box[2:], 1)
        assert abs(np.array([height, width]) - extents).max() <= 0.501


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.4, 0.6, 2.4, 1.6), (0, 1, 2, 2)),
        ((0.4, 2.6, 0.2, 0.3), (0, 3, 1, 1)),  # never empty
        ((1.6, 0.5, 2.4, 3.5), (2, 0, 2, 4)),
        ((1.5, 0.0, 2.5, 4.0), (2, 0, 2, 4)),  # halves to even, as Python and NumPy
    ],
)
def test_a_whole_box(box: tuple, expected: tuple) -> None:
    assert whole_box(np.array(box, np.float32), (4, 4)) == expected


def test_a_crop_is_cut_and_resized(photo: np.ndarray) -> None:
    numbers = np.random.default_rng(3).random((2, *NUMBERS), np.float32)
    images, scale = [photo, photo[:100, :90]], (0.5, 0.5)
    options = {"crop_scale": scale, "crop_ratio": (1.0, 1.0)}
    cuts = list(crops(images, numbers, size=64, **options))
    for image, own, cut, side in zip(images, numbers, cuts, (370, 67), strict=True):
        place = own[:, 10] * (
            np.array(image.shape[:2]) - np.sqrt(image[..., 0].size / 2)
        )
        top, left = np.rint(place).astype(int)
        expected = pillows(image, 64, (left, top, left + side, top + side))
        np.testing.assert_array_equal(cut, expected)


def test_without_crops_the_whole_picture_is_resized(photo: np.ndarray) -> None:
    numbers = np.zeros((1, *NUMBERS), np.float32)
    options = {"crop_scale": (), "crop_ratio": (1.0, 1.0)}
    (view,) = crops([photo], numbers, size=32, **options)
    np.testing.assert_array_equal(view, pillows(photo, 32, (0, 0, 640, 427)))


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("size", [32, 96, 224, 512])
def test_views_of_photos_are_pillows(name: str, size: int) -> None:
    # Of training and of evaluation, where they shrink and where they grow.
    photo = load_sample_image(name)
    middle = pillows(photo, size, (133, 26, 133 + 374, 26 + 374)).astype(int)
    np.testing.assert_allclose(central_crop(photo, size), middle, atol=1)
    numbers = np.random.default_rng(size).random((6, *NUMBERS), np.float32)
    options = {"crop_scale": (0.05, 1.0), "crop_ratio": (3 / 4, 4 / 3)}
    views = crops([photo] * 6, numbers, size=size, **options)
    for own, view in zip(numbers, views, strict=True):
        top, left, height, width = whole_box(
            crop_box(own, photo.shape[:2], *options.values()), photo.shape[:2]
        )
        expected = pillows(photo, size, (left, top, left + width, top + height))
        np.testing.assert_allclose(view, expected.astype(int), atol=1)


def variance_of_the_laplacian(image: np.ndarray) -> float:
    return cv2.Laplacian(image.mean(axis=2), cv2.CV_64F).var()


def test_the_view_of_a_photo_is_as_sharp_as_pillows(photo: np.ndarray) -> None:
    # 5,862 where pixels are left out.
    found = variance_of_the_laplacian(central_crop(photo, 224))
    assert found == pytest.approx(1911, abs=1)


@pytest.mark.parametrize("shape", [(300, 2000), (2000, 300), (3, 4000), (447, 596)])
@pytest.mark.parametrize("kind", ["stripes", "noise"])
def test_fine_patterns_do_not_come_through(shape: tuple, kind: str) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*shape, 3)).astype(np.uint8)
    if kind == "stripes":
        image[:] = 255 * (np.arange(shape[1]) % 2)[:, None].astype(np.uint8)
    options = {"crop_scale": (), "crop_ratio": (1.0, 1.0)}
    numbers = np.zeros((1, *NUMBERS), np.float32)
    (view,) = crops([image], numbers, size=224, **options)
    expected = pillows(image, 224, (0, 0, shape[1], shape[0])).astype(int)
    np.testing.assert_allclose(view, expected, atol=1)
    if kind == "stripes":
        assert view.std() < 1.2 or shape[1] < 2000
    elif shape == (447, 596):
        assert view.std() == pytest.approx(21.5, abs=1)


def test_streamed_views_are_as_resident_ones(photo: np.ndarray) -> None:
    # The device's crops are at fractions of pixels, hence whole boxes.
    box = (40, 30, 300, 410)
    rows, columns = slice(40, 340), slice(30, 440)
    numbers = np.zeros((1, *NUMBERS), np.float32)
    options = {"crop_scale": (), "crop_ratio": (1.0, 1.0)}
    (view,) = crops([photo[rows, columns]], numbers, size=64, **options)
    planes = geometry.resize(photo, 64, jnp.array(box, jnp.float32))
    resident = 255 * np.moveaxis(np.asarray(planes), 0, -1)
    np.testing.assert_allclose(view, resident, atol=1.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_keeps_the_channels(photo: np.ndarray, channels: int) -> None:
    image = photo[:50, :60, :channels]
    found = resize(image, 20)
    assert found.shape == (20, 20, channels)
    expected = pillows(image[..., 0], 20, (0, 0, 60, 50))
    np.testing.assert_array_equal(found[..., 0], expected)
