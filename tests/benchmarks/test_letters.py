"""Tests the set of letters on a package made of fonts that Matplotlib brings."""

import sys
import tarfile
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from benchmarks import letters
from invariance_propagation.data.sources import load

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
NAMES = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
FAMILIES = ("one", "two", "three", "four", "five")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tar file, and a dpkg-deb that unpacks nothing more than that."""
    path = tmp_path / "fonts.deb"
    with tarfile.open(path, "w") as archive:
        for family in FAMILIES:
            for name in NAMES:
                archive.add(FONTS / name, f"./usr/fonts/{family}/{name}")
        archive.add(FONTS / NAMES[0], "./usr/fonts/semaphor/smfb10.ttf")
        archive.add(FONTS / "STIXSizOneSymReg.ttf", "./usr/fonts/one/no_capitals.ttf")
        archive.add(__file__, "./usr/fonts/one/readme.txt")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "dpkg-deb").write_text('#!/bin/sh\nexec cat "$2"\n')
    (tools / "dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with path.open("rb") as file:
        found = letters.hashlib.file_digest(file, "sha256").hexdigest()
    monkeypatch.setattr(letters, "SHA256", found)
    return path


def make(monkeypatch: pytest.MonkeyPatch, folder: Path, package: Path) -> None:
    arguments = ["letters.py", str(folder), "--package", str(package)]
    monkeypatch.setattr(sys, "argv", arguments)
    letters.main()


def test_every_fifth_family_is_held_out(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(letters, "MOST", 2)
    make(monkeypatch, tmp_path / "made", package)
    dataset = load(name="letters", folder=str(tmp_path / "made"), num_train=0)
    assert dataset.train.images.shape == (4 * 2 * 26, 28, 28, 1)
    assert dataset.held_out.images.shape == (2 * 26, 28, 28, 1)
    np.testing.assert_array_equal(dataset.held_out.labels, 2 * [*range(26)])
    # All five families are the same here: each keeps its first and its last font.
    whole = dataset.train.images.reshape(4, -1)
    np.testing.assert_array_equal(
        whole, dataset.held_out.images.reshape(1, -1)[[0] * 4]
    )
    for image in dataset.train.images[..., 0]:
        rows, columns = image.any(axis=1).sum(), image.any(axis=0).sum()
        assert letters.BOX - 1 <= max(rows, columns) <= letters.BOX
    before = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    make(monkeypatch, tmp_path / "again", package)
    for name, content in before.items():
        assert (tmp_path / "again" / name).read_bytes() == content


def test_fonts_without_letters_are_left_out(package) -> None:
    families = letters.read_families(package)
    assert sorted(families) == sorted(FAMILIES)
    assert all(len(fonts) == len(NAMES) for fonts in families.values())


def test_another_package_is_refused(package, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(letters, "SHA256", "0")
    with pytest.raises(SystemExit, match="is not texlive-fonts-extra"):
        make(monkeypatch, tmp_path / "made", package)
    with pytest.raises(SystemExit, match="cannot be read"):
        make(monkeypatch, tmp_path / "made", tmp_path / "nothing")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SystemExit, match="dpkg-deb is missing"):
        make(monkeypatch, tmp_path / "made", package)
    assert not (tmp_path / "made").exists()
