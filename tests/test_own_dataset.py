"""docs/own_dataset.md, followed to the letter."""

import re
from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.data import sources
from invariance_propagation.errors import UserError
from tests.tiny_run import ROOT


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch):
    """Makes the page's loader one of the package's."""
    text = (ROOT / "docs" / "own_dataset.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(block, names := {})
    monkeypatch.setitem(sources.LOADERS, "arrays", names["arrays"])


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
