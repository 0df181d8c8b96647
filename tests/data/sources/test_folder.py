"""Tests a folder of pictures as a data set: splits, classes, faults, the digest."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from invariance_propagation.data.dataset import Dataset
from invariance_propagation.data.sources.folder import image_folder
from invariance_propagation.data.sources.survey import is_held_out
from invariance_propagation.errors import UserError


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    share = next(s / 100 for s in range(100) if is_held_out("a.png", s / 100))
    with pytest.raises(UserError, match=r"data.held_out=.* leaves none of the 1"):
        image_folder(str(tmp_path), classes=False, held_out=share, size=8)


def fill(root: Path, names: list[str], *, seed: int = 0) -> None:
    """Writes a small picture under each name."""
    random = np.random.default_rng(seed)
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(9, 9, 3)).astype(np.uint8)).save(
            path
        )


def read(root: Path, **options) -> Dataset:
    known = {"classes": False, "held_out": 0.0, "size": 8}
    return image_folder(str(root), **known | options)


# train/ and val/.

SPLITS = [
    f"{part}/{kind}/{i}.png"
    for part in ("train", "val")
    for kind in "ab"
    for i in (1, 2)
]


@pytest.mark.parametrize("train", ["train", "Train", "training"])
@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "Val"])
def test_train_and_val_are_no_classes(tmp_path: Path, train: str, val: str) -> None:
    names = [x.replace("train", train, 1).replace("val/", f"{val}/") for x in SPLITS]
    fill(tmp_path, names)
    dataset = read(tmp_path, classes=True)
    assert dataset.classes == ["a", "b"]
    assert dataset.train.ids == names[:4] and dataset.held_out.ids == names[4:]
    for split in dataset.train, dataset.held_out:
        assert split.labels.tolist() == [0, 0, 1, 1]
    unlabelled = read(tmp_path)
    assert unlabelled.train.ids == names[:4] and unlabelled.train.labels is None


def test_val_comes_before_test_which_is_then_not_used(tmp_path: Path) -> None:
    fill(tmp_path, [*SPLITS, "test/a/1.png", "test/b/2.png"])
    dataset = read(tmp_path, classes=True)
    assert dataset.train.ids == SPLITS[:4] and dataset.held_out.ids == SPLITS[4:]
    assert "2 pictures in test/ are not used: only train/ and val/ are" in dataset.notes


def test_train_alone_is_no_class_and_a_share_may_be_held_out(tmp_path: Path) -> None:
    fill(tmp_path, [f"train/{kind}/{i}.png" for kind in "ab" for i in range(9)])
    dataset = read(tmp_path, classes=True, held_out=0.5)
    assert dataset.classes == ["a", "b"]
    assert len(dataset.train.ids) + len(dataset.held_out.ids) == 18


def test_a_share_besides_val_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, SPLITS)
    with pytest.raises(UserError, match=r"data.held_out=0.2, but .*has val/.*leave it"):
        read(tmp_path, held_out=0.2)


def test_a_class_that_nothing_is_trained_on_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [*SPLITS, "val/c/1.png"])
    with pytest.raises(UserError, match="val/ has a class c, train/ has not"):
        read(tmp_path, classes=True)
    assert len(read(tmp_path).held_out.ids) == 5


# What is said.


def test_what_was_found_is_said(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png", ".hidden/a/1.png"])
    (tmp_path / "a" / "3.png").symlink_to(tmp_path / ".hidden" / "a" / "1.png")
    (tmp_path / "a" / "note.txt").touch()
    assert read(tmp_path, classes=True).notes == [
        f"found 5 pictures, 1 of them by links, in {tmp_path}",
        "skipped: 1 .txt, 1 hidden",
        "2 classes: a, b",
    ]
    assert read(tmp_path).notes[-1] == "no classes (--config.data.classes=False)"


def test_one_class_and_a_class_of_one_are_asked_about(tmp_path: Path) -> None:
    fill(tmp_path, ["all/1.png", "all/2.png"])
    last = read(tmp_path, classes=True).notes[-1]
    assert last.startswith("question: is all the only class?")
    fill(tmp_path, ["more/1.png"])
    last = read(tmp_path, classes=True).notes[-1]
    assert last.startswith("question: 1 of the classes has a single picture")
    assert "(more)" in last


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (["set/train/a/1.png", "set/train/b/1.png", "set/val/a/1.png"], "set/val"),
        (["val/a/1.png", "test/b/1.png"], "test"),
        (["train/Valid/1.png", "train/a/1.png"], "train/Valid"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], None),
        (["invalid/1.png", "testing.2/1.png"], None),
        (["a/test.png", "b/val.png"], None),
    ],
)
def test_a_split_that_would_be_trained_on_is_asked_about(
    names: list[str], asked: str | None, tmp_path: Path
) -> None:
    fill(tmp_path, names)
    notes = [x for x in read(tmp_path).notes if x.startswith("question: ")]
    assert len(notes) == bool(asked)
    if asked:
        assert notes[0].startswith(f"question: {asked}/ is used for training; is that")


# Pictures that cannot be used.


def test_a_bad_picture_is_left_out_and_named(tmp_path: Path) -> None:
    names = [f"{kind}/{i}.png" for kind in "ab" for i in range(5)]
    fill(tmp_path, names)
    (tmp_path / names[6]).write_bytes(b"no picture")
    del names[6]
    dataset = read(tmp_path, classes=True, max_unreadable=0.1)
    assert dataset.train.ids == names
    assert dataset.train.labels.tolist() == [0] * 5 + [1] * 4
    assert dataset.notes[-1].startswith(
        "1 picture that cannot be used is left out: b/1.png: it is not a picture"
    )
    # The images of the rows behind it are still their own.
    expected = np.asarray(Image.open(tmp_path / names[-1]))
    np.testing.assert_array_equal(dataset.train.images.read(8), expected)


def test_above_a_share_they_stop_the_run(tmp_path: Path) -> None:
    fill(tmp_path, [f"{i}.png" for i in range(10)])
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(
        UserError,
        match=r"1 of 10 pictures .*: 3.png: .*data.max_unreadable \(now 0.001\)",
    ):
        read(tmp_path)
    with pytest.raises(UserError, match="max_unreadable=2"):
        read(tmp_path, max_unreadable=2)


def test_of_bad_pictures_alone_nothing_is_trained(tmp_path: Path) -> None:
    (tmp_path / "3.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="1 of 1 picture "):
        read(tmp_path, max_unreadable=1.0)


def test_what_is_held_out_is_so_whatever_is_bad(tmp_path: Path) -> None:
    names = [f"{i:02}.png" for i in range(20)]
    fill(tmp_path, names)
    before = read(tmp_path, held_out=0.4)
    bad = before.held_out.ids[1]
    (tmp_path / bad).write_bytes(b"no picture")
    after = read(tmp_path, held_out=0.4, max_unreadable=0.1)
    assert after.train.ids == before.train.ids and after.digest() == before.digest()
    assert after.held_out.ids == [x for x in before.held_out.ids if x != bad]


# The digest.


def test_the_digest_follows_content_and_not_the_place(tmp_path: Path) -> None:
    names = [f"{i}.bmp" for i in range(4)]  # all of one size in bytes
    fill(tmp_path / "one", names)
    fill(tmp_path / "other", names, seed=1)
    one, other = (read(tmp_path / name).digest() for name in ("one", "other"))
    assert one != other
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert read(tmp_path / "copy").digest() == one
    assert read(tmp_path / "copy", scan="headers").digest() == one
    (tmp_path / "one").rename(tmp_path / "moved")
    assert read(tmp_path / "moved").digest() == one
    # The same names, sizes and times in the same place, but other pictures.
    times = (tmp_path / "other" / "2.bmp").stat()
    shutil.copyfile(tmp_path / "moved" / "2.bmp", tmp_path / "other" / "2.bmp")
    os.utime(tmp_path / "other" / "2.bmp", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read(tmp_path / "other").digest() not in (one, other)


def test_a_sample_has_a_digest_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path, [f"{i}.png" for i in range(6)])
    dataset = read(tmp_path)
    train = dataset.train.sample(4, seed=0)
    again = dataset.train.take(np.array([int(x[0]) for x in train.ids]))
    digests = [dataset._replace(train=x).digest() for x in (train, again)]
    assert digests[0] == digests[1] != dataset.digest()


def test_a_run_of_an_earlier_version_is_known_by_its_names(tmp_path: Path) -> None:
    fill(tmp_path, ["a/1.png", "b/2.png"])
    dataset = read(tmp_path)
    # As version 0.1.0 wrote it: SHA-256 of "a/1.png\0b/2.png".
    assert dataset.has_digest("f78682e7be1db3f1")
    assert dataset.has_digest(dataset.digest()) and not dataset.has_digest("0" * 16)


# Names.

ODD = [b"caf\xe9.png", b"new\nline.png", b"\xff\xfe/x.png", "für.png".encode()]


def test_names_of_any_bytes_are_read_and_shown(tmp_path: Path) -> None:
    names = sorted(map(os.fsdecode, ODD))
    fill(tmp_path, names)
    dataset = read(tmp_path, held_out=0.0)
    assert dataset.train.ids == names and len(dataset.digest()) == 16
    assert dataset.train.images.read(1).shape == (9, 9, 3)
    for name in names:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(UserError) as error:
        read(tmp_path)
    message = str(error.value)
    assert message.isprintable() and message.encode()
    for shown in ("caf\\xe9.png", "new\\nline.png", "\\xff\\xfe/x.png", "für.png"):
        assert shown in message
