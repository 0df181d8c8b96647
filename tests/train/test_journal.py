"""What a run writes while it trains, where the system does not let it."""

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tensorboardX.event_file_writer import EventsWriter

from invariance_propagation.errors import TrainingError
from invariance_propagation.train.journal import (
    METRICS_FILE,
    MetricsLog,
    Progress,
    read_rows,
)

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
        "device): the disk is full; free some space and run the same command to continue "
        "from what has been saved"
    )
    assert read_rows(tmp_path) == [ROW]


def test_tensorboard_reads_every_number_of_every_row(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    for first in (1, 3):  # a run that continues within the second
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


@pytest.mark.parametrize(
    "line",
    [
        '{"step": 12, "epoch": 1, "knn": {"a": 1}}',
        '{"step": 12, "loss": "high"}',
        '{"step": 12, "purity_by_hop": [0.5, "x"]}',
        '{"step": "12", "loss": 1.0}',
        "[" * 100_000,
    ],
)
def test_a_row_that_no_run_writes_is_left_out(line: str, tmp_path: Path) -> None:
    good = {"step": 3, "loss": 1.5, "purity": None, "purity_by_hop": [0.5, None]}
    text = f"{json.dumps(good)}\n{line}\n{json.dumps(good)}\n"
    (tmp_path / "metrics.jsonl").write_text(text)
    assert read_rows(tmp_path) == [good, good]


# What is seen of it.

FIGURES = {"epoch": 12, "loss": 9.456, "learning_rate": 0.0023, "seconds_left": 9.0}
PHRASES = ["instance 9.456", "propagation 0.123 x 0.6", "purity 0.097"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: between those and the test, pytest puts its own stderr back."""
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return made


def seen(terminal: Terminal) -> list[str]:
    """All lines that were ever on the terminal, without what moves its cursor."""
    return re.split(r"[\r\n]+|\x1b\[A", terminal.getvalue())


def test_bar_and_losses_are_whole_at_80_columns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    progress = Progress(0, 800_000, brief=lambda row: PHRASES)
    for _ in range(3):
        progress.advance()
    progress.show(FIGURES)
    progress.close()
    lines = seen(terminal)
    assert max(map(len, lines)) <= 80
    assert "  ".join(["epoch 12", "loss 9.456", *PHRASES]) in lines
    bars = [line for line in lines if "3/800000" in line]
    assert bars and all("step/s" in line or "s/step" in line for line in bars)
    assert any("lr 0.0023" in line for line in bars)


def test_a_terminal_without_a_size_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    far, near = os.openpty()  # of 0 lines and columns, until someone sets them
    with open(far, "rb"), open(near, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        progress = Progress(0, 10)
        progress.advance()
        progress.show(FIGURES | {"step": 1, "images_per_second": 9.0}, always=True)
        progress.close()
    assert "step 1/10  epoch 12  loss 9.456" in capsys.readouterr().out


def test_figures_of_any_length_are_shown_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    many = [f"measure{i} 0.123456" for i in range(9)]
    progress = Progress(0, 10, brief=lambda row: many)
    progress.advance()
    progress.show(FIGURES)
    progress.close()
    lines = seen(terminal)
    assert max(map(len, lines)) <= 80
    assert all(any(phrase in line for line in lines) for phrase in many)


def test_no_bar_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    progress = Progress(40, 100)
    assert terminal.getvalue() == ""
    progress.advance()
    assert "41/100" in terminal.getvalue()
    progress.close()


def test_the_forecast_ignores_what_is_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = open_terminal(monkeypatch)
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(0, 1000)
    now += 5000.0  # the step
    progress.advance()
    for done in range(1, 20):
        now += 500.0 if done == 9 else 2.0  # kNN, once
        progress.advance()
        progress.show(FIGURES)
    progress.close()
    last = [line for line in seen(terminal) if "20/1000" in line][-1]
    assert "<32:40," in last, last  # 980 steps of 2 seconds


def test_elsewhere_there_are_plain_lines(capsys: pytest.CaptureFixture) -> None:
    progress = Progress(0, 10, brief=lambda row: PHRASES)
    progress.advance()
    progress.show(FIGURES | {"step": 1, "images_per_second": 7.0}, always=True)
    progress.close()
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert printed == (
        "step 1/10  epoch 12  loss 9.456  instance 9.456  propagation 0.123 x 0.6  "
        "purity 0.097  lr 0.0023  7 images/s  0:09 left\n"
    )
