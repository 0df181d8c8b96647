"""A run of configs/cifar10.py is the same for every number of devices."""

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import cifar10
from invariance_propagation import parallel
from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.devices import cpu
from invariance_propagation.errors import UserError
from invariance_propagation.train import build
from invariance_propagation.train.run import Run, init_state
from invariance_propagation.train.step import TrainState

pytestmark = pytest.mark.usefixtures("pictures")
SHOWN = 40  # images that are embedded


@pytest.fixture(scope="module")
def pictures() -> Iterator[None]:
    """Returns images in place of CIFAR-10's, each brighter than the one before."""
    random = np.random.default_rng(0)
    brightness = random.uniform(20, 200, size=(256, 1, 1, 3))
    images = brightness + random.normal(0, 20, size=(256, 32, 32, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    labels = random.integers(0, 10, 256)
    dataset = Dataset("cifar10", Split(images, labels), Split(images[:16], labels[:16]))

    @functools.wraps(sources.load)
    def load(**options: Any) -> Dataset:
        return dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "load", load)
        yield


def config_of(num_devices: int, **changes: Any) -> ConfigDict:
    config = cifar10.get_config()
    config.num_devices = num_devices
    config.encoder.update(depth=6, width=4, hidden=8)
    config.method.update(background_size=64, start_epoch=0)
    config.knn.num_neighbors = 5
    # At a rate of 0.03 the second step of such a narrow network turns rounding errors,
    # which differ on 8 devices, from 1e-6 into 1e-4.
    config.optimizer.learning_rate = 0.003
    config.update_from_flattened_dict(changes)
    return config


def go_on(run: Run, state: TrainState, start: int, stop: int) -> TrainState:
    feed = run.input.feed(start=start, stop=stop)
    for _ in range(start, stop):
        state, _ = run.step(state, *next(feed))
    feed.close()
    return state


def embeddings(run: Run, state: TrainState) -> np.ndarray:
    images = run.dataset.train.images[:SHOWN]
    found = run.embed(state.params, state.batch_stats, images).embedding
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def after_two_steps(**arguments: Any) -> np.ndarray:
    run = build.build(config_of(**arguments))
    return embeddings(run, go_on(run, init_state(run), 0, 2))


@pytest.fixture(scope="module")
def of_one_device(pictures: None) -> np.ndarray:
    return after_two_steps(num_devices=1)


@pytest.mark.parametrize("num_devices", [2, 4, 8])
def test_embeddings_are_the_same_for_every_number_of_devices(
    of_one_device: np.ndarray, num_devices: int
) -> None:
    found = after_two_steps(num_devices=num_devices)
    np.testing.assert_allclose(found, of_one_device, atol=1e-5)


def test_statistics_of_one_device_would_be_noticed(
    of_one_device: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shows that per-device statistics, as in the authors' code, would fail the test above."""
    average = parallel.pmean

    def but_statistics(tree: Any, axis_name: str | None) -> Any:
        statistics = isinstance(tree, dict) and tree.keys() == {"backbone"}
        return tree if statistics else average(tree, axis_name)

    monkeypatch.setattr(parallel, "pmean", but_statistics)
    found = after_two_steps(num_devices=4)
    assert np.abs(found - of_one_device).max() > 1e-3


def test_a_run_goes_on_exactly_on_another_number_of_devices() -> None:
    whole = build.build(config_of(4))
    state = go_on(whole, init_state(whole), 0, 2)
    stored = whole.runner.fetch(state, whole.spec, whole.num_examples)
    expected = embeddings(whole, go_on(whole, state, 2, 3))
    for num_devices in (1, 8):
        run = build.build(config_of(num_devices))
        state = go_on(run, run.runner.put(stored, run.spec), 2, 3)
        np.testing.assert_allclose(embeddings(run, state), expected, atol=1e-5)


def test_another_group_is_another_method(of_one_device: np.ndarray) -> None:
    found = after_two_steps(num_devices=1, **{"encoder.norm_group": 0})
    assert np.abs(found - of_one_device).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "num_devices", "line"),
    [
        ({"train.batch_size": 48}, 1, "norm_group=32 .*norm_group to 24, or to 0"),
        ({"train.batch_size": 96}, 2, "gives each of 2 devices 48, .* num_devices to"),
        ({"encoder.norm_group": -32}, 1, "norm_group=-32: .* 0 for the whole batch"),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, int], num_devices: int, line: str
) -> None:
    with pytest.raises(UserError, match=line):
        build.build(config_of(num_devices, **changes))


def test_the_key_of_before_is_unknown() -> None:
    config = config_of(1)
    with config.unlocked():
        config.encoder.cross_replica_norm = True
    with pytest.raises(UserError, match="unknown config key encoder.cross_replica"):
        build.build(config)


def test_a_cpu_is_split_into_devices_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[int] = []
    monkeypatch.setattr(cpu, "split_cpu", splits.append)
    config = SimpleNamespace(jax_num_cpu_devices=0)
    monkeypatch.setattr(cpu, "jax", SimpleNamespace(config=config))
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(2)))
    cpu.one_cpu_device_per_core(96)
    cpu.one_cpu_device_per_core(96, fits=lambda n: n != 2)
    assert splits == [2, 1]
