"""The scan finds what cannot be used, and nothing else."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import digits, image_folder
from invariance_propagation.errors import UserError
from invariance_propagation.scan import print_scan


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
    assert sorted(line.split(":")[0] for line in lines) == ["2.png", "4.png"]
    assert all(len(line) > len("2.png: ") for line in lines)


def test_what_is_no_regular_file_is_listed(
    config, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    os.mkfifo(tmp_path / "pipe.png")  # whoever opens it waits for ever
    with pytest.raises(UserError):
        print_scan(config)
    assert "pipe.png: it is no regular file" in capsys.readouterr().out


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
