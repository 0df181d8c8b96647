"""Tests which files of a folder are listed: links, loops, and what is skipped."""

import os
from pathlib import Path

import pytest

from invariance_propagation.data.sources import listing
from invariance_propagation.data.sources.listing import list_pictures
from invariance_propagation.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def link(root: Path, name: str, target: Path) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(target)


def test_pictures_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/x.PNG", "a/z.jpg", "a/deep/y.jpeg", "t.webp", "n.txt", ".h.png")
    found = list_pictures(tmp_path)
    assert found.ids == ["a/deep/y.jpeg", "a/z.jpg", "b/x.PNG", "t.webp"]
    assert found.passed == {".txt": 1, "hidden": 1} and found.links == 0


def test_no_folder_and_no_pictures_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*data.folder"):
        list_pictures(tmp_path / "none")
    with pytest.raises(UserError, match="holds no pictures"):
        list_pictures(tmp_path)
    touch(tmp_path, ".a/x.png")
    with pytest.raises(UserError, match=r"holds no pictures .*, but 1 hidden: name"):
        list_pictures(tmp_path)


def test_what_is_hidden_is_passed_over_by_file(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "a/.ipynb_checkpoints/x-checkpoint.png", "a/._x.png")
    touch(tmp_path, ".git/objects/ab/cd", ".git/config", "__MACOSX/a/._x.png")
    found = list_pictures(tmp_path)
    assert found.ids == ["a/x.png"] and found.passed == {"hidden": 5}


def test_a_folder_below_a_hidden_one_is_not_hidden(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/set/a/x.png")
    assert list_pictures(tmp_path / ".cache" / "set").ids == ["a/x.png"]


def test_folders_pipes_and_closed_folders_are_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "x.png/y.png", "no_suffix")
    os.mkfifo(tmp_path / "pipe.png")
    link(tmp_path, "to_pipe.png", tmp_path / "pipe.png")
    found = list_pictures(tmp_path)
    assert found.ids == ["x.png/y.png"]
    assert found.passed == {"without a suffix": 1, listing.NO_FILE: 2}


# Links.


def test_links_inside_and_outside_are_followed(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    touch(away, "one.png", "more/deep/two.png", "blob")
    touch(root, "a/0.png")
    link(root, "a/1.png", away / "one.png")
    link(root, "b", away / "more")
    link(root, "c/2.png", away / "blob")  # the name of the link says what it is
    found = list_pictures(root)
    assert found.ids == ["a/0.png", "a/1.png", "b/deep/two.png", "c/2.png"]
    assert found.links == 3 and found.passed == {}
    assert found.about_links() == "3 of them by links"
    inside = list_pictures(root, outside_links=False)
    assert inside.ids == ["a/0.png"] and inside.passed == {listing.OUTSIDE: 3}


def test_links_inside_are_inside_wherever_the_folder_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "root/.store/x", "root_2/y.png")
    link(tmp_path / "root", "x.png", Path(".store/x"))
    link(tmp_path / "root", "y.png", Path("../root_2/y.png"))
    link(tmp_path, "name", tmp_path / "root")
    found = list_pictures(tmp_path / "name", outside_links=False)
    assert found.ids == ["x.png"]
    assert found.passed == {"hidden": 1, listing.OUTSIDE: 1}


def test_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.png", "b/y.png")
    link(tmp_path, "a/up", tmp_path)
    link(tmp_path, "a/self", tmp_path / "a")
    link(tmp_path, "b/other", tmp_path / "a")
    link(tmp_path, "c", tmp_path / "c")  # of itself
    found = list_pictures(tmp_path)
    assert found.ids == ["a/x.png", "b/y.png"]
    assert found.passed == {listing.AGAIN: 3, listing.BROKEN: 1}


def test_a_loop_outside_ends(tmp_path: Path) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    touch(root, "x.png")
    touch(away, "y.png")
    link(root, "there", away)
    link(away, "back", root)
    link(away, "around", away)
    found = list_pictures(root)
    assert found.ids == ["there/y.png", "x.png"] and found.passed == {listing.AGAIN: 2}


def test_a_file_of_several_names_is_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "root/b/x.png", "away/y.png")
    root = tmp_path / "root"
    link(root, "a/x.png", root / "b" / "x.png")  # it has a name without a link
    link(root, "c/1.png", tmp_path / "away" / "y.png")
    link(root, "c/2.png", tmp_path / "away" / "y.png")
    link(root, "d", tmp_path / "away")
    found = list_pictures(root)
    assert found.ids == ["b/x.png", "d/y.png"]
    assert found.passed == {listing.AGAIN: 3}


def test_broken_links_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "x.png")
    link(tmp_path, "gone.png", tmp_path / "nowhere.png")
    link(tmp_path, "gone", tmp_path / "nowhere")
    found = list_pictures(tmp_path)
    assert found.ids == ["x.png"] and found.passed == {listing.BROKEN: 2}
    assert found.passed_over() == "2 broken links"


def test_kinds_that_need_a_package_name_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(listing, "readable_suffixes", lambda: frozenset({".png"}))
    touch(tmp_path, "x.png", "y.HEIC", "z.heic", "w.avif")
    found = list_pictures(tmp_path)
    assert found.passed_over() == (
        "2 .heic (pip install 'pillow-heif'), 1 .avif (pip install 'pillow>=11.3')"
    )


def test_of_many_kinds_the_most_frequent_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "x.png", "0.a", "1.a", *(f"x.k{i}" for i in range(20)))
    text = list_pictures(tmp_path).passed_over()
    assert text.startswith("2 .a, 1 .k") and text.endswith(", 9 of other kinds")


def test_a_folder_inside_one_that_is_linked_later_is_listed_once(
    tmp_path: Path,
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    touch(away, "sub/x.png", "y.png")
    link(root, "a", away / "sub")
    link(root, "b", away)
    found = list_pictures(root)
    assert found.ids == ["a/x.png", "b/y.png"] and found.passed == {listing.AGAIN: 1}
