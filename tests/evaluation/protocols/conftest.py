"""Requests on mock data of TFDS (random pixels and labels), on folders and on arrays."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from configs.evaluate import get_config
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.data.sources.tfds import records
from invariance_propagation.devices import make_runner
from invariance_propagation.evaluation.bench import View, make_bench
from invariance_propagation.evaluation.protocols.base import Request
from tests.tiny_run import ROOT

EXAMPLES = 24
NAMES = ("cifar10", "oxford_flowers102", "voc/2007", "places365_small")
VIEW = View(8, (0.5,) * 3, (0.25,) * 3)
SECTIONS = ("knn", "linear", "semi", "finetune", "other")


@pytest.fixture(scope="session")
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
            sections={name: config[name] for name in SECTIONS},
            trained_with={},
            folder=tmp_path,
        )

    return make


def numbered(count: int) -> Dataset:
    images = np.zeros((count, 8, 8, 3), np.uint8)
    split = Split(images, np.arange(count, dtype=np.int32) % 4)
    return Dataset("numbered", split, split.sample(8, seed=0))


@pytest.fixture
def request_on(request_of):
    """(number of images, **changes of the config) -> a request on this many."""

    def make(count: int, **sections: dict) -> Request:
        request = request_of()
        bench = request.bench_of(numbered(count))
        data = dict(request.data) | sections.pop("data", {})
        own = {name: dict(request.sections[name]) | x for name, x in sections.items()}
        return request._replace(
            bench=lambda: bench, data=data, sections=dict(request.sections) | own
        )

    return make
