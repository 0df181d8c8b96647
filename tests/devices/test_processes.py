"""Tests several real processes: they do what one process would have done."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from invariance_propagation.devices import processes
from invariance_propagation.errors import Stopped, UserError
from invariance_propagation.store.checkpoint import FOLDER, steps_in
from invariance_propagation.train import pretrain
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import METRICS_FILE
from tests.tiny_run import ROOT, TINY, final_state, rows_without_times, tiny_config

# Sums are in another order over two processes, and where two images are as near as their
# rounding can tell, another is the neighbour; then two runs are no longer one. Where
# BatchNorm takes its statistics over 16 images, which one device has, and learning is
# slow, embeddings depend on no such sum. (tests/two_processes.py looks at BatchNorm
# over all devices.)
CHANGES = {
    "encoder__norm_group": 16,
    "method__graph": "sharded",
    "train__batch_size": 64,
    "optimizer__learning_rate": 1e-6,
    "train__epochs": 10,
    "train__evaluate_every": 0,
    "train__checkpoint_every": 8,
    "train__keep_checkpoints": 8,
}
FLAGS = [
    f"--config.{name.replace('__', '.')}={value}" for name, value in CHANGES.items()
]
LAST_STEP = 40


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(*arguments: str, **variables: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    environment |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment |= variables
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def by_address(address: str, own: int) -> tuple[list[str], dict[str, str]]:
    flags = [f"--coordinator={address}", "--num_processes=2", f"--process_id={own}"]
    return flags, {}


def by_slurm(address: str, own: int) -> tuple[list[str], dict[str, str]]:
    host, port = address.split(":")
    return ["--coordinator=auto"], {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": host,
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(own),
        "SLURM_LOCALID": str(own),
        "JAX_COORDINATOR_PORT": port,
    }


def start_two(
    mode: str, workdir: Path, meet: Callable, *more: str
) -> list[subprocess.Popen]:
    """Starts two processes; `meet`: (address, number) -> flags and variables."""
    shared = [*TINY, *FLAGS, *more, f"--workdir={workdir}", f"--config.parallel={mode}"]
    address, started = free_address(), []
    for own in range(2):
        flags, variables = meet(address, own)
        started.append(start("main.py", *shared, *flags, **variables))
    return started


# Two threads of Gloo write their sentence at once, in pieces that mix.
GLOO = re.compile(
    r"\[Gloo\]|Rank|is|connected|to|peer|ranks\.?|Expected|number|of|:|\d+|\s"
)


def finish(started: list[subprocess.Popen]) -> list[tuple[int, list[str], str]]:
    """Returns the status, output without Gloo's lines, and errors of each process."""
    results = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=240)
            lines = [x for x in output.splitlines() if GLOO.sub("", x)]
            results.append((process.returncode, lines, errors))
    finally:
        for process in started:
            process.kill()
    return results


def same_run(workdir: Path, other: Path) -> None:
    """Compares within what another order of sums changes."""
    rows, expected = rows_without_times(workdir), rows_without_times(other)
    assert "knn_bank" in expected[-1]
    for row, wanted in zip(rows, expected, strict=True):
        if not row.keys() & wanted.keys() >= {"knn_bank"}:  # where nothing was gathered
            row.pop("knn_bank", None)
            wanted.pop("knn_bank", None)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=1e-5), (row["step"], name)
    steps, states = zip(
        *(final_state(folder, **CHANGES) for folder in (workdir, other)), strict=True
    )
    assert steps == (LAST_STEP, LAST_STEP)
    for leaf, wanted in zip(*map(jax.tree.leaves, states), strict=True):
        scale = np.abs(wanted).max() if wanted.dtype.kind == "f" else 0
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=3e-5 * scale)


@pytest.fixture(scope="module")
def one_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, ConfigDict]]:
    """Trains on four devices of one process, with rows in files up to step 24.

    What is trained by this config then is so by the same programs.
    """
    workdir = tmp_path_factory.mktemp("one_process")
    config = tiny_config(num_devices=4, **CHANGES)
    run = build(config)
    first = run.options._replace(gather_checkpoints=False, stop_after_steps=24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "build", lambda config: run._replace(options=first))
        with pytest.raises(Stopped):
            pretrain.train_and_evaluate(config, str(workdir))
        patch.setattr(pretrain, "build", lambda config: run)
        pretrain.train_and_evaluate(config, str(workdir))
        yield workdir, config


def test_two_processes_talk() -> None:
    shared = ["-m", "tests.two_processes", free_address()]
    started = [start(*shared, str(own)) for own in range(2)]
    for status, lines, errors in finish(started):
        assert status == 0, errors
        assert lines[-1] == "all is well"


def test_a_signal_at_one_stops_both_and_one_process_goes_on(
    one_process: tuple[Path, ConfigDict], tmp_path: Path
) -> None:
    started = start_two("pmap", tmp_path, by_address)
    until = time.monotonic() + 200
    while not any(steps_in(tmp_path)):  # that of step 0 is before the first one
        running = all(process.poll() is None for process in started)
        assert running and time.monotonic() < until, finish(started)
        time.sleep(0.02)
    started[1].send_signal(signal.SIGTERM)
    stopped = set()
    for status, _, errors in finish(started):
        assert status == 128 + signal.SIGTERM, errors
        stopped.add(re.search(r"stopped by SIGTERM at step (\d+) of 40", errors)[1])
    assert len(stopped) == 1
    saved = sorted(int(path.name) for path in tmp_path.glob(f"{FOLDER}/[0-9]*"))
    assert saved[-1] == int(stopped.pop()) < LAST_STEP
    expected, config = one_process
    pretrain.train_and_evaluate(config, str(tmp_path))
    same_run(tmp_path, expected)


