"""Tests that a signal ends a process within seconds, whatever its main thread does."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny_run import ROOT

PROGRAM = """
import ctypes, signal, sys
from pathlib import Path
from invariance_propagation import signals
from invariance_propagation.files.atomic import draft_of

class Work:
    def ask_to_stop(self, number):
        return "saving; a second one ends it at once"
    def last_words(self, number):
        return f"stopped by {number.name}; three steps are lost"

signals.SAVE_WITHIN = float(sys.argv[2])
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
signals.watch()
# As while XLA compiles: other threads run, and no handler of Python's.
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
lock(mutex)
with draft_of(Path(sys.argv[1]) / "file") as draft:
    draft.write_text("half")
    print("ready", flush=True)
    if "work" in sys.argv:
        with signals.kept(Work()):
            lock(mutex)
    else:
        lock(mutex)
"""


class Program:
    """Starts a process that is writing a file, with its main thread outside of Python."""

    def __init__(self, folder: Path, *options: str, save_within: float = 30.0):
        self.folder = folder
        folder.mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), str(save_within), *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def line(self) -> str:
        assert select.select([self._process.stdout], [], [], 60)[0]
        return self._process.stdout.readline().decode()

    def end(self) -> tuple[int, str]:
        """Returns its status and errors; it must not take long."""
        start = time.monotonic()
        _, errors = self._process.communicate(timeout=60)
        assert time.monotonic() - start < 20
        return self._process.returncode, errors.decode()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Program]]:
    """Starts all processes at once, because starting takes the most time."""
    folder = tmp_path_factory.mktemp("programs")
    started = {
        "idle": Program(folder / "idle"),
        "nohup": Program(folder / "nohup", "nohup"),
        "twice": Program(folder / "twice", "work"),
        "late": Program(folder / "late", "work", save_within=0.5),
    }
    try:
        for program in started.values():
            assert program.line() == "ready\n"
        yield started
    finally:
        for program in started.values():
            program.close()


def test_without_work_it_ends_at_once_and_leaves_nothing(
    programs: dict[str, Program],
) -> None:
    program = programs["idle"]
    assert os.listdir(program.folder)
    program.send(signal.SIGHUP)
    expected = "error: interrupted by SIGHUP; nothing was left half written\n"
    assert program.end() == (128 + signal.SIGHUP, expected)
    assert not os.listdir(program.folder)


def test_a_signal_that_is_ignored_stays_so(programs: dict[str, Program]) -> None:
    program = programs["nohup"]
    program.send(signal.SIGHUP)
    time.sleep(0.5)
    program.send(signal.SIGINT)
    expected = "error: interrupted; nothing was left half written\n"
    assert program.end() == (128 + signal.SIGINT, expected)


def test_a_second_signal_ends_work_at_once(programs: dict[str, Program]) -> None:
    program = programs["twice"]
    for _ in range(3):  # as one, from the terminal and from a program around it
        program.send(signal.SIGTERM)
        time.sleep(0.01)
    assert program.line() == "SIGTERM: saving; a second one ends it at once\n"
    time.sleep(0.5)
    program.send(signal.SIGINT)
    expected = "stopped by SIGINT; three steps are lost\n"
    assert program.end() == (128 + signal.SIGINT, expected)
    assert not os.listdir(program.folder)


def test_work_that_takes_too_long_is_ended(programs: dict[str, Program]) -> None:
    program = programs["late"]
    program.send(signal.SIGTERM)
    expected = "stopped by SIGTERM; three steps are lost\n"
    assert program.end() == (128 + signal.SIGTERM, expected)
    assert not os.listdir(program.folder)
