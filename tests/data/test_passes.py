"""Tests that one pass crops arrays and files with the same pixels alike."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.passes import Crop, content_digest, read_crops
from invariance_propagation.data.sources.folder import Files

NAMES = [f"{i}.png" for i in range(7)]


def pixels(channels: int, side: int = 16) -> np.ndarray:
    shape = (7, side, side, channels)
    return np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)


def stored(folder: Path, images: np.ndarray, size: int) -> Pictures:
    for name, image in zip(NAMES, images, strict=True):
        Image.fromarray(image.squeeze()).save(folder / name)
    return Pictures(NAMES, Files(folder, NAMES), size=size, where=str(folder))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "share"), [(16, 1.0), (8, 1.0), (12, 0.5)])
def test_arrays_and_files_look_the_same(
    tmp_path: Path, channels: int, size: int, share: float
) -> None:
    images, crop = pixels(channels), Crop(size, share, channels)
    pictures = stored(tmp_path, images, size)
    of_array, of_files = (
        list(read_crops(x, crop, batch_size=3)) for x in (images, pictures)
    )
    assert [len(seen.rows) for seen in of_array] == [3, 3, 1]
    for left, right in zip(of_array, of_files, strict=True):
        np.testing.assert_array_equal(left.rows, right.rows)
        np.testing.assert_array_equal(left.images, right.images)
        assert left.images.shape[1:] == (size, size, channels)
    if size == 16:
        whole = np.concatenate([seen.images for seen in of_array])
        np.testing.assert_array_equal(whole, images)


def test_rows_pass_over_what_cannot_be_used(tmp_path: Path) -> None:
    pictures = stored(tmp_path, pixels(3), 16)
    for i in (0, 4, 5):
        (tmp_path / NAMES[i]).write_bytes(b"no picture")
    seen = list(read_crops(pictures, Crop(16, 1.0, 3), batch_size=2))
    assert [x.rows.tolist() for x in seen] == [[1], [2, 3], [], [6]]
    assert [len(x.failed) for x in seen] == [1, 0, 2, 0]
    np.testing.assert_array_equal(seen[3].images[0], pixels(3)[6])


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    images, crop = pixels(3), Crop(16, 1.0, 3)
    pictures = stored(tmp_path, images, 16)
    digests = [content_digest(pictures, crop)]
    assert content_digest(pictures, crop) == digests[0]
    digests.append(content_digest(pictures, crop._replace(share=0.5)))
    digests.append(content_digest(pictures.take(np.arange(6)), crop))
    digests.append(content_digest(pictures.take(np.arange(7)[::-1]), crop))
    found = (tmp_path / NAMES[2]).stat()
    os.utime(tmp_path / NAMES[2], ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    digests.append(content_digest(pictures, crop))
    digests += [content_digest(images, crop), content_digest(images[::-1], crop)]
    assert len(set(digests)) == 7
    (tmp_path / NAMES[2]).unlink()
    with pytest.raises(OSError, match=r"2\.png"):
        content_digest(pictures, crop)


def test_records_count_by_their_pixels(tmp_path: Path) -> None:
    stored(tmp_path, pixels(3), 16)
    content = {i: (tmp_path / name).read_bytes() for i, name in enumerate(NAMES)}
    pictures = Pictures(NAMES, content.__getitem__, size=16, where="records")
    before = content_digest(pictures, Crop(16, 1.0, 3))
    content[3] = content[2]
    assert content_digest(pictures, Crop(16, 1.0, 3)) != before
