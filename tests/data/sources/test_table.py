"""Tests what the data sources yield, and what they say about bad input."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from configs import default
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources import idx as idx_files
from invariance_propagation.data.sources import load
from invariance_propagation.data.sources.idx import read_idx
from invariance_propagation.errors import UserError

TRAIN_IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
TRAIN_LABELS = np.array([3, 0, 9, 3, 1], np.uint8)
TEST_IMAGES = 255 - TRAIN_IMAGES[:2]
TEST_LABELS = np.array([7, 2], np.uint8)
FILES = {
    "train-images-idx3-ubyte.gz": TRAIN_IMAGES,
    "train-labels-idx1-ubyte.gz": TRAIN_LABELS,
    "t10k-images-idx3-ubyte.gz": TEST_IMAGES,
    "t10k-labels-idx1-ubyte.gz": TEST_LABELS,
}


def idx(array: np.ndarray, *, kind: int = 8) -> bytes:
    """Writes the idx format: two zeros, type, rank, big-endian sizes, elements."""
    header = struct.pack(">BBBB", 0, 0, kind, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def make_dataset(images: np.ndarray, labels: np.ndarray | None = None) -> Dataset:
    return Dataset("made", Split(images, labels), None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes the four files of Fashion-MNIST, with pictures of 4x3 pixels."""
    for name, array in FILES.items():
        (tmp_path / name).write_bytes(gzip.compress(idx(array)))
    return tmp_path


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "made-idx.gz"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(name="digits", folder="", num_train=0)


# Digits.


def test_digits_are_scikit_learns_in_its_order(digits: Dataset) -> None:
    bunch = load_digits()
    train, held_out = digits.train, digits.held_out
    assert digits.name == "digits"
    assert train.images.shape == (1347, 8, 8, 1)
    assert held_out.images.shape == (450, 8, 8, 1)
    assert train.images.dtype == held_out.images.dtype == np.uint8
    assert train.labels.dtype == held_out.labels.dtype == np.int32
    np.testing.assert_array_equal(train.labels, bunch.target[:-450])
    np.testing.assert_array_equal(held_out.labels, bunch.target[-450:])

    # The original has 17 grey levels; they spread over 0..255, to the nearest.
    images = np.concatenate([train.images, held_out.images])[..., 0]
    assert images.min() == 0
    assert images.max() == 255
    assert len(np.unique(images)) == 17
    assert np.abs(images / 255 - bunch.images / 16).max() <= 0.5 / 255


# The idx format.


@pytest.mark.parametrize("shape", [(6,), (2, 3), (5, 4, 3), (0, 28, 28)])
def test_read_idx(write, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    result = read_idx(write(gzip.compress(idx(array))))
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, array)  # shapes included


