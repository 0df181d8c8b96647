"""Tests streamed batches: order, randomness, shares, and starts in the middle."""

import ctypes
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil
import pytest
from PIL import Image

from invariance_propagation.data.load import stream as module
from invariance_propagation.data.load import workers as workers_module
from invariance_propagation.data.load.pictures import Pictures, crops, resize
from invariance_propagation.data.load.stream import Load, stream
from invariance_propagation.data.order import epoch_order
from invariance_propagation.data.sources.folder import Files
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.data.views.chance import NUMBERS
from invariance_propagation.data.views.threefry import host_uniforms
from invariance_propagation.errors import TrainingError
from tests.data.pictures import pictures_of
from tests.tiny_run import ROOT

COUNT, BATCH = 22, 4
PER_EPOCH = COUNT // BATCH


@pytest.fixture(scope="module")
def pictures(patches: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder: Path = tmp_path_factory.mktemp("pictures")
    for i in range(COUNT):
        Image.fromarray(patches[i]).save(folder / f"{i:02}.png")
    return pictures_of(folder, [f"{i:02}.png" for i in range(COUNT)], 16)


def load_of(pictures: Pictures, *, scale=(0.2, 1.0), seed: int = 5, **share) -> Load:
    make = partial(crops, size=16, crop_scale=scale, crop_ratio=(3 / 4, 4 / 3))
    return Load(pictures, [[make]], seed=seed, batch_size=BATCH, **share)


def batches(pictures: Pictures, start: int, stop: int, *, threads: int = 3, **options):
    load = load_of(pictures, **options)
    return list(stream(load, start=start, stop=stop, num_threads=threads))


def assert_same(found: list, expected: list) -> None:
    for (indices, images), (others, same) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(indices, others)
        np.testing.assert_array_equal(images, same)


def test_every_step_gets_the_indices_of_its_place(pictures: Pictures) -> None:
    found = batches(pictures, 0, 3 * PER_EPOCH)
    assert len(found) == 3 * PER_EPOCH
    for epoch in range(3):
        order = epoch_order(seed=5, epoch=epoch, num_examples=COUNT, batch_size=BATCH)
        own = found[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH]
        np.testing.assert_array_equal([indices for indices, _ in own], order)
    for indices, images in found:
        assert indices.dtype == np.int32 and indices.max() < COUNT
        assert images.shape == (BATCH, 1, 16, 16, 3) and images.dtype == np.uint8


@pytest.mark.parametrize("per_epoch", [PER_EPOCH - 1, PER_EPOCH + 1])
def test_an_epoch_of_other_steps(pictures: Pictures, per_epoch: int) -> None:
    sizes = {"num_examples": COUNT, "batch_size": BATCH, "steps": per_epoch}
    expected = [epoch_order(seed=5, epoch=epoch, **sizes) for epoch in range(2)]
    found = batches(pictures, 0, 2 * per_epoch, steps_per_epoch=per_epoch)
    indices = [indices for indices, _ in found]
    np.testing.assert_array_equal(indices, np.concatenate(expected))


@pytest.mark.parametrize("threads", [1, 5])
def test_starting_in_the_middle_changes_nothing(
    pictures: Pictures, threads: int
) -> None:
    whole = batches(pictures, 0, 9)
    assert_same(batches(pictures, 7, 9, threads=threads), whole[7:])


def test_processes_share_a_batch_in_order(pictures: Pictures) -> None:
    whole = batches(pictures, 3, 8)
    for count in (2, 4):
        parts = [
            batches(pictures, 3, 8, process_index=p, process_count=count)
            for p in range(count)
        ]
        assert all(len(indices) == BATCH // count for indices, _ in parts[0])
        joined = [
            tuple(np.concatenate(x) for x in zip(*shares, strict=True))
            for shares in zip(*parts, strict=True)
        ]
        assert_same(joined, whole)


def test_pieces_make_up_a_batch(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(pictures, 0, 7)
    monkeypatch.setattr(module, "PIECE", 3)
    assert load_of(pictures).pieces == 2  # of 2 images each, as 4 is not made of 3s
    assert_same(batches(pictures, 0, 7), whole)


def test_an_image_depends_on_nothing_but_its_numbers(pictures: Pictures) -> None:
    load = load_of(pictures)
    (indices, images), *_ = batches(pictures, PER_EPOCH, PER_EPOCH + 1)
    np.testing.assert_array_equal(load.read(1, indices)[0], images)
    np.testing.assert_array_equal(load.read(1, indices[::-1])[0][::-1], images)
    # The very numbers that the device would draw.
    keys = per_image_keys(5, 1, indices)
    numbers = np.asarray(jax.vmap(lambda key: jax.random.uniform(key, NUMBERS))(keys))
    made = crops(
        [pictures.read(int(i)) for i in indices],
        numbers,
        size=16,
        crop_scale=(0.2, 1.0),
        crop_ratio=(3 / 4, 4 / 3),
    )
    np.testing.assert_array_equal(list(made), images[:, 0])


def test_several_views_are_made_of_one_reading(pictures: Pictures) -> None:
    small = partial(crops, size=8, crop_scale=(0.1, 0.3), crop_ratio=(3 / 4, 4 / 3))
    large = partial(crops, size=16, crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3))
    options = {"seed": 5, "batch_size": BATCH}
    load = Load(pictures, [[large] * 2, [small] * 3], **options)
    indices, noted = np.arange(7, dtype=np.int32), []
    first, second = load.read(1, indices, note=noted.append)
    assert noted == [*range(7)]
    assert first.shape == (7, 2, 16, 16, 3) and second.shape == (7, 3, 8, 8, 3)
    # The first is what it is alone; each of the others is another.
    (alone,) = load_of(pictures).read(1, indices)
    np.testing.assert_array_equal(first[:, :1], alone)
    views = [*np.moveaxis(second, 1, 0)]
    assert all((x != y).any() for i, x in enumerate(views) for y in views[:i])
    numbers = host_uniforms(5, 1, indices, NUMBERS, view=4)
    read = [pictures.read(int(i)) for i in indices]
    np.testing.assert_array_equal(views[2], list(small(read, numbers)))
    # So does a stream, by threads or by processes.
    for workers in (0, 2):
        made = stream(load, start=0, stop=3, num_threads=2, num_workers=workers)
        for found, *groups in made:
            for group, expected in zip(groups, load.read(0, found), strict=True):
                np.testing.assert_array_equal(group, expected)


def test_images_in_arrays_are_streamed_too(patches: np.ndarray) -> None:
    make = partial(crops, size=16, crop_scale=(), crop_ratio=(1, 1))
    load = Load(patches, [[make]], seed=0, batch_size=8)
    order = epoch_order(seed=0, epoch=0, num_examples=24, batch_size=8)
    found = list(stream(load, start=0, stop=3, num_threads=2))
    np.testing.assert_array_equal([indices for indices, _ in found], order)
    for indices, images in found:
        expected = [resize(patches[i], 16) for i in indices]
        np.testing.assert_array_equal(images[:, 0], expected)


def test_worker_processes_change_nothing(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two pieces, so that each batch comes from both workers.
    monkeypatch.setattr(module, "PIECE", 2)
    load = load_of(pictures)
    made = stream(load, start=2, stop=9, num_threads=2, num_workers=2)
    assert_same(list(made), batches(pictures, 2, 9))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named(
    pictures: Pictures, workers: int
) -> None:
    bad = Pictures(pictures.ids, Bad(), size=16, where="there")
    load = load_of(bad)
    with pytest.raises(
        TrainingError, match="png cannot be used .*remove it from there"
    ):
        list(stream(load, start=0, stop=3, num_threads=1, num_workers=workers))


class Bad:
    """Reads what is no picture."""

    def __call__(self, index: int) -> bytes:
        return b"no picture"


class Deadly(NamedTuple):
    """Ends the process in which it reads the picture of index 13."""

    content: Files
    how: str

    def __call__(self, index: int) -> bytes:
        if index == 13:
            if self.how == "crash":
                ctypes.string_at(0)
            elif self.how == "status 0":
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return self.content(index)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("crash", r"crashed \(SIGSEGV\)"),
        ("status 0", "ended with status 0"),
    ],
)
def test_a_worker_that_dies_is_one_error_with_the_picture(
    pictures: Pictures, how: str, expected: str, capfd: pytest.CaptureFixture
) -> None:
    deadly = Pictures(pictures.ids, Deadly(pictures.content, how), size=16, where="")
    made = stream(load_of(deadly), start=0, stop=5, num_threads=1, num_workers=1)
    with pytest.raises(TrainingError, match=f"{expected} while it was at 13.png: "):
        list(made)
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


KILLED = """
import sys
from tests.data.load.test_stream import *
pictures = pictures_of(Path(sys.argv[1]), [f"{i:02}.png" for i in range(COUNT)], 16)
deadly = Pictures(pictures.ids, Deadly(pictures.content, "kill"), size=16, where="")
try:
    list(stream(load_of(deadly), start=0, stop=5, num_threads=2, num_workers=2))
except TrainingError as error:
    print(error)
"""


def test_a_worker_that_is_killed_leaves_nothing_behind(pictures: Pictures) -> None:
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, pictures.where],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert re.match(r"worker process \d of .* SIGKILL while .*\b13\.png", done.stdout)
    assert done.stdout.count("\n") == 1 and done.stderr == ""
    # Of what Python and Grain would call it; other tests may be running.
    left = {x for x in set(os.listdir("/dev/shm")) - before if x[:3] in ("psm", "pym")}
    assert not left


