"""Which files of a folder are pictures, and their classes."""

from pathlib import Path

import pytest

from invariance_propagation.data.folder import (
    classes_of,
    image_folder,
    is_held_out,
    list_pictures,
)
from invariance_propagation.errors import UserError


def test_pictures_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/x.PNG", "a/z.jpg", "a/deep/y.jpeg", "t.webp", "n.txt", ".h.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_pictures(tmp_path) == ["a/deep/y.jpeg", "a/z.jpg", "b/x.PNG", "t.webp"]


def test_no_folder_and_no_pictures_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*data.folder"):
        list_pictures(tmp_path / "none")
    with pytest.raises(UserError, match="holds no pictures"):
        list_pictures(tmp_path)


def test_classes_are_the_topmost_folders() -> None:
    labels, names = classes_of(["b/1.png", "a/x/2.png", "a/3.png"])
    assert labels.tolist() == [1, 0, 0] and names == ["a", "b"]
    with pytest.raises(UserError, match=r"4.png lies in no folder.*classes=False"):
        classes_of(["b/1.png", "4.png"])


def test_what_is_held_out_depends_on_the_name_alone() -> None:
    names = [f"{i}.png" for i in range(4000)]
    held = [name for name in names if is_held_out(name, 0.25)]
    assert abs(len(held) / 4000 - 0.25) < 0.03
    assert not any(is_held_out(name, 0.0) for name in names)
    # A larger share keeps what a smaller one held out.
    assert all(is_held_out(name, 0.5) for name in held)


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    share = next(s / 100 for s in range(100) if is_held_out("a.png", s / 100))
    with pytest.raises(UserError, match=r"data.held_out=.* leaves none of the 1"):
        image_folder(str(tmp_path), classes=False, held_out=share, size=8)