def test_a_missing_file_names_its_remedies(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    for name, remedies in (
        ("fashion_mnist", ["apt-get install dataset-fashion-mnist", "data.folder"]),
        ("letters", [f"'python benchmarks/letters.py {tmp_path}' makes"]),
    ):
        with pytest.raises(UserError) as error:
            load(name=name, folder=str(tmp_path), num_train=0)
        message = str(error.value)
        assert str(path) in message
        assert all(remedy in message for remedy in remedies)


WHOLE = gzip.compress(idx(TRAIN_IMAGES))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty file"),
        pytest.param(idx(TRAIN_IMAGES), id="not gzipped"),
        pytest.param(WHOLE[:-20], id="gzip stream cut"),
        pytest.param(gzip.compress(b""), id="nothing inside"),
        pytest.param(gzip.compress(idx(TRAIN_IMAGES)[:3]), id="cut in the header"),
        pytest.param(gzip.compress(idx(TRAIN_IMAGES)[:9]), id="cut in the sizes"),
        pytest.param(gzip.compress(idx(TRAIN_IMAGES)[:-1]), id="a byte too few"),
        pytest.param(gzip.compress(idx(TRAIN_IMAGES) + b"\0"), id="a byte too many"),
        pytest.param(
            WHOLE[:-8] + bytes(4) + WHOLE[-4:],
            id="wrong checksum",
        ),
        pytest.param(
            WHOLE[:10] + b"\xff" * 8 + WHOLE[18:],
            id="deflate stream overwritten",
        ),
    ],
)
def test_a_damaged_file_is_the_users_to_mend(write, content: bytes) -> None:
    path = write(content)
    with pytest.raises(UserError, match="damaged") as error:
        read_idx(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


# As the format numbers them: signed bytes, shorts, ints, floats, doubles.
@pytest.mark.parametrize("kind", [0x09, 0x0B, 0x0C, 0x0D, 0x0E])
def test_other_element_types_are_refused(write, kind: int) -> None:
    path = write(gzip.compress(idx(TRAIN_IMAGES, kind=kind)))
    with pytest.raises(UserError, match=f"element type {kind}, not unsigned bytes"):
        read_idx(path)


# Fashion-MNIST.


def test_fashion_mnist_from_a_folder(folder: Path) -> None:
    dataset = load(name="fashion_mnist", folder=str(folder), num_train=0)
    assert dataset.name == "fashion_mnist"
    assert len(dataset.classes) == 10 and dataset.class_name(9) == "ankle boot"
    for split, images, labels in (
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
        (dataset.held_out, TEST_IMAGES, TEST_LABELS),
    ):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        np.testing.assert_array_equal(split.images, images[..., None])
        np.testing.assert_array_equal(split.labels, labels)


def test_without_a_folder_it_is_where_debian_puts_it(folder: Path, monkeypatch) -> None:
    assert idx_files.FASHION_MNIST_FOLDER == "/usr/share/datasets/fashion-mnist"
    monkeypatch.setattr(idx_files, "FASHION_MNIST_FOLDER", str(folder))
    dataset = load(name="fashion_mnist", folder="", num_train=0)
    np.testing.assert_array_equal(dataset.train.labels, TRAIN_LABELS)


def test_letters_are_in_the_same_format(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(idx_files, "LETTERS_FOLDER", str(folder))
    dataset = load(name="letters", folder="", num_train=0)
    assert dataset.name == "letters" and dataset.class_name(25) == "Z"
    np.testing.assert_array_equal(dataset.train.images, TRAIN_IMAGES[..., None])
    np.testing.assert_array_equal(dataset.held_out.labels, TEST_LABELS)


@pytest.mark.parametrize("missing", FILES)
def test_each_of_the_four_files_is_needed(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        load(name="fashion_mnist", folder=str(folder), num_train=0)


@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_images_and_labels_that_do_not_match(folder: Path, prefix: str) -> None:
    name = f"{prefix}-labels-idx1-ubyte.gz"
    (folder / name).write_bytes(gzip.compress(idx(FILES[name][:-1])))
    with pytest.raises(UserError):
        load(name="fashion_mnist", folder=str(folder), num_train=0)


def test_classes_without_names_are_numbers() -> None:
    assert load(name="digits", folder="", num_train=0).class_name(9) == "9"


# The options of `load`.


def rows_of(dataset: Dataset) -> list[int]:
    """Finds the images of a set in TRAIN_IMAGES."""
    return [
        int(np.flatnonzero((TRAIN_IMAGES == image[..., 0]).all((1, 2)))[0])
        for image in dataset.train.images
    ]


def test_num_train_draws_a_sample_in_the_order_of_the_set(folder: Path) -> None:
    options = dict(name="fashion_mnist", folder=str(folder))
    found = []
    for num_train in (1, 3, 5):
        dataset = load(**options, num_train=num_train)
        rows = rows_of(dataset)
        assert rows == sorted(set(rows)) and len(rows) == num_train
        np.testing.assert_array_equal(dataset.train.labels, TRAIN_LABELS[rows])
        # Accuracies stay comparable: all the held-out images are there.
        np.testing.assert_array_equal(dataset.held_out.labels, TEST_LABELS)
        assert rows_of(load(**options, num_train=num_train)) == rows
        found.append(set(rows))
    assert found[0] < found[1] < found[2]
    drawn = {tuple(rows_of(load(**options, num_train=2, seed=i))) for i in range(20)}
    assert len(drawn) > 4  # of 10


def test_the_order_of_classes_does_not_matter_to_a_sample() -> None:
    labels = np.repeat(np.arange(10, dtype=np.int32), 1000)
    split = Split(np.zeros((10_000, 1, 1, 1), np.uint8), labels)
    sizes = np.bincount(split.sample(1000, seed=0).labels, minlength=10)
    # A deviation of 9 is expected of each; the first 1,000 would all be of class 0.
    assert np.abs(sizes - 100).max() < 40


def test_a_sample_is_the_same_for_good() -> None:
    # Checkpoints hold its digest: if these change, no run with num_train can continue.
    split = Split(np.zeros((100, 1, 1, 1), np.uint8), np.arange(100, dtype=np.int32))
    assert split.sample(5, seed=0).labels.tolist() == [28, 37, 45, 51, 90]
    assert split.sample(5, seed=-1).labels.tolist() == [60, 61, 90, 93, 97]


@pytest.mark.parametrize("num_train", [-1, 6])
def test_num_train_out_of_range(folder: Path, num_train: int) -> None:
    with pytest.raises(UserError) as error:
        load(name="fashion_mnist", folder=str(folder), num_train=num_train)
    message = str(error.value)
    assert f"data.num_train={num_train}, " in message
    assert "from 1 to 5" in message


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UserError) as error:
        load(name="mnist", folder="", num_train=0)
    assert "data.name='mnist'" in str(error.value)
    assert "digits, fashion_mnist" in str(error.value)


def test_no_name_starts_no_download() -> None:
    section = default.get_config().data
    with pytest.raises(UserError, match="data.name is missing: choose a data set"):
        load(**section)


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("digits", {"split": "train"}),
        ("digits", {"classes": True}),
        ("fashion_mnist", {"held_out": 0.5}),
        ("cifar10", {"held_out": 0.5}),
        ("image_folder", {"split": "train"}),
    ],
)
def test_an_option_of_other_sources_is_refused(name: str, option: dict) -> None:
    with pytest.raises(UserError, match=f"data.{[*option][0]}=.*{name} has no such"):
        load(name=name, folder="nowhere", num_train=0, **option)


