"""Tests that TFDS's sets are found, read without TensorFlow, and prepared."""

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module

from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.sources import load
from invariance_propagation.data.sources.tfds import prepare, records, splits, stored
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.bench import crop_of
from tests.tiny_run import ROOT

EXAMPLES = 24
NAMES = ("cifar10", "cifar100", "svhn_cropped", "imagenet2012", "stl10")
NAMES += ("imagenet2012_subset/1pct",)
# What a run does with records, and a look at what TFDS makes of the same ones.
READ_ALONE = """
import sys
import threading
import time
import numpy as np
from invariance_propagation.data.sources import load
import tensorflow_datasets as tfds
folder = sys.argv[1]
for name, stock in (("cifar10", "cifar10"), ("svhn", "svhn_cropped")):
    dataset = load(name=name, folder=folder, num_train=0)
    source = tfds.builder_from_directory(sys.argv[2 + (name == "svhn")])
    rows = list(source.as_data_source("train"))
    assert np.array_equal(dataset.train.images, [row["image"] for row in rows])
    assert np.array_equal(dataset.train.labels, [row["label"] for row in rows])
imagenet = load(name="imagenet", folder=folder, num_train=0, size=16)
assert imagenet.train.images[3:5].shape == (2, 16, 16, 3)
assert "tensorflow" not in sys.modules
"""


