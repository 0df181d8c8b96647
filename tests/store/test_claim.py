"""Tests that a workdir is tried out before the first step, without a trace."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import pytest

from invariance_propagation.errors import UserError
from invariance_propagation.store import claim as module
from invariance_propagation.store.checkpoint import FOLDER, Checkpoints, steps_in
from invariance_propagation.store.claim import PROBE, check_place, claim
from tests.odd_names import ODD_NAMES
from tests.stored_run import store_run

FILES = ("metrics.jsonl", "summary.json")


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("name", ["plain", *ODD_NAMES])
def test_a_claim_leaves_an_empty_folder(tmp_path: Path, name: str) -> None:
    claim(tmp_path / name, FILES)
    assert files_of(tmp_path) == [tmp_path / name, tmp_path / name / FOLDER]


def test_a_claim_takes_well_below_a_second(tmp_path: Path) -> None:
    claim(tmp_path / "first", FILES)  # imports what Orbax loads late
    start = time.monotonic()
    claim(tmp_path / "second", FILES)
    assert time.monotonic() - start < 1


def test_a_claim_leaves_a_run_as_it_was(tmp_path: Path) -> None:
    store_run(tmp_path)
    before = files_of(tmp_path)
    claim(tmp_path, FILES)
    assert files_of(tmp_path) == before


def test_a_claim_that_was_killed_is_no_checkpoint_and_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(self: Checkpoints, step: int, target: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "read", kill)
        patch.setattr(shutil, "rmtree", lambda *args, **options: None)
        with pytest.raises(Killed):
            claim(tmp_path, FILES)
    assert (tmp_path / FOLDER / PROBE / FOLDER / "0").is_dir()
    assert steps_in(tmp_path) == [] and Checkpoints(tmp_path, keep=1).facts() is None
    store_run(tmp_path, (3,))
    assert steps_in(tmp_path) == [3]
    claim(tmp_path, FILES)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["3"]


def test_what_is_read_back_must_be_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Checkpoints.finish

    def finish_and_damage(self: Checkpoints, **pending: Any) -> None:
        finish(self, **pending)
        for path in self.folder.rglob("d/*"):
            path.write_bytes(path.read_bytes()[:-4])

    monkeypatch.setattr(Checkpoints, "finish", finish_and_damage)
    with pytest.raises(UserError, match="cannot be read back"):
        claim(tmp_path, FILES)
    assert not list((tmp_path / FOLDER).iterdir())


@pytest.mark.parametrize(
    "spoil, expected",
    [
        (lambda w: w.touch(), "is a file"),
        (lambda w: (w.mkdir(), (w / FOLDER).touch()), "checkpoints is a file"),
        (
            lambda w: (w / "summary.json").mkdir(parents=True),
            "summary.json is not a file",
        ),
        (
            lambda w: (w.mkdir(), (w / FILES[0]).symlink_to(FILES[0])),
            "run/metrics.jsonl cannot be read .*symbolic links.*: fix that, or name",
        ),
        (
            lambda w: w.symlink_to("nothing"),
            "is a link to something that does not exist",
        ),
    ],
)
def test_what_is_in_the_way_is_one_line(
    tmp_path: Path, spoil: Callable[[Path], Any], expected: str
) -> None:
    spoil(tmp_path / "run")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match=expected):
        claim(tmp_path / "run", FILES)
    assert [x for x in files_of(tmp_path) if x.name != FOLDER] == [
        x for x in before if x.name != FOLDER
    ]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_the_systems_own_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError) as caught:
        claim(tmp_path / "run", FILES)
    assert f"({os.strerror(number)})" in str(caught.value)
    assert ("free some space" in str(caught.value)) == (number == errno.ENOSPC)


def test_a_checkpoint_that_cannot_be_written_is_the_users_to_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    with pytest.raises(UserError, match=r"run cannot be written \(Disk quota exceeded"):
        claim(tmp_path / "run", FILES)


def test_a_look_makes_nothing(tmp_path: Path) -> None:
    check_place(tmp_path / "run")
    assert not list(tmp_path.iterdir())
    assert module.KEY == "--workdir"
