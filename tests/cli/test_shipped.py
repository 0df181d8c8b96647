"""Names of shipped configs, and the files they stand for."""

import ast
import os
from pathlib import Path

import pytest

from invariance_propagation.cli import shipped


@pytest.mark.parametrize("typed", ["digits", "digits.py", "configs/digits.py"])
@pytest.mark.parametrize("method", ["", ":invariance_propagation", ":a:b"])
def test_a_name_stands_for_a_file_from_any_folder(
    typed: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.path_of(typed + method) == f"{shipped.FOLDER}/digits.py{method}"


def test_a_file_that_is_there_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for typed in ("digits.py", "configs/digits.py"):
        Path(typed).touch()
        assert shipped.path_of(f"{typed}:x") == f"{typed}:x"
    # A folder of a run may well be called as the config.
    (tmp_path / "svhn").mkdir()
    assert shipped.path_of("svhn") == f"{shipped.FOLDER}/svhn.py"


@pytest.mark.parametrize(
    "typed", ["", "my.py", "other/digits.py", "/digits", "__init__"]
)
def test_what_is_no_name_stays(typed: str) -> None:
    assert shipped.path_of(typed) == typed


@pytest.mark.parametrize("name", shipped.names())
def test_every_config_has_a_line_for_help(name: str) -> None:
    title = shipped.title(name)
    tree = ast.parse((shipped.FOLDER / f"{name}.py").read_text())
    assert title and title == ast.get_docstring(tree).splitlines()[0]


def test_the_sources_are_used_where_they_are() -> None:
    assert os.path.samefile(shipped.FOLDER, Path(__file__).parents[2] / "configs")
