"""Thumbnails show the images whose names they have."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.load.pictures import central_crop
from invariance_propagation.report.draw import thumbnail
from invariance_propagation.report.thumbnails import Thumbnails
from tests.data.pictures import pictures_of

RANDOM = np.random.default_rng(0)


def shown(html: str) -> np.ndarray:
    (content,) = re.findall('src="data:image/(?:png|jpeg);base64,(.*?)"', html)
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return np.asarray(image)


def thumbnails(split: Split, *classes: str) -> Thumbnails:
    return Thumbnails(Dataset("made", split, None, classes), split)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_shown_as_they_are(channels: int) -> None:
    images = RANDOM.integers(0, 256, (5, 8, 8, channels)).astype(np.uint8)
    html = thumbnails(Split(images, np.arange(5))).show(3, 0.5, 2)
    np.testing.assert_array_equal(shown(html), images[3].squeeze())
    assert 'class="picture pixelated"' in html and 'alt="image 3"' in html
    assert '<span class="other">0.50 \N{MULTIPLICATION X}<br>3</span>' in html


def test_classes_stand_by_their_names() -> None:
    split = Split(np.zeros((3, 8, 8, 1), np.uint8), np.array([1, 0, 1]))
    html = thumbnails(split, "coat", "ankle boot").show(2, 0.5, 0)
    assert "<br>ankle boot</span>" in html


def test_pictures_are_shown_small_and_by_name(tmp_path: Path) -> None:
    ids = [f"{i}.png" for i in range(3)]
    for i, name in enumerate(ids):
        # Smooth, so that JPEG changes little.
        pixels = np.add.outer(np.arange(120), 40 * i + np.arange(100)) // 2
        pixels = np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    pictures = pictures_of(tmp_path, ids, 96)
    html = thumbnails(Split(pictures, None, ids)).show(2, 0.25, kind="chosen")
    found = shown(html)
    assert found.shape == (64, 64, 3)
    expected = Image.fromarray(central_crop(pictures.read(2), 96)).resize((64, 64))
    off = np.abs(found.astype(int) - np.asarray(expected))
    assert off.mean() < 3
    assert 'class="picture chosen"' in html and 'alt="2.png"' in html
    assert "<figcaption>0.25</figcaption>" in html  # there are no labels


def test_a_thumbnail_of_a_picture_takes_little() -> None:
    image = RANDOM.integers(0, 256, (224, 224, 3)).astype(np.uint8)
    assert len(thumbnail(image)) < 12_000
