"""Picture files against Pillow and OpenCV; crops against torchvision's definition."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.pictures import (
    central_crop,
    crop_box,
    decode,
    random_crop,
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


def test_the_middle_is_seven_eighths_of_the_shorter_side(photo: np.ndarray) -> None:
    expected = photo[26 : 26 + 374, 133 : 133 + 374]
    expected = cv2.resize(expected, (32, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(central_crop(photo, 32), expected)
    assert central_crop(photo[:1, :1], 4).shape == (4, 4, 3)


@pytest.mark.parametrize("shape", [(100, 100), (60, 400), (400, 60), (1, 1), (1, 50)])
def test_boxes_lie_inside_and_are_as_asked(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    boxes = [crop_box(random, shape, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(500)]
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (height >= 1).all() and (width >= 1).all()
    assert (top + height <= shape[0]).all() and (left + width <= shape[1]).all()
    if shape == (100, 100):
        share = height * width / 1e4
        assert 0.19 < share.min() < 0.25 and 0.9 < share.max() <= 1
        assert 0.70 < (width / height).min() and (width / height).max() < 1.4


def test_a_crop_is_cut_and_resized(photo: np.ndarray) -> None:
    crop = random_crop(photo, 32, (0.5, 0.5), (1.0, 1.0), np.random.default_rng(3))
    top, left, height, width = crop_box(
        np.random.default_rng(3), photo.shape[:2], (0.5, 0.5), (1.0, 1.0)
    )
    assert height == width == 370
    part = photo[top : top + height, left : left + width]
    np.testing.assert_array_equal(
        crop, cv2.resize(part, (32, 32), interpolation=cv2.INTER_AREA)
    )
