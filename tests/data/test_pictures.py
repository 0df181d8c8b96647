"""Picture files against Pillow and OpenCV; crops against torchvision's definition."""

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.chance import NUMBERS
from invariance_propagation.data.geometry import crop_box
from invariance_propagation.data.pictures import (
    central_crop,
    crops,
    decode,
    whole_box,
)
from invariance_propagation.errors import TrainingError
from tests.data.pictures import pictures_of


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def picture(photo: np.ndarray) -> Image.Image:
    return Image.fromarray(photo[100:157, 200:283])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding_is_pillows(picture: Image.Image, kind: str, mode: str) -> None:
    content = encoded(picture.convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    # Two builds of the same JPEG library round differently.
    np.testing.assert_allclose(decode(content).astype(int), expected, atol=2)


def test_a_cmyk_jpeg_is_pillows(picture: Image.Image) -> None:
    content = encoded(picture.convert("CMYK"), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    np.testing.assert_allclose(decode(content).astype(int), expected, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_turned_back(picture: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = decode(encoded(picture, "JPEG", exif=exif, quality=95))
    upright = np.asarray(picture)
    # As the EXIF standard numbers them.
    expected = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, -1),
        7: np.rot90(upright.swapaxes(0, 1), 2),
        8: np.rot90(upright),
    }[orientation]
    assert turned.shape == expected.shape
    assert np.abs(turned.astype(int) - expected).mean() < 4


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    image.putpixel((1, 2), (0, 0, 255, 255))
    for other in (image, image.quantize()):
        pixels = decode(encoded(other, "PNG"))
        assert pixels.shape == (3, 4, 3)
        np.testing.assert_array_equal(pixels[2, 1], (0, 0, 255))
        assert (np.delete(pixels.reshape(-1, 3), 9, axis=0) == 255).all()


def test_sixteen_bits_keep_the_upper_eight() -> None:
    levels = (np.arange(12).reshape(3, 4) * 5000).astype(np.uint16)
    pixels = decode(encoded(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(pixels, np.stack([levels >> 8] * 3, axis=-1))


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
    first = pictures.first(2)
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
    expected = photo[26 : 26 + 374, 133 : 133 + 374]
    expected = cv2.resize(expected, (32, 32), interpolation=cv2.INTER_AREA)
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
    # Of the larger one bilinear interpolation would leave pixels out.
    how = (cv2.INTER_AREA, cv2.INTER_LINEAR)
    for image, own, cut, side, kind in zip(
        images, numbers, cuts, (370, 67), how, strict=True
    ):
        place = own[:, 10] * (
            np.array(image.shape[:2]) - np.sqrt(image[..., 0].size / 2)
        )
        top, left = np.rint(place).astype(int)
        part = image[top : top + side, left : left + side]
        expected = cv2.resize(part, (64, 64), interpolation=kind)
        np.testing.assert_array_equal(cut, expected)


def test_without_crops_the_whole_picture_is_resized(photo: np.ndarray) -> None:
    numbers = np.zeros((1, *NUMBERS), np.float32)
    options = {"crop_scale": (), "crop_ratio": (1.0, 1.0)}
    (view,) = crops([photo], numbers, size=32, **options)
    expected = cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(view, expected)


def test_what_is_no_picture_is_called_so() -> None:
    with pytest.raises(ValueError, match="^it is no picture that Pillow knows$"):
        decode(b"a text")
