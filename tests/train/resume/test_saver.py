"""Tests checkpoints whose rows each process writes for itself."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from invariance_propagation.devices import processes
from invariance_propagation.errors import Stopped, TrainingError
from invariance_propagation.store.checkpoint import DAMAGED, FOLDER, Checkpoints
from invariance_propagation.store.lock import Lock
from invariance_propagation.store.memory import restore_memory
from invariance_propagation.store.rows import folder_of
from invariance_propagation.train import pretrain
from invariance_propagation.train.averages import NotFinite
from invariance_propagation.train.resume.restore import Report
from invariance_propagation.train.resume.saver import Saver
from invariance_propagation.train.run import init_state
from tests.tiny_run import build_once, final_state, rows_without_times, tiny_config

SHARDED = {"method__graph": "sharded", "train__evaluate_every": 0}


def train(workdir: Path, **changes: Any) -> None:
    config = tiny_config(**SHARDED, **changes)
    pretrain.go_on(build_once(config), config, workdir)


def stop_at(workdir: Path, steps: int, **changes: Any) -> None:
    """Takes `steps` more steps."""
    with pytest.raises(Stopped):
        train(workdir, train__stop_after_steps=steps, **changes)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("gathered")
    train(workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rows in files that stopped at step 14; its last checkpoints: 10, 14."""
    workdir = tmp_path_factory.mktemp("stopped")
    stop_at(workdir, 14, train__gather_checkpoints=False)
    return workdir


@pytest.fixture
def workdir(stopped: Path, tmp_path: Path) -> Iterator[Path]:
    shutil.copytree(stopped, tmp_path / "run")
    yield tmp_path / "run"


def same(workdir: Path, expected: Path) -> None:
    """Compares rows of metrics, and every array bit for bit."""
    rows, wanted = rows_without_times(workdir), rows_without_times(expected)
    for row, other in zip(rows, wanted, strict=True):
        if "knn_bank" not in row:  # it needs the whole bank
            other.pop("knn_bank", None)
    assert rows == wanted
    (step, state), (last, wanted) = final_state(workdir), final_state(expected)
    assert step == last
    jax.tree.map(np.testing.assert_array_equal, state, wanted)


def test_a_run_may_change_between_both_ways(gathered: Path, workdir: Path) -> None:
    names = {path.name for path in (workdir / FOLDER).iterdir()}
    assert names == {"10", "14", "rows_10", "rows_14"}
    stop_at(workdir, 5)
    stop_at(workdir, 4, train__gather_checkpoints=False)
    assert folder_of(workdir / FOLDER, 23).is_dir()
    memory = restore_memory(workdir)
    _, state = final_state(workdir)
    np.testing.assert_array_equal(memory.rows, state.memory.bank)
    np.testing.assert_array_equal(memory.neighbors, state.memory.graph)
    train(workdir)
    assert not list((workdir / FOLDER).glob("rows_*"))
    same(workdir, gathered)
    assert "knn_bank" in rows_without_times(workdir)[-1]