def test_two_processes_go_on_where_one_stopped(
    one_process: tuple[Path, ConfigDict], tmp_path: Path
) -> None:
    expected, _ = one_process
    for name in ("24", "rows_24"):
        shutil.copytree(expected / FOLDER / name, tmp_path / FOLDER / name)
    shutil.copy(expected / METRICS_FILE, tmp_path)
    own = "--config.train.gather_checkpoints=False"
    first, second = finish(start_two("shard_map", tmp_path, by_slurm, own))
    assert first[0] == second[0] == 0, first[2] + second[2]
    # Reading the data comes before, and is named where it takes more than a second.
    told = [line for line in first[1] if not line.startswith("reading the data")]
    assert told[0] == "process 0 of 2 with 2 of 4 devices"
    assert any("continuing from step 24" in line for line in first[1])
    assert any("knn trained" in line for line in first[1])
    assert second[1] == ["process 1 of 2 with 2 of 4 devices"]
    assert first[2] == second[2] == ""
    # Each wrote its rows of bank and graph; one process reads them all.
    written = {path.name for path in (tmp_path / FOLDER / "rows_40").iterdir()}
    assert written == {
        f"{process}_of_2_{array}" for process in (0, 1) for array in (0, 1)
    }
    same_run(tmp_path, expected)


WAITING = """
import ctypes, sys
from invariance_propagation import signals
from invariance_propagation.devices import peers, processes

peers.SILENT_AFTER = 4.0
signals.watch()
own = {"num_processes": 2, "process_id": int(sys.argv[2])} if sys.argv[2:] else {}
processes.join(coordinator=sys.argv[1], timeout=120, **own)
print("joined", flush=True)
# As inside a collective: other threads run, and no handler of Python's.
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(64)
lock(mutex)
lock(mutex)
"""


@pytest.mark.parametrize(
    "by, victim, number, status, expected",
    [
        (
            by_address,
            0,
            signal.SIGSTOP,
            1,
            "process 0 on .* has not answered for [45] sec",
        ),
        (
            by_address,
            1,
            signal.SIGSTOP,
            1,
            "process 1 on .* has not answered for [45] sec",
        ),
        (
            by_address,
            0,
            signal.SIGKILL,
            1,
            "process 0 has ended or was killed: look at",
        ),
        (by_slurm, 0, signal.SIGKILL, 1, "process 0 has ended or was killed: look at"),
        (
            by_address,
            1,
            signal.SIGTERM,
            143,
            "interrupted by SIGTERM; nothing was left",
        ),
    ],
)
def test_one_that_is_gone_ends_the_other_in_one_line(
    by: Callable, victim: int, number: signal.Signals, status: int, expected: str
) -> None:
    address = free_address()
    started = []
    for own in range(2):
        flags, variables = by(address, own)
        values = [
            flag.partition("=")[2] for flag in flags
        ]  # HOST:PORT, 2 and its number
        started.append(start("-c", WAITING, *values[::2], **variables))
    try:
        for process in started:
            assert process.stdout.readline() == "joined\n", process.communicate()
        time.sleep(2)  # until they have heard of each other
        started[victim].send_signal(number)
        _, errors = started[1 - victim].communicate(timeout=60)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert re.match(f"error: {expected}", errors) and errors.count("\n") == 1, errors
    assert started[1 - victim].returncode == status


def test_who_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    cases = {
        f"--coordinator={free_address()} --num_processes=2 --process_id=0": (
            "not all of the 2 processes have come within 3 seconds"
        ),
        f"--coordinator={free_address()} --num_processes=2 --process_id=1": (
            "process 0 does not answer at 127.0.0.1:"
        ),
        "--coordinator=auto": "Name it on each host by --coordinator=HOST:PORT",
        "--num_processes=2": "no effect without --coordinator",
    }
    shared = [*TINY, f"--workdir={tmp_path / 'new'}", "--join_timeout=3"]
    started = [start("main.py", *shared, *flags.split()) for flags in cases]
    for (status, lines, errors), expected in zip(
        finish(started), cases.values(), strict=True
    ):
        assert status == 2
        assert expected in errors
        assert errors.startswith("error: ") and errors.count("\n") == 1, errors
        assert lines == []
    assert not (tmp_path / "new").exists()


def test_a_workdir_that_cannot_be_used_stops_both(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "summary.json").mkdir(parents=True)
    for place, expected in (
        ("file/run", f"{tmp_path}/file is a file"),
        ("run", "summary.json is not a file"),
    ):
        for status, _, errors in finish(
            start_two("pmap", tmp_path / place, by_address)
        ):
            assert status == 2
            assert expected in errors and errors.startswith("error: "), errors


def test_an_address_is_looked_at_first() -> None:
    with pytest.raises(UserError, match="coordinator=here: write HOST:PORT"):
        processes.join(coordinator="here", num_processes=2, process_id=0)
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"port \d+ cannot be used on this host"):
            processes.join(coordinator=address, num_processes=2, process_id=0)
