"""What a run writes while it trains, where the system does not let it."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter

from invariance_propagation.errors import TrainingError
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


@pytest.mark.parametrize("part", ["write_event", "flush", "close"])
def test_tensorboards_writer_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    log = MetricsLog(tmp_path, tensorboard=True, keep_until=-1)

    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, part, fail)
    try:
        with pytest.raises(TrainingError) as caught:
            log.write(ROW)
            log.close()
    finally:
        monkeypatch.undo()
        with contextlib.suppress(TrainingError, ValueError):
            log.close()
    assert str(caught.value) == (
        f"{tmp_path}/events.* of TensorBoard could not be written (No space left on "
        "device): the disk is full; free some space and run the same command to go on "
        "from what has been saved"
    )
    assert read_rows(tmp_path) == [ROW]


def test_tensorboard_reads_every_number_of_every_row(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    for first in (1, 3):  # a run that goes on within the second
        log = MetricsLog(tmp_path, tensorboard=True, keep_until=first - 1)
        for step in (first, first + 1):
            log.write({"step": step, "epoch": 0, "loss": 1 / step, "note": "text"})
        log.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {"epoch", "loss"}
    found = [(x.step, x.value) for x in events.Scalars("loss")]
    assert found == [(i, pytest.approx(1 / i)) for i in (1, 2, 3, 4)]


def test_events_need_no_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from pathlib import Path\n"
        "from invariance_propagation.train.journal import MetricsLog\n"
        f"MetricsLog(Path({str(tmp_path)!r}), tensorboard=True, keep_until=0).close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
