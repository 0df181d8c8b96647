"""Tests that one run uses a workdir at a time, and a dead run locks nobody out."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store import lock as module
from invariance_propagation.store.lock import (
    FILE,
    STALE_AFTER,
    Lock,
    is_marked,
    whoever_this_is,
)
from tests.store.takers import take
from tests.tiny_run import ROOT, TINY

SPAWN = multiprocessing.get_context("spawn")


def left(folder: Path, *, age: float = 0, **changes: Any) -> Path:
    """Writes a lock as another process may have left it."""
    path = folder / FILE
    path.write_text(json.dumps(whoever_this_is() | changes))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_it_is_there_while_it_is_held(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    owner = json.loads((tmp_path / FILE).read_text())
    assert owner["pid"] == os.getpid() and [*tmp_path.iterdir()] == [tmp_path / FILE]
    with pytest.raises(UserError, match=rf"process {os.getpid()} on .* since 20"):
        Lock(tmp_path).acquire()
    lock.release()
    assert not [*tmp_path.iterdir()]
    Lock(tmp_path).release()  # of one that was never held


@pytest.mark.parametrize("write", [Lock.check, Lock.mark])
def test_a_lock_that_was_taken_is_noticed_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Lock], None]
) -> None:
    monkeypatch.setattr(module, "TOUCHED_EVERY", 0.01)
    lock = Lock(tmp_path)
    lock.acquire()
    lock.check()
    path = left(tmp_path, age=99, pid=7, host="there", token="other")
    time.sleep(0.1)
    assert time.time() - path.stat().st_mtime > 90  # not touched
    with pytest.raises(TrainingError, match="now belongs to process 7 on there since"):
        write(lock)
    write(lock)  # whoever holds none has nothing to lose
    lock.release()
    assert json.loads(path.read_text())["token"] == "other"


def test_a_lock_that_was_removed_is_made_again(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    content = (tmp_path / FILE).read_text()
    (tmp_path / FILE).unlink()
    lock.check()
    assert (tmp_path / FILE).read_text() == content
    with pytest.raises(UserError, match="is in use by process"):
        Lock(tmp_path).acquire()
    lock.release()
    assert not [*tmp_path.iterdir()]


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(UserError, match="in use by another process.*remove"):
        Lock(tmp_path).acquire()
    assert not is_marked(tmp_path)


def test_deep_json_is_no_owner(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[" * 9_000)
    assert not is_marked(tmp_path)
    with pytest.raises(UserError, match="in use by another process"):
        Lock(tmp_path).acquire()


def test_a_process_that_is_gone_locks_nobody_out(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left(tmp_path, pid=gone.pid, started="1")
    lock = Lock(tmp_path)
    lock.acquire()
    lock.release()
    # Its number may have gone to another process.
    left(tmp_path, started="1")
    lock = Lock(tmp_path)
    lock.acquire()
    lock.release()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "changes", [{"machine": "another"}, {"pid": None}, {"pid": "7", "machine": None}]
)
def test_elsewhere_age_decides(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = left(tmp_path, age=STALE_AFTER - 60, **changes)
    with pytest.raises(UserError, match="is in use by"):
        Lock(tmp_path).acquire()
    assert [*tmp_path.iterdir()] == [path]
    left(tmp_path, age=STALE_AFTER + 60, **changes)
    Lock(tmp_path).acquire()


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_what_cannot_be_read_is_judged_by_age(tmp_path: Path, content: str) -> None:
    path = tmp_path / FILE
    path.write_text(content)
    with pytest.raises(UserError, match="another process"):
        Lock(tmp_path).acquire()
    os.utime(path, (0, 0))
    Lock(tmp_path).acquire()


def test_it_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOUCHED_EVERY", 0.01)
    lock = Lock(tmp_path)
    lock.acquire()
    os.utime(tmp_path / FILE, (0, 0))
    deadline = time.monotonic() + 10
    while (tmp_path / FILE).stat().st_mtime < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / FILE).stat().st_mtime > 1
    lock.release()


def test_a_lock_that_was_taken_over_is_left_alone(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.acquire()
    path = left(tmp_path, machine="another")
    lock.release()
    assert path.exists()


def test_a_disk_without_links_has_locks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    lock = Lock(tmp_path)
    lock.acquire()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        Lock(tmp_path).acquire()
    lock.release()
    assert not [*tmp_path.iterdir()]


def test_a_lock_says_that_its_run_had_a_checkpoint(tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.mark()  # of one that is not held
    assert not is_marked(tmp_path)
    lock.acquire()
    assert not is_marked(tmp_path)
    lock.mark()
    assert is_marked(tmp_path)
    lock.release()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("stale", [False, True])
def test_one_of_many_gets_it(tmp_path: Path, stale: bool) -> None:
    count = 4
    begin, taken = SPAWN.Barrier(count), SPAWN.Queue()
    if stale:
        left(tmp_path, started="1")
    processes = [
        SPAWN.Process(target=take, args=(tmp_path, begin, taken)) for _ in range(count)
    ]
    for process in processes:
        process.start()
    assert sum(taken.get(timeout=60) for _ in range(count)) == 1
    for process in processes:
        process.join(60)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_second_run_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", *TINY, "--config.num_devices=1"]
    command += [f"--workdir={tmp_path}", "--config.train.epochs=100000"]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        rows = tmp_path / "metrics.jsonl"
        while not (rows.exists() and rows.stat().st_size):
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.1)
        second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"is in use by process {first.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (tmp_path / FILE).exists()
    third = subprocess.run(
        [*command, "--config.train.stop_after_steps=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert third.returncode == 0, third.stderr
    assert not (tmp_path / FILE).exists()


def test_a_lost_run_of_which_only_the_lock_is_left_is_refused(tmp_path: Path) -> None:
    stopped = [f"--workdir={tmp_path}", "--config.train.stop_after_steps=1"]
    command = [sys.executable, "main.py", *TINY, *stopped]
    left(tmp_path, started="1", saved=True)
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2 and "has run.lock of a run" in refused.stderr
    # Killed before its first checkpoint, a run has lost nothing.
    left(tmp_path, started="1")
    assert subprocess.run(command, cwd=ROOT).returncode == 0
