"""The rehearsal of the ImageNet run in miniature: stored, repeated, saved, resumed."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from configs import imagenet
from invariance_propagation.data import sources
from invariance_propagation.errors import Stopped
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.train.build import build
from invariance_propagation.train.pretrain import train_and_evaluate
from invariance_propagation.train.run import state_shapes
from tests.tiny_run import ROOT

EXAMPLES, BATCH = 300, 8


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module = importlib.import_module("rehearsal")
    monkeypatch.setattr(module, "SIZES", {"train": 12, "validation": 4})
    # Put back after the test.
    monkeypatch.setitem(sources.LOADERS, "imagenet", sources.LOADERS["imagenet"])
    return module


def config_of(folder: Path, steps: int):
    """What a small machine changes, and a network that compiles in seconds."""
    config = imagenet.get_config()
    config.num_devices = 2
    config.data.folder = str(folder)
    config.augment.size = 24
    config.encoder.update(depth=6, width=4, hidden=8, norm_group=BATCH)
    config.method.background_size = "auto"
    config.train.update(batch_size=BATCH, stop_after_steps=steps)
    return config


def test_the_batch_fits_the_config(rehearsal: ModuleType) -> None:
    assert rehearsal.BATCH % imagenet.get_config().encoder.norm_group == 0


def test_the_imagenet_run_in_miniature(rehearsal: ModuleType, tmp_path: Path) -> None:
    rehearsal.prepare(tmp_path / "tfds")
    rehearsal.repeat(EXAMPLES)
    states = []
    for name, calls in (("whole", [4]), ("resumed", [2, 2])):
        for steps in calls:
            with pytest.raises(Stopped):
                train_and_evaluate(
                    config_of(tmp_path / "tfds", steps), str(tmp_path / name)
                )
        run = build(config_of(tmp_path / "tfds", 0))
        checkpoints = Checkpoints(tmp_path / name, keep=9)
        shapes = state_shapes(run)
        step, state, _ = checkpoints.restore(shapes)
        assert step == 4
        checkpoints.close()
        ids = restore_memory(tmp_path / name).sample_ids
        assert len(ids) == len(set(ids)) == len(state.memory.bank) == EXAMPLES
        states.append(state)
    whole, resumed = states
    np.testing.assert_array_equal(whole.memory.bank, resumed.memory.bank)
    np.testing.assert_array_equal(whole.memory.graph, resumed.memory.graph)
