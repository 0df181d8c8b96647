"""The command line: what a user types, and what comes back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from invariance_propagation.checkpoint import steps_in
from tests.stored_run import store_run
from tests.tiny_run import ROOT, TINY, final_state, rows_without_times


def start(*flags: str) -> subprocess.Popen:
    # As a user has it: without what conftest sets for eight devices.
    environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    return subprocess.Popen(
        [sys.executable, "main.py", *flags],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*flags: str) -> tuple[int, str, str]:
    process = start(*flags)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config is missing"),
        (["--config=digits"], "did you mean --config=configs/digits.py?"),
        (["--config=configs/digits.py", "--config.task=embed"], "configs/embed.py"),
        (["--config=configs/embed.py", "--config.task=scan"], "the config of a run"),
        (["--config=configs/digits.py"], "--workdir is missing"),
        (["--config=configs/nothing.py", "--workdir=x"], "there is no configs/nothing"),
        (["--confg=configs/digits.py"], "confg"),
        (
            ["--config=configs/digits.py", "--config.method.num_hop=3"],
            'unknown config key num_hop. Did you mean "num_hops"',
        ),
        (
            ["--config=configs/digits.py", "--config.trian.epochs=3"],
            'unknown config key trian. Did you mean "train"',
        ),
        (["--config=configs/digits.py", "--workdir=README.md"], "README.md is a file"),
        (["--config=configs/digits.py", "--config.train.epochs=many"], "many"),
        (["--config=configs/digits.py", "--workdir=x", "digits"], "'digits'"),
        (["--config=configs/digits.py", "--workdir=x", "--config.task=sing"], "sing"),
        (
            ["--config=configs/imagenet.py", "--workdir=x"]
            + ["--config.data.folder=/nowhere"],
            "there is no folder /nowhere",
        ),
        (["--config=configs/export.py"], "--config.checkpoint is missing"),
        (["--config=configs/export.py", "--config.chekpoint=x"], '"checkpoint"'),
        (["--config=configs/evaluate.py"], "--config.checkpoint is missing"),
        (["--config=configs/embed.py"], "--config.checkpoint is missing"),
        (["--config=configs/report.py"], "--config.workdir is missing"),
        (["--config=configs/digits.py", "--workdir="], "--workdir is missing"),
        (["--config=configs/digits.py", "--workdir=gs://b/x"], "is an address"),
        (
            ["--config=configs/digits.py", "--workdir=README.md/x"],
            "README.md is a file",
        ),
        (
            ["--config=configs/image_folder.py", "--config.task=scan"]
            + ["--config.data.folder=s3://b/x"],
            "data.folder=s3://b/x is an address",
        ),
        (
            ["--config=configs/digits.py", "--config.task=preview"]
            + ["--config.output=gs://b/x.png"],
            "output=gs://b/x.png is an address",
        ),
        (
            ["--config=configs/digits.py", "--config.task=plan"]
            + ["--config.weights=gs://b/x.npz"],
            "weights=gs://b/x.npz is an address",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags: list[str], expected: str) -> None:
    status, output, errors = run(*flags)
    assert status == 2
    assert expected in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert output == ""
    assert not (ROOT / "x").exists()


def test_an_export_is_typed_and_says_what_it_wrote(tmp_path: Path) -> None:
    store_run(tmp_path, (7,))
    flags = ["--config=configs/export.py", f"--config.checkpoint={tmp_path}"]
    status, output, errors = run(*flags, "--config.format=onnx")
    assert (status, errors) == (0, "")
    assert output.startswith(f"{tmp_path}/backbone-7.onnx: backbone of step 7; ")
    assert (tmp_path / "backbone-7.onnx").is_file()


def test_a_workdir_of_any_bytes_is_read_and_named(tmp_path: Path) -> None:
    workdir = tmp_path / "runs[1] \udcff"
    store_run(workdir, (7,))
    flags = ["--config=configs/export.py", f"--config.checkpoint={workdir}"]
    done = subprocess.run(
        [sys.executable, "main.py", *flags, "--config.what=memory"],
        cwd=ROOT,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rf"{tmp_path}/runs[1] \xff/memory-7.npz:".encode())


def test_a_config_may_lie_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text("from configs.digits import get_config\n")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    status, _, errors = run("--config=~/mine.py")
    assert status == 2 and "--workdir is missing" in errors


def test_a_full_disk_is_one_line_though_orbax_logs_it(tmp_path: Path) -> None:
    # Each file may have a few bytes only, which Orbax's threads stumble over.
    code = (
        "import resource, runpy, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64));"
        "runpy.run_path('main.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TINY, f"--workdir={tmp_path / 'run'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "run cannot be written (File too large): name another" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_help_names_the_way_in() -> None:
    status, output, _ = run("--help")
    assert status in (0, 1)  # absl's --help exits with 1
    assert "--config" in output and "configs/digits.py" in output


def wait_for_checkpoint(process: subprocess.Popen, workdir: Path) -> None:
    until = time.monotonic() + 240
    # That of step 0 is written before the first step.
    while not any(steps_in(workdir)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no checkpoint in time"
        time.sleep(0.02)


def test_kill_and_run_again_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """SIGKILL, as a preempted machine does it, then the very same command."""
    flags = [*TINY, f"--workdir={tmp_path / 'killed'}"]
    process = start(*flags)
    wait_for_checkpoint(process, tmp_path / "killed")
    process.kill()
    process.communicate()
    status, output, errors = run(*flags)
    assert status == 0, errors
    assert "continuing from step" in output
    assert errors == ""
    status, _, errors = run(*TINY, f"--workdir={tmp_path / 'whole'}")
    assert status == 0, errors
    (_, killed), (_, whole) = (
        final_state(tmp_path / name) for name in ("killed", "whole")
    )
    jax.tree.map(np.testing.assert_array_equal, killed, whole)
    assert rows_without_times(tmp_path / "killed") == rows_without_times(
        tmp_path / "whole"
    )
    status, output, _ = run(*flags)
    assert status == 0 and "is finished" in output


def test_sigterm_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    flags = [*TINY, "--config.train.epochs=4000", f"--workdir={tmp_path / 'run'}"]
    process = start(*flags)
    wait_for_checkpoint(process, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step" in errors and "same command" in errors
    assert errors.count("\n") == 1


def test_ctrl_c_before_training_is_one_line(tmp_path: Path) -> None:
    with start(*TINY, f"--workdir={tmp_path / 'run'}") as process:
        assert "256 training images" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors == "error: interrupted; nothing was left half written\n"


def test_a_reader_that_went_away_is_one_line(tmp_path: Path) -> None:
    with start(*TINY, f"--workdir={tmp_path / 'run'}") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors.startswith("error: nobody reads the output"), errors
    assert errors.count("\n") == 1


def test_tensorboard_is_written_when_asked_for(tmp_path: Path) -> None:
    # In a process of its own: TensorFlow brings a second LLVM along.
    pytest.importorskip("tensorboard")
    changes = ["--config.train.epochs=1", "--config.train.tensorboard=True"]
    status, _, errors = run(*TINY, *changes, f"--workdir={tmp_path}")
    assert status == 0, errors
    assert list(tmp_path.glob("events.out.tfevents.*"))
