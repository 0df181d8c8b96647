"""docs/own_dataset.md, followed to the letter."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.data import sources
from invariance_propagation.errors import UserError
from tests.tiny_run import ROOT


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch):
    """Makes the page's module one of the package's, and adds the page's line."""
    text = (ROOT / "docs" / "own_dataset.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    module = types.ModuleType(f"{sources.__name__}.arrays")
    exec(block, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    ((name, loader),) = re.findall(r'^    "(\w+)": "(.+)",$', text, flags=re.MULTILINE)
    monkeypatch.setitem(sources.LOADERS, name, loader)


def test_it_is_loaded_by_name(arrays, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    np.save(tmp_path / "train.npy", images)
    np.save(tmp_path / "test.npy", images[:2])
    dataset = sources.load(name="arrays", folder=str(tmp_path), num_train=0)
    np.testing.assert_array_equal(dataset.train.images, images)
    assert len(dataset.held_out.images) == 2 and dataset.train.labels is None
    sample = sources.load(name="arrays", folder=str(tmp_path), num_train=4)
    assert len(sample.train.images) == 4


def test_bad_input_is_one_line(arrays, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.npy: .*save uint8"):
        sources.load(name="arrays", folder=str(tmp_path), num_train=0)
    with pytest.raises(UserError, match="arrays has no such option"):
        sources.load(name="arrays", folder=str(tmp_path), num_train=0, classes=True)
    np.save(tmp_path / "train.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match="train.npy: .*Python objects"):
        sources.load(name="arrays", folder=str(tmp_path), num_train=0)