@pytest.mark.parametrize("gathers", [False, True])
def test_the_one_before_is_taken_where_rows_are_damaged(
    gathered: Path, workdir: Path, gathers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder_of(workdir / FOLDER, 14) / "0_of_1_1"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    train(workdir, train__gather_checkpoints=gathers)
    assert "rows_14/0_of_1_1 has changed since it was written" in caplog.text
    assert {x.name for x in (workdir / DAMAGED).iterdir()} == {"14", "rows_14"}
    same(workdir, gathered)
    assert ("knn_bank" in rows_without_times(workdir)[-1]) == gathers


@pytest.mark.parametrize("gathers", [False, True])
def test_nothing_is_moved_where_no_rows_are_whole(workdir: Path, gathers: bool) -> None:
    for step in (10, 14):
        (folder_of(workdir / FOLDER, step) / "0_of_1_0").unlink()
    before = {path.name for path in (workdir / FOLDER).iterdir()}
    with pytest.raises(TrainingError, match="no checkpoint in .* is whole"):
        train(workdir, train__gather_checkpoints=gathers)
    assert {path.name for path in (workdir / FOLDER).iterdir()} == before
    with pytest.raises(TrainingError, match="cannot be read"):
        restore_memory(workdir)


def test_all_go_back_where_one_finds_damage(
    gathered: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """What only the other process finds is told by `from_each`."""

    def told(value: Any) -> list[Any]:
        is_report = isinstance(value, Report)
        return [value, told_by_other.pop(0)] if is_report else [value]

    told_by_other = [Report("1_of_2_0 has changed"), Report()]
    monkeypatch.setattr(processes, "from_each", told)
    train(workdir, train__gather_checkpoints=False)
    assert "step 14 is damaged (process 1: 1_of_2_0 has changed)" in caplog.text
    assert not told_by_other
    same(workdir, gathered)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (Report(trouble="Input/output error"), "process 1: .* read now .Input/output"),
        (Report("x", is_missing=True), "process 1 does not see .* all processes share"),
    ],
)
def test_trouble_of_another_host_is_no_damage(
    report: Report, expected: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_another(monkeypatch, report)
    with pytest.raises(TrainingError, match=expected):
        train(workdir, train__gather_checkpoints=False)
    assert not (workdir / DAMAGED).exists()


def test_knn_without_the_bank_is_left_out_and_it_is_said(
    workdir: Path, capsys: pytest.CaptureFixture
) -> None:
    stop_at(workdir, 4, train__gather_checkpoints=False, knn__embed_anew=False)
    assert "kNN is left out: with knn.embed_anew=False" in capsys.readouterr().out


def test_rows_that_the_machine_cannot_read_end_the_run(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def fail(path: Path) -> bytes:
        if path.parent.name == "rows_14":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(TrainingError, match="read now .Permission denied.*not.*moved"):
        train(workdir, train__gather_checkpoints=False)
    assert not (workdir / DAMAGED).exists()


@pytest.fixture
def saver(tmp_path: Path) -> Iterator[tuple[Saver, Any]]:
    """A saver that gathers nothing, and a state before the first step."""
    run = build_once(tiny_config(**SHARDED, train__gather_checkpoints=False))
    checkpoints, lock = Checkpoints(tmp_path, keep=1), Lock(tmp_path)
    lock.acquire()
    yield Saver(run, checkpoints, lock), init_state(run)
    checkpoints.close()
    lock.release()


def with_another(monkeypatch: pytest.MonkeyPatch, told: Any) -> None:
    """Lets a second process tell something."""
    monkeypatch.setattr(processes, "from_each", lambda value: [value, told])


def test_all_end_where_one_cannot_write_its_rows(
    saver: tuple[Saver, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = saver
    own.hold(0, state, {})
    with_another(monkeypatch, ([], "the disk is full"))
    with pytest.raises(TrainingError, match="process 1: the disk is full"):
        own.write()


def test_rows_that_the_first_process_does_not_see_make_no_checkpoint(
    saver: tuple[Saver, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = saver
    own.hold(0, state, {})
    piece = {"array": ".memory.bank", "file": "1_of_2_0", "first": 256, "crc32": 0}
    with_another(monkeypatch, ([piece | {"shape": [9, 128], "dtype": "float32"}], ""))
    with pytest.raises(TrainingError, match="1_of_2_0, and process 0 does not see it"):
        own.write()
    assert not (tmp_path / FOLDER / "0").exists()


def test_all_end_where_one_has_rows_that_are_not_finite(
    saver: tuple[Saver, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = saver
    with_another(monkeypatch, {".memory.bank": float("nan")})
    with pytest.raises(NotFinite, match="step 5: .memory.bank is nan"):
        own.hold(5, state, {})
    assert not own.holds


def test_rows_are_written_only_where_the_workdir_is_ones_own(
    saver: tuple[Saver, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = saver
    own.hold(0, state, {})

    def taken(self: Lock) -> None:
        raise TrainingError("another run has taken it")

    monkeypatch.setattr(Lock, "check", taken)
    with pytest.raises(TrainingError, match="another run has taken it"):
        own.write()
    assert not (tmp_path / FOLDER).exists()