def test_a_worker_that_waited_names_its_last_pictures(pictures: Pictures) -> None:
    # More batches than the worker may be ahead.
    made = stream(load_of(pictures), start=0, stop=50, num_threads=1, num_workers=1)
    next(made)
    (worker,) = multiprocessing.active_children()
    while psutil.Process(worker.pid).status() == psutil.STATUS_RUNNING:
        time.sleep(0.01)
    worker.kill()
    with pytest.raises(TrainingError, match=r"SIGKILL while it w.* \d\d\.png: "):
        list(made)


def test_a_worker_that_is_stopped_is_named_and_waited_for(
    pictures: Pictures, monkeypatch, capsys
) -> None:
    options = {"start": 0, "stop": 40, "num_threads": 1}
    made = stream(load_of(pictures), num_workers=1, **options)
    found = [next(made)]
    monkeypatch.setattr(workers_module, "PATIENCE", 0.3)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGSTOP)
    timer = threading.Timer(3.0, os.kill, (worker.pid, signal.SIGCONT))
    timer.start()
    found += made
    timer.join()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and f"(pid {worker.pid}) has sent nothing" in said
    assert_same(found, list(stream(load_of(pictures), **options)))


def test_images_that_do_not_come_are_said(
    pictures: Pictures, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)

    class Slow(Load):
        def __call__(self, place: int, **options: Any) -> tuple[np.ndarray, ...]:
            time.sleep(0.6 * (place == 3))
            return super().__call__(place, **options)

    monkeypatch.setattr(sys.modules[__name__], "Load", Slow)
    assert len(batches(pictures, 0, 6, threads=1)) == 6
    assert "waiting for images for" in capsys.readouterr().out


def test_a_stop_is_not_for_workers(pictures: Pictures) -> None:
    made = stream(load_of(pictures), start=0, stop=5, num_threads=1, num_workers=1)
    first = next(made)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    assert_same([first, *made], batches(pictures, 0, 5))
    assert not multiprocessing.active_children()


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
    for indices, images in batches(pictures, 0, 2, scale=()):
        for index, image in zip(indices, images, strict=True):
            whole = pictures.read(int(index))
            assert abs(image.mean() - whole.mean()) < 3