def run(*command: str) -> subprocess.CompletedProcess:
    environment = os.environ | records.QUIET_TENSORFLOW
    command = (sys.executable, *command)
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes TFDS's mock data, by TensorFlow in a separate process."""
    folder = tmp_path_factory.mktemp("tfds")
    made = run("-m", "tests.mock_tfds", str(folder), *NAMES, f"--examples={EXAMPLES}")
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_reading_is_tfdss_and_needs_no_tensorflow(folder: Path) -> None:
    places = [str(records.find(name, folder)) for name in ("cifar10", "svhn_cropped")]
    done = run("-c", READ_ALONE, str(folder), *places)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "classes", "held_out"),
    [("cifar10", 10, True), ("cifar100", 100, True), ("svhn", 10, True)],
)
def test_small_images_are_arrays(
    folder: Path, name: str, classes: int, held_out: bool
) -> None:
    dataset = load(name=name, folder=str(folder), num_train=0)
    for split, count in ((dataset.train, EXAMPLES), (dataset.held_out, EXAMPLES // 4)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int32
        assert 0 <= split.labels.min() and split.labels.max() < classes
        assert len(split.ids) == count
    assert len(set(dataset.classes)) == classes
    assert np.ptp(dataset.train.images) > 200
    assert load(name=name, folder=str(folder), num_train=5).train.images.shape[0] == 5


def test_a_damaged_small_image_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = splits.decode
    last = []

    def decode(content: bytes, **options) -> np.ndarray:
        last[:] = last or [content]
        return whole(content[:60] if content == last[0] else content, **options)

    monkeypatch.setattr(splits, "decode", decode)
    monkeypatch.setattr("invariance_propagation.data.load.pictures.decode", decode)
    with pytest.raises(TrainingError, match=r"^cifar10-train.*__\d+ cannot be used"):
        load(name="cifar10", folder=str(folder), num_train=0, size=32)


def test_stretch_depth_reaches_the_decoder_of_small_and_of_streamed_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, told = splits.decode, []

    def decode(content: bytes, *, stretch_depth: bool) -> np.ndarray:
        told.append(stretch_depth)
        return whole(content, stretch_depth=stretch_depth)

    monkeypatch.setattr(splits, "decode", decode)
    monkeypatch.setattr("invariance_propagation.data.load.pictures.decode", decode)
    for stretch in (True, False):
        options = {"folder": str(folder), "num_train": 0, "stretch_depth": stretch}
        load(name="cifar10", **options)
        load(name="imagenet", size=16, **options).train.images.read(0)
        assert set(told) == {stretch}
        told.clear()


@pytest.mark.parametrize("name", ["imagenet", "imagenet_1pct", "tfds:imagenet2012"])
def test_pictures_of_any_size_are_streamed(folder: Path, name: str) -> None:
    dataset = load(name=name, folder=str(folder), num_train=20, size=16)
    images = dataset.train.images
    assert isinstance(images, Pictures) and images.shape == (20, 16, 16, 3)
    assert dataset.train.labels.shape == (20,) and dataset.train.labels.max() > 20
    assert images.read(3).shape[2] == 3
    assert dataset.held_out.images.shape == (EXAMPLES // 4, 16, 16, 3)
    assert dataset.digest() != load(name=name, folder=str(folder), num_train=0).digest()


def test_what_tfds_gives_no_labels_has_none(folder: Path) -> None:
    dataset = load(name="stl10", folder=str(folder), num_train=0)
    assert dataset.train.images.shape == (EXAMPLES, 96, 96, 3)
    assert dataset.train.labels is None
    assert dataset.held_out.labels is not None
    labelled = load(name="stl10", folder=str(folder), num_train=0, split="train")
    assert labelled.train.labels is not None


def test_too_large_for_a_device_is_streamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = load(name="cifar10", folder=str(folder), num_train=0).train
    monkeypatch.setattr(splits, "RESIDENT_BYTES", EXAMPLES * 32 * 32 * 3 - 1)
    streamed = load(name="cifar10", folder=str(folder), num_train=0).train
    assert isinstance(streamed.images, Pictures)
    np.testing.assert_array_equal(streamed.labels, arrays.labels)
    np.testing.assert_array_equal(streamed.images.read(7), arrays.images[7])
    assert list(streamed.ids) == list(arrays.ids)


def test_labels_of_streamed_pictures_are_read_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(name="imagenet", folder=str(folder), num_train=0)
    labels = load(**options).train.labels
    kept = sorted(cache.rglob("*.npz"))
    assert len(kept) == 2 and not [*cache.rglob("*.tmp")]
    with monkeypatch.context() as never:
        never.setattr(stored, "read_all", None)
        np.testing.assert_array_equal(load(**options).train.labels, labels)
    for path in kept:
        path.write_bytes(path.read_bytes()[:-9])
    np.testing.assert_array_equal(load(**options).train.labels, labels)


def prepare_again(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Writes the records of a set anew, changed, with the times that the files had."""
    place = records.find(name, folder)
    for path in sorted(place.glob("*.array_record*")):
        times = path.stat()
        reader = array_record_module.ArrayRecordReader(str(path))
        rows = [change(record) for record in reader.read_all()]
        reader.close()
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for row in rows:
            writer.write(row)
        writer.close()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def changed_example(record: bytes, name: str, change: Callable) -> bytes:
    """Replaces a feature's value in a serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)
    change(example.features.feature[name])
    return example.SerializeToString()


def set_label(feature) -> None:
    feature.int64_list.value[0] = 999 - feature.int64_list.value[0]


def flip_last_byte(feature) -> None:
    image = bytearray(feature.bytes_list.value[0])
    image[-1] ^= 1
    feature.bytes_list.value[0] = bytes(image)


@pytest.mark.parametrize(
    ("feature", "change"), [("label", set_label), ("image", flip_last_byte)]
)
def test_a_set_prepared_again_is_another_set(
    folder: Path, tmp_path: Path, feature: str, change: Callable
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder / "imagenet2012", copy / "imagenet2012")
    options = dict(name="imagenet", folder=str(copy), num_train=0, size=16)
    before = load(**options)
    again = load(name="imagenet", folder=str(folder), num_train=0, size=16)
    assert before.digest() == again.digest()  # the same set elsewhere
    prepare_again(
        copy, "imagenet2012", lambda record: changed_example(record, feature, change)
    )
    after = load(**options)
    assert list(after.train.ids) == list(before.train.ids)
    assert after.digest() != before.digest()
    expected = before.train.labels if feature == "image" else 999 - before.train.labels
    np.testing.assert_array_equal(after.train.labels, expected)


@pytest.mark.parametrize("limit", [0, EXAMPLES * 96 * 96 * 3 - 1, 10**9])
def test_both_splits_are_seen_in_one_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    whole = load(name="stl10", folder=str(folder), num_train=0, size=96)
    # The test split has a quarter of the examples.
    monkeypatch.setattr(splits, "RESIDENT_BYTES", limit)
    dataset = load(name="stl10", folder=str(folder), num_train=0, size=96)
    both = [dataset.train, dataset.held_out]
    assert len({isinstance(x.images, Pictures) for x in both}) == 1
    assert [crop_of(x.images) for x in both] == ["whole", "whole"]
    for split, expected in zip(both, (whole.train, whole.held_out), strict=True):
        np.testing.assert_array_equal(split.images[2:6], expected.images[2:6])


@pytest.mark.parametrize(
    ("shape", "share"),
    [((32, 32, 3), 1), ((128, 128, 3), 1), ((256, 256, 3), 7 / 8)]
    + [((None, None, 3), 7 / 8), ((28, 300, 1), 7 / 8)]
    # A square cut of it is not the whole.
    + [((64, 96, 3), 7 / 8), ((96, 64, 3), 7 / 8), ((None, 64, 3), 7 / 8)],
)
def test_what_is_looked_at_follows_the_kind_of_images(
    shape: tuple, share: float
) -> None:
    assert splits.share_of(shape) == share


def test_large_images_of_one_size_are_streamed_however_few(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "WHOLE_UP_TO", 31)
    dataset = load(name="cifar10", folder=str(folder), num_train=0, size=32)
    for split in dataset.train, dataset.held_out:
        assert crop_of(split.images) == "central 0.875"


def test_a_part_and_a_union_of_splits(folder: Path) -> None:
    options = dict(name="cifar10", folder=str(folder), num_train=0)
    whole = load(**options)
    part = load(**options, split="train[20:]+test[:2]")
    expected = np.concatenate([whole.train.images[20:], whole.held_out.images[:2]])
    np.testing.assert_array_equal(part.train.images, expected)
    assert list(part.train.ids) == [*whole.train.ids[20:], *whole.held_out.ids[:2]]
    # What is trained on is not held out.
    assert part.held_out is None


def test_ids_are_made_when_asked_for() -> None:
    ids = stored.RecordIds([("a", 3, 2), ("b", 0, 0), ("c", 0, 3)])
    expected = ["a__3", "a__4", "c__0", "c__1", "c__2"]
    assert list(ids) == [ids[i] for i in range(5)] == ids[:9] == expected
    assert len(ids) == 5 and len(stored.RecordIds([])) == 0


def test_a_split_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    for split in ("trian", "train[:5"):
        with pytest.raises(UserError, match=r"data.split=.*cifar10/.* has train, test"):
            load(name="cifar10", folder=str(folder), num_train=0, split=split)


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    for version in ("3.0.2", "10.0.0", "9.1.1"):
        (tmp_path / "some" / version).mkdir(parents=True)
        (tmp_path / "some" / version / "dataset_info.json").touch()
    (tmp_path / "some" / "11.0.0.incompleteABC").mkdir()
    assert records.find("some", tmp_path).name == "10.0.0"
    assert records.find("other", tmp_path) is None


def test_tfrecord_and_sets_without_pictures_are_refused(folder: Path) -> None:
    place = records.find("cifar100", folder)
    info = place / "dataset_info.json"
    before = info.read_text()
    info.write_text(json.dumps(json.loads(before) | {"fileFormat": "tfrecord"}))
    try:
        with pytest.raises(UserError, match="stored as tfrecord.*convert"):
            load(name="cifar100", folder=str(folder), num_train=0)
    finally:
        info.write_text(before)
    features = place / "features.json"
    before = features.read_text()
    renamed = json.loads(before)
    parts = renamed["featuresDict"]["features"]
    parts["scan"] = parts.pop("image")
    features.write_text(json.dumps(renamed))
    try:
        with pytest.raises(UserError, match=r"no feature 'image' \(it has .*scan"):
            load(name="cifar100", folder=str(folder), num_train=0)
    finally:
        features.write_text(before)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("imagenet", r"data.folder.*ILSVRC2012_img_train.tar"),
        ("tfds:nothing_such", r"TFDS has no data set nothing_such"),
    ],
)
def test_what_cannot_be_prepared_says_why_in_one_line(
    tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as error:
        load(name=name, folder=str(tmp_path), num_train=0)
    assert "\n" not in str(error.value)


class Silent(socketserver.BaseRequestHandler):
    """Accepts a connection and never answers."""

    def handle(self) -> None:
        self.request.recv(1)
        time.sleep(30)


def test_a_network_that_does_not_answer_is_one_line_within_15_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent)
    server.daemon_threads = True
    # Of the package alone, which is not imported before the network has answered.
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('too early')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        proxy = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv(name, proxy)
        monkeypatch.setenv(name.upper(), proxy)
    monkeypatch.setenv("no_proxy", "")
    (tmp_path / "sets").mkdir()
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises(UserError) as error:
            load(name="cifar10", folder=str(tmp_path / "sets"), num_train=0)
        took = time.monotonic() - begun
        server.shutdown()
    assert "www.cs.toronto.edu cannot be reached within 6 seconds" in str(error.value)
    assert "\n" not in str(error.value)
    assert took < 15


def test_without_tensorflow_preparing_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    assert "pip install '.[prepare]'" in prepare.main("cifar10", str(tmp_path))
    assert [*tmp_path.iterdir()] == []


# Sets of strangers.


def change_json(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """Copies a set, for tests that damage it; returns its only version."""
    shutil.copytree(folder / "imagenet2012", tmp_path / "sets" / "imagenet2012")
    (place,) = (tmp_path / "sets" / "imagenet2012").iterdir()
    return place


def load_copied(place: Path) -> None:
    load(name="imagenet", folder=str(place.parents[1]), num_train=0, size=16)


def test_no_module_that_a_set_names_is_run(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = "tensorflow_datasets.core.features.text_feature.Text"
    change_json(copied / "features.json", lambda x: x.replace(text, "stranger.Text"))
    with pytest.raises(UserError, match="names stranger.Text, which is not a feature"):
        load_copied(copied)
    (copied / "features.json").write_text('{"type": "stranger.Text", "content": {}}')
    with pytest.raises(UserError, match="names stranger.Text, which is not a feature"):
        load_copied(copied)
    assert "stranger" not in sys.modules and not (tmp_path / "ran").exists()


def test_a_set_that_claims_more_records_than_fit_is_refused(copied: Path) -> None:
    def claim(text: str) -> str:
        return text.replace(f'"{EXAMPLES}"', '"1000000000000"')

    change_json(copied / "dataset_info.json", claim)
    with pytest.raises(UserError, match="too short for 1,000,000,000,000 records"):
        load_copied(copied)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "*-train*"])
def test_damaged_files_and_pipes_are_one_line(copied: Path, name: str) -> None:
    (path,) = copied.glob(name)
    content = path.read_bytes()
    middle = content.index(b"JFIF" if "train" in name else b"ame", 40)
    damaged = content[:middle] + b"\xff\xfe" + content[middle + 2 :]
    for whole in (damaged, content[:middle], content[:-3], b""):
        path.write_bytes(whole)
        with pytest.raises((UserError, TrainingError)) as raised:
            load_copied(copied)
        assert "\n" not in str(raised.value) and str(copied) in str(raised.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="is a pipe, socket or device"):
        load_copied(copied)