def test_digits_have_no_folder() -> None:
    with pytest.raises(UserError, match=r"data\.folder='/data'"):
        load(name="digits", folder="/data", num_train=0)


def test_num_train_without_labels(monkeypatch) -> None:
    images = TRAIN_IMAGES[..., None]
    monkeypatch.setitem(sources.LOADERS, "made", lambda folder: make_dataset(images))
    dataset = load(name="made", folder="", num_train=2)
    assert dataset.train.labels is None
    rows = rows_of(dataset)
    assert len(rows) == 2
    np.testing.assert_array_equal(dataset.train.images, images[rows])


# The digest.


def test_digest_is_stable() -> None:
    # Checkpoints hold it: if this value changes, no run made before can continue.
    assert make_dataset(TRAIN_IMAGES[..., None]).digest() == "bbdadf6eb2f8aa45"


def test_digest_is_of_the_values_and_not_of_how_they_lie() -> None:
    images = TRAIN_IMAGES[..., None]
    digest = make_dataset(images).digest()
    padded = np.zeros((5, 8, 3, 1), np.uint8)
    padded[:, ::2] = images
    assert make_dataset(padded[:, ::2]).digest() == digest
    assert make_dataset(np.asfortranarray(images)).digest() == digest
    # Labels take no part in training, so that a run may lack them.
    assert make_dataset(images, TRAIN_LABELS.astype(np.int32)).digest() == digest


def test_digest_tells_content_order_number_and_shape_apart() -> None:
    images = TRAIN_IMAGES[..., None]
    one_pixel = images.copy()
    one_pixel[4, 3, 2, 0] ^= 1
    variants = {
        "as it is": images,
        "one bit": one_pixel,
        "order": images[[1, 0, 2, 3, 4]],
        "fewer": images[:4],
        "shape": images.reshape(5, 3, 4, 1),
    }
    digests = {name: make_dataset(x).digest() for name, x in variants.items()}
    assert len(set(digests.values())) == len(variants), digests


def test_digest_of_digits_follows_num_train(digits: Dataset) -> None:
    part = load(name="digits", folder="", num_train=1000)
    assert part.digest() != digits.digest()
    assert digits.digest() == load(name="digits", folder="", num_train=1347).digest()
