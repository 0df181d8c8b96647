"""Streamed batches: order, crops, and going on in the middle."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.pictures import Pictures
from invariance_propagation.data.stream import Load, stream
from tests.data.pictures import pictures_of

COUNT, BATCH = 22, 4
PER_EPOCH = COUNT // BATCH


@pytest.fixture(scope="module")
def pictures(patches: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder: Path = tmp_path_factory.mktemp("pictures")
    for i in range(COUNT):
        Image.fromarray(patches[i]).save(folder / f"{i:02}.png")
    return pictures_of(folder, [f"{i:02}.png" for i in range(COUNT)], 16)


def batches(pictures: Pictures, start: int, stop: int, *, threads: int = 3, **changes):
    options = dict(seed=5, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3)) | changes
    load = Load(pictures, batch_size=BATCH, **options)
    return list(
        stream(load, batch_size=BATCH, start=start, stop=stop, num_threads=threads)
    )


def test_every_step_gets_the_indices_of_its_place(pictures: Pictures) -> None:
    found = batches(pictures, 0, 3 * PER_EPOCH)
    assert len(found) == 3 * PER_EPOCH
    for epoch in range(3):
        order = epoch_order(seed=5, epoch=epoch, num_examples=COUNT, batch_size=BATCH)
        own = found[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH]
        np.testing.assert_array_equal([indices for indices, _ in own], order)
    for indices, images in found:
        assert indices.dtype == np.int32 and indices.max() < COUNT
        assert images.shape == (BATCH, 16, 16, 3) and images.dtype == np.uint8


@pytest.mark.parametrize("threads", [1, 5])
def test_starting_in_the_middle_changes_nothing(
    pictures: Pictures, threads: int
) -> None:
    whole = batches(pictures, 0, 9)
    rest = batches(pictures, 7, 9, threads=threads)
    for (indices, images), (again, same) in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(indices, again)
        np.testing.assert_array_equal(images, same)


def test_crops_differ_by_epoch_and_seed(pictures: Pictures) -> None:
    def crops(epoch: int, **changes) -> dict[int, np.ndarray]:
        first = epoch * PER_EPOCH
        found = batches(pictures, first, first + PER_EPOCH, **changes)
        return {
            int(index): image
            for indices, images in found
            for index, image in zip(indices, images, strict=True)
        }

    one, next_epoch, other_seed = crops(0), crops(1), crops(0, seed=6)
    for other in (next_epoch, other_seed):
        shared = one.keys() & other.keys()
        assert len(shared) > 10
        assert all((one[i] != other[i]).any() for i in shared)


def test_without_crops_the_whole_picture_is_seen(pictures: Pictures) -> None:
    for indices, images in batches(pictures, 0, 2, crop_scale=()):
        for index, image in zip(indices, images, strict=True):
            whole = pictures.read(int(index))
            assert abs(image.mean() - whole.mean()) < 3
