"""Tests that a file is written whole or stays as it was."""

from pathlib import Path

import pytest

from invariance_propagation.files.atomic import draft_of


def test_what_was_written_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    for content in ("one", "two"):
        with draft_of(path) as draft:
            draft.write_text(content)
            assert draft.parent == path.parent and draft != path
        assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("before", [None, "one"])
def test_what_failed_leaves_nothing(tmp_path: Path, before: str | None) -> None:
    path = tmp_path / "b.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError), draft_of(path) as draft:
        draft.write_text("tw")
        raise RuntimeError
    assert [x.read_text() for x in tmp_path.iterdir()] == ([before] if before else [])
