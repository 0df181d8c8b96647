"""Protocols with data of their own, on TFDS's mock data: random pixels and labels."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.evaluate import get_config
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.tfds import records
from invariance_propagation.data.sources.voc import targets_of, voc2007
from invariance_propagation.devices.runner import make_runner
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import View, make_bench, untrained
from invariance_propagation.evaluation.protocols import svm
from invariance_propagation.evaluation.protocols.jobs import (
    PROTOCOLS,
    TRANSFER,
    Request,
    usual,
)
from invariance_propagation.parallel import AXIS
from tests.tiny import TinyBackbone
from tests.tiny_run import ROOT

EXAMPLES = 24
NAMES = ("cifar10", "oxford_flowers102", "voc/2007", "places365_small")
VIEW = View(8, (0.5,) * 3, (0.25,) * 3)
pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By TensorFlow, in a process of its own."""
    folder = tmp_path_factory.mktemp("tfds")
    command = (sys.executable, "-m", "tests.mock_tfds", str(folder), *NAMES)
    environment = os.environ | records.QUIET_TENSORFLOW
    made = subprocess.run(
        [*command, f"--examples={EXAMPLES}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def request_of(cache, tmp_path: Path):
    """The request of a config, with few steps."""
    runner = make_runner("pmap", 2)

    def make(**other: str) -> Request:
        config = get_config()
        config.linear.update({"epochs": 1, "batch_size": 8})
        config.finetune.update({"epochs": 1, "batch_size": 8})
        config.other.update(other)
        section = config.data.to_dict()
        bench_of = partial(make_bench, runner, view=VIEW, num_threads=2)

        def load(**changes: object) -> Dataset:
            return sources.load(**section | changes, size=VIEW.size)

        return Request(
            load=load,
            bench=lambda: bench_of(load()),
            bench_of=bench_of,
            view=VIEW,
            data=section,
            **{name: config[name] for name in ("knn", "linear", "semi")},
            **{name: config[name] for name in ("finetune", "other")},
            folder=tmp_path,
        )

    return make


def measured(job) -> dict[str, float]:
    subject = untrained(job.bench, TinyBackbone(AXIS), 0)
    scores = dict(job.measure(subject, 0))
    assert all(0 <= value <= 1 for value in scores.values())
    return scores


def test_transfer_is_two_jobs_a_set(stored: Path, request_of) -> None:
    request = request_of(tfds_folder=str(stored), transfer_sets="cifar10, flowers")
    groups = list(PROTOCOLS["transfer"](request))
    assert all(first.bench is second.bench for first, second in groups)
    jobs = [job for group in groups for job in group]
    names = [(job.protocol, job.bench.dataset.name.split("/")[0]) for job in jobs]
    kinds = ("transfer_linear", "transfer_finetune")
    assert names == [
        (kind, name) for name in ("cifar10", "oxford_flowers102") for kind in kinds
    ]
    # Flowers has little to learn from: its validation too.
    sizes = [(job.bench.facts["train"], job.bench.facts["held_out"]) for job in jobs]
    few = EXAMPLES // 4
    assert sizes == [(EXAMPLES, few)] * 2 + [(EXAMPLES + few, few)] * 2
    for job in jobs:
        assert set(measured(job)) == {"top1", "top5", "per class"}


def test_all_sets_are_known_to_tfds() -> None:
    import tensorflow_datasets as tfds

    for name, _ in TRANSFER.values():
        features = tfds.builder(name).info.features
        assert isinstance(features["image"], tfds.features.Image)
        assert isinstance(features["label"], tfds.features.ClassLabel)
    config = get_config()
    assert config.other.transfer_sets.split(",") == list(TRANSFER)


def test_a_set_that_is_none_is_named(request_of) -> None:
    with pytest.raises(UserError, match="transfer_sets: 'food' is none of cifar10"):
        next(PROTOCOLS["transfer"](request_of(transfer_sets="cifar10,food")))


def test_places365_is_read_by_tfds(stored: Path, request_of) -> None:
    ((job,),) = PROTOCOLS["places"](request_of(tfds_folder=str(stored)))
    assert job.bench.facts["train"] == EXAMPLES
    assert job.bench.facts["held_out"] == EXAMPLES // 4
    assert set(measured(job)) == {"top1", "top5"}


def store_places(root: Path) -> None:
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for kind in ("abbey", "zoo"):
            (root / part / kind).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(256, size=(12, 14, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{i}.png")


def test_places205_is_a_folder(tmp_path: Path, request_of) -> None:
    store_places(tmp_path / "places")
    ((job,),) = PROTOCOLS["places"](request_of(places=str(tmp_path / "places")))
    assert job.bench.facts == {"name": "places", "train": 16, "held_out": 6} | {
        "classes": 2,
        "digest": job.bench.facts["digest"],
    }
    assert job.bench.dataset.train.labels.tolist() == [0] * 8 + [1] * 8
    assert job.bench.dataset.held_out.ids[3] == "zoo/0.png"
    assert job.bench.dataset.held_out.labels.tolist() == [0] * 3 + [1] * 3
    assert set(measured(job)) == {"top1"}
    (tmp_path / "places" / "val" / "zoo").rename(tmp_path / "places" / "val" / "zooo")
    with pytest.raises(UserError, match="the same classes, zoo is in one"):
        next(PROTOCOLS["places"](request_of(places=str(tmp_path / "places"))))


def test_voc_learns_from_trainval(stored: Path, request_of, monkeypatch) -> None:
    monkeypatch.setattr(svm, "LOW_SHOT", (1,))
    monkeypatch.setattr(svm, "DRAWS", 2)
    ((job,),) = PROTOCOLS["voc07_svm"](request_of(tfds_folder=str(stored)))
    train, held_out = job.bench.dataset.train, job.bench.dataset.held_out
    few = EXAMPLES // 4
    assert train.labels.shape == (EXAMPLES + few, 20) and train.labels.dtype == np.int8
    assert held_out.labels.shape == (few, 20)
    assert job.bench.num_classes == 20
    assert set(np.unique(train.labels)) == {-1, 0, 1}
    rows = [train.images.content.source[i] for i in range(len(train.labels))]
    for row, targets in zip(rows, train.labels, strict=True):
        sure = set(row["labels_no_difficult"])
        assert set(np.flatnonzero(targets == 1)) == sure
        assert set(np.flatnonzero(targets == -1)) == set(row["labels"]) - sure
    assert set(measured(job)) == {"mAP", "1 a class"}
    assert not job.by_chance
    assert job.version == 3
    assert job.settings["options"]["average_precision"] == "interpolated"


def test_what_is_hard_to_tell_is_ignored() -> None:
    row = {"labels": np.array([3, 7, 7, 19]), "labels_no_difficult": np.array([7])}
    targets = targets_of(row)
    assert targets.tolist() == [{3: -1, 7: 1, 19: -1}.get(i, 0) for i in range(20)]


def test_a_missing_set_is_named(tmp_path: Path, cache) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        voc2007(str(tmp_path / "nowhere"), size=8)


# Checks that need no stored data.


def numbered(count: int) -> Dataset:
    images = np.zeros((count, 8, 8, 3), np.uint8)
    split = Split(images, np.arange(count, dtype=np.int32) % 4)
    return Dataset("numbered", split, split.sample(8, seed=0))


@pytest.fixture
def request_on(request_of):
    """(number of images, **changes of the config) -> a request on so many."""

    def make(count: int, **sections: dict) -> Request:
        request = request_of()
        bench = request.bench_of(numbered(count))
        own = {name: dict(getattr(request, name)) | x for name, x in sections.items()}
        return request._replace(bench=lambda: bench, **own)

    return make


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"num_neighbors": 13}, "num_neighbors=13, but there are 12 training"),
        ({"num_neighbors": 0}, "num_neighbors=0"),
        ({"temperature": 0.0}, "temperature=0.0: set it above 0"),
    ],
)
def test_knn_is_checked_before_features_are_computed(
    request_on, changes: dict, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        next(PROTOCOLS["knn"](request_on(12, knn=changes)))


def test_so_many_svms_are_refused_and_not_usual(request_on, monkeypatch) -> None:
    request = request_on(12)
    assert usual(request.bench()) == ["knn", "linear", "semi", "svm"]
    monkeypatch.setattr(svm, "MOST_IMAGES", 11)
    assert usual(request.bench()) == ["knn", "linear", "semi"]
    with pytest.raises(UserError, match="12 images would take days: leave svm out"):
        next(PROTOCOLS["svm"](request))


@pytest.mark.parametrize("part", [{}, {"num_train": 10}, {"split": "train[:9]"}])
def test_of_all_of_imagenet_the_published_lists_are_used(
    request_on, part: dict
) -> None:
    asked = []

    def load(*, name: str) -> Dataset:
        asked.append(name)
        return numbered(12)

    data = {"name": "imagenet", "split": "", "num_train": 0} | part
    request = request_on(12, data=data)._replace(load=load)
    ((job,),) = PROTOCOLS["semi"](request)
    published = ["imagenet_1pct", "imagenet_10pct"]
    assert asked == ([] if part else published)  # once each
    assert ("published" in job.settings["lists"]) == (not part)


def test_a_card_says_how_it_was_trained_and_cropped(request_on) -> None:
    ((job,),) = PROTOCOLS["linear"](request_on(12))
    assert job.settings["optimizer"] == "SGD, momentum 0.9"
    assert job.settings["view"]["crop"] == {"train": "whole", "held_out": "whole"}


def labelled(train: list[int], held_out: list[int]) -> Dataset:
    return Dataset(
        "labelled",
        *(
            Split(np.zeros((len(x), 8, 8, 3), np.uint8), np.array(x, np.int32))
            for x in (train, held_out)
        ),
    )


def test_a_single_class_is_refused(request_of) -> None:
    for held_out in ([2, 2], [0, 1]):
        with pytest.raises(UserError, match="all 3 training images are of one class"):
            request_of().bench_of(labelled([2, 2, 2], held_out))


@pytest.mark.parametrize("protocol", ["knn", "linear", "semi", "svm"])
def test_labels_that_say_little_are_on_every_card(request_of, protocol: str) -> None:
    request = request_of()
    bench = request.bench_of(labelled([0, 1] * 4, [0, 1, 5]))
    ((job,),) = PROTOCOLS[protocol](request._replace(bench=lambda: bench))
    remark, *more = job.settings["remarks"]
    assert remark.startswith("1 of 3 images of the test are of classes without")
    assert len(more) == (protocol == "svm")  # four images are few for 96 a class


def test_too_many_votes_are_on_the_card(request_on) -> None:
    ((few,),) = PROTOCOLS["knn"](request_on(12, knn={"num_neighbors": 5}))
    assert "remarks" not in few.settings
    ((many,),) = PROTOCOLS["knn"](request_on(12, knn={"num_neighbors": 12}))
    (remark,) = many.settings["remarks"]
    assert remark.startswith("K = 12, but no class has more than 3 training images")
