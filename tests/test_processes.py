"""Several processes, really started: what one would have done, wherever it began."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from invariance_propagation import parallel, processes
from invariance_propagation.errors import Stopped, UserError
from invariance_propagation.train import train_and_evaluate
from tests import tiny
from tests.tiny_run import ROOT, TINY, final_state, rows_without_times, tiny_config
from tests.two_processes import NUM_STEPS

pytestmark = pytest.mark.usefixtures("quick_compilation")

# Sums are in another order over two processes. Learning makes the difference grow until
# another neighbour is the nearest: slow enough, it stays what one step makes it.
CHANGES = {
    "optimizer__learning_rate": 1e-6,
    "train__epochs": 8,
    "train__evaluate_every": 0,
}
FLAGS = [
    f"--config.{name.replace('__', '.')}={value}" for name, value in CHANGES.items()
]


def config_of_one(**changes: Any) -> Any:
    return tiny_config(num_devices=4, **CHANGES, **changes)


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(*arguments: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    environment |= {"JAX_NUM_CPU_DEVICES": "2", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def start_two(mode: str, workdir: Path) -> list[subprocess.Popen]:
    shared = [f"--coordinator={free_address()}", "--num_processes=2"]
    shared += [f"--workdir={workdir}", f"--config.parallel={mode}"]
    return [
        start("main.py", *TINY, *FLAGS, *shared, f"--process_id={own}")
        for own in range(2)
    ]


def finish(started: list[subprocess.Popen]) -> list[tuple[int, list[str], str]]:
    """Status, lines of output without Gloo's, and errors of each."""
    results = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=240)
            lines = [x for x in output.splitlines() if not x.startswith("[Gloo]")]
            results.append((process.returncode, lines, errors))
    finally:
        for process in started:
            process.kill()
    return results


def same_run(workdir: Path, other: Path) -> None:
    """Within what another order of sums changes in 64 steps."""
    rows, expected = rows_without_times(workdir), rows_without_times(other)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in wanted.items():
            assert row[name] == pytest.approx(value, rel=1e-5), (row["step"], name)
    step, state = final_state(workdir)
    other_step, other_state = final_state(other)
    assert step == other_step == 64
    for leaf, wanted in zip(
        jax.tree.leaves(state), jax.tree.leaves(other_state), strict=True
    ):
        np.testing.assert_allclose(leaf, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def one_process(
    quick_compilation: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Four devices of one process, without a break."""
    workdir = tmp_path_factory.mktemp("one_process")
    train_and_evaluate(config_of_one(), str(workdir))
    return workdir


def test_two_processes_talk_and_take_the_same_steps(tmp_path: Path) -> None:
    for mode in parallel.MODES:
        state, metrics = tiny.run_mapped(mode, 4, NUM_STEPS)
        leaves = [*jax.tree.leaves(state), *(row["loss"] for row in metrics)]
        np.savez(tmp_path / f"{mode}.npz", *leaves)
    shared = ["-m", "tests.two_processes", free_address()]
    started = [start(*shared, str(own), str(tmp_path)) for own in range(2)]
    for status, lines, errors in finish(started):
        assert status == 0, errors
        assert lines[-1] == "all is well"


def test_a_signal_at_one_stops_both_and_one_process_goes_on(
    one_process: Path, tmp_path: Path
) -> None:
    started = start_two("pmap", tmp_path)
    until = time.monotonic() + 200
    while not any(path.name.isdigit() for path in tmp_path.glob("checkpoints/*")):
        running = all(process.poll() is None for process in started)
        assert running and time.monotonic() < until, finish(started)
        time.sleep(0.02)
    started[1].send_signal(signal.SIGTERM)
    stopped = set()
    for status, _, errors in finish(started):
        assert status == 128 + signal.SIGTERM, errors
        stopped.add(re.search(r"stopped by SIGTERM at step (\d+) of 64", errors)[1])
    assert len(stopped) == 1
    saved = sorted(int(path.name) for path in tmp_path.glob("checkpoints/*"))
    assert saved[-1] == int(stopped.pop()) < 64
    train_and_evaluate(config_of_one(), str(tmp_path))
    same_run(tmp_path, one_process)


def test_two_processes_go_on_where_one_stopped(
    one_process: Path, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        config = config_of_one(train__stop_after_steps=5)
        train_and_evaluate(config, str(tmp_path))
    first, second = finish(start_two("shard_map", tmp_path))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert first[1][0] == "process 0 of 2 with 2 of 4 devices"
    assert any("continuing from step 5" in line for line in first[1])
    assert any("knn trained" in line for line in first[1])
    assert second[1] == ["process 1 of 2 with 2 of 4 devices"]
    assert first[2] == second[2] == ""
    same_run(tmp_path, one_process)


def test_who_is_missing_is_named_in_one_line(tmp_path: Path) -> None:
    cases = {
        f"--coordinator={free_address()} --num_processes=2 --process_id=0": (
            "not all of the 2 processes have come within 3 seconds"
        ),
        f"--coordinator={free_address()} --num_processes=2 --process_id=1": (
            "process 0 does not answer at 127.0.0.1:"
        ),
        "--coordinator=auto": "Name it on each host by --coordinator=HOST:PORT",
        "--num_processes=2": "need --coordinator",
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


def test_an_address_is_looked_at_first() -> None:
    with pytest.raises(UserError, match="coordinator=here: write HOST:PORT"):
        processes.join(coordinator="here", num_processes=2, process_id=0)
    with socket.create_server(("", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=r"port \d+ cannot be used on this host"):
            processes.join(coordinator=address, num_processes=2, process_id=0)
