"""The scan finds what cannot be used, and nothing else."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits, image_folder
from invariance_propagation.data.sources import usable
from invariance_propagation.errors import UserError
from invariance_propagation.tasks.scan import print_scan


@pytest.fixture
def config(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    for i in range(6):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    config = image_folder.get_config()
    config.data.folder = str(tmp_path)
    return config


def test_good_pictures_are_counted(config, capsys: pytest.CaptureFixture) -> None:
    assert print_scan(config) == []
    assert "all 6 pictures can be used" in capsys.readouterr().out


def test_bad_ones_are_listed_with_the_reason(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:80])
    (tmp_path / "4.png").write_bytes(b"")
    config.data.held_out = 0.5
    with pytest.raises(UserError, match=r"2 of 6 pictures cannot be used"):
        print_scan(config)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"found 6 pictures, in {tmp_path}"
    assert sorted(line.split(":")[0] for line in lines[2:]) == ["2.png", "4.png"]
    assert all(len(line) > len("2.png: ") for line in lines)


def test_what_is_passed_over_is_said(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "0.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert print_scan(config) == []
    lines = capsys.readouterr().out.splitlines()
    assert "skipped: 1 .txt, 1 broken link, 1 hidden" in lines
    assert lines[-1] == "6 pictures can be used; 3 files cannot (listed above)"


def test_train_and_val_and_their_classes_are_said(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for i, name in enumerate(["train/a", "train/a", "train/b", "val/a", "test/a", ""]):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{i}.png").rename(tmp_path / name / f"{i}.png")
    config.data.classes = True
    assert print_scan(config) == []
    lines = capsys.readouterr().out.splitlines()
    assert "train/ is trained on (3), val/ is held out (1)" in lines
    assert "1 picture in test/ is not used: only train/ and val/ are" in lines
    assert "1 picture in no folder is not used: only train/ and val/ are" in lines
    assert "2 classes: a, b" in lines
    assert any(line.startswith("question: 1 of the classes has a ") for line in lines)
    assert lines[-1] == "4 pictures can be used; 2 files cannot (listed above)"


def test_what_training_refuses_is_refused(config, tmp_path: Path) -> None:
    for i, name in enumerate(["train/a", "train/b", "val/a", "val/b", "val/c"]):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / f"{i}.png").rename(tmp_path / name / f"{i}.png")
    (tmp_path / "5.png").unlink()
    config.data.classes = True
    with pytest.raises(UserError, match="val/ has a class c, train/ has not"):
        print_scan(config)


def test_the_scan_looks_again(config, tmp_path: Path, monkeypatch) -> None:
    print_scan(config)
    looked = []
    monkeypatch.setattr(usable, "decode", lambda content, **_: looked.append(content))
    print_scan(config)
    assert len(looked) == 6


def test_pipes_are_never_opened(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # opening it blocks for ever
    assert print_scan(config) == []
    assert "skipped: 1 pipe, socket or device" in capsys.readouterr().out


def test_an_unknown_depth_is_listed_or_stretched(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    levels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="1 of 7"):
        print_scan(config)
    assert "deep.png: its values go from 0 to 4,095" in capsys.readouterr().out
    config.data.stretch_depth = True
    assert print_scan(config) == []


def test_arrays_are_not_scanned() -> None:
    with pytest.raises(UserError, match="nothing to scan"):
        print_scan(digits.get_config())
