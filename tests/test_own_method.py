"""docs/own_method.md, followed to the letter."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.embed import get_config
from invariance_propagation.data.sources import load
from invariance_propagation.errors import UserError
from invariance_propagation.report.write import write_report
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.store.restore import restore_backbone
from invariance_propagation.tasks.embed import embed_folder
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.tiny_run import CHANGES, ROOT


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory):
    """The page's two files on Python's path."""
    folder = tmp_path_factory.mktemp("page")
    text = (ROOT / "docs" / "own_method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for name, block in zip(("my_method", "my_config"), blocks, strict=True):
        (folder / f"{name}.py").write_text(block, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(folder)
        yield


def small(num_devices: int = 2):
    import my_config

    config = my_config.get_config()
    config.num_devices = num_devices
    config.update_from_flattened_dict(
        {k: v for k, v in CHANGES.items() if not k.startswith("method.")}
    )
    return config


def test_it_trains_and_is_evaluated(page, tmp_path: Path) -> None:
    summary = train_and_evaluate(small(), str(tmp_path))
    assert summary["knn_trained"] > 0.1 and summary["knn_bank"] > 0.1
    assert "purity" not in summary
    assert restore_backbone(tmp_path).channels == 1
    memory = restore_memory(tmp_path)
    assert memory.rows.shape == (256, 128) and memory.neighbors is None
    # Neighbours need no memory.
    images = load(name="digits", folder="", num_train=256).train.images
    (tmp_path / "new").mkdir()
    Image.fromarray(images[9, :, :, 0]).save(tmp_path / "new" / "9.png")
    config = get_config()
    config.update({"checkpoint": str(tmp_path), "folder": str(tmp_path / "new")})
    arguments = config.to_dict()
    del arguments["task"]
    found = np.load(embed_folder(**arguments))
    assert found["neighbors"][0, 0] == 9 and set(found) == {
        *("ids", "features", "embeddings", "neighbors", "similarities")
    }
    report = write_report(workdir=str(tmp_path), output=str(tmp_path / "report.html"))
    text = report.read_text(encoding="utf-8")
    assert "effective rank" in text and "in-degree" not in text


def test_a_misspelt_option_is_named(page, tmp_path: Path) -> None:
    config = small()
    with config.unlocked():
        config.method.temprature = 0.2
    with pytest.raises(UserError, match="method.temprature: did you mean method.temp"):
        train_and_evaluate(config, str(tmp_path))
    assert not list(tmp_path.iterdir())
