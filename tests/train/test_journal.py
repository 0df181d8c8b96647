"""What a run writes while it trains, where the system does not let it."""

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from invariance_propagation.errors import TrainingError
from invariance_propagation.train import journal
from invariance_propagation.train.journal import METRICS_FILE, MetricsLog, read_rows

ROW = {"step": 1, "loss": 0.5}


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    workdir = tmp_path / "run"
    workdir.mkdir()
    opened = MetricsLog(workdir, tensorboard=False, keep_until=-1)
    opened.write(ROW)
    return opened


def test_a_row_of_a_file_that_was_removed_is_not_lost_in_silence(
    log: MetricsLog,
) -> None:
    shutil.rmtree(log.folder)
    with pytest.raises(TrainingError) as caught:
        log.write(ROW)
    assert str(caught.value).startswith(
        f"{log.folder / METRICS_FILE} could not be written (No such file or directory)"
    )
    log.close()


def test_a_file_in_place_of_the_workdir(log: MetricsLog) -> None:
    shutil.rmtree(log.folder)
    log.folder.touch()
    with pytest.raises(TrainingError, match="could not be written .Not a directory"):
        log.write(ROW)
    log.close()


@pytest.mark.parametrize("part", ["write_scalars", "flush", "close"])
def test_tensorboards_writer_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    class OfTensorFlow(Exception):
        pass

    def fail(*args: object) -> None:
        raise OfTensorFlow("events.v2; No space left on device")

    parts = {"write_scalars": lambda *args: None, "flush": lambda: None}
    writer = SimpleNamespace(**parts | {"close": lambda: None} | {part: fail})
    monkeypatch.setattr(journal, "_tensorboard_writer", lambda workdir: writer)
    log = MetricsLog(tmp_path, tensorboard=True, keep_until=-1)
    try:
        with pytest.raises(TrainingError) as caught:
            log.write(ROW)
            log.close()
    finally:
        with contextlib.suppress(TrainingError):
            log.close()
    assert str(caught.value) == (
        f"{tmp_path}/events.* of TensorBoard could not be written (No space left on "
        "device): the disk is full; free some space and run the same command to go on "
        "from what has been saved"
    )
    assert read_rows(tmp_path) == [ROW]
