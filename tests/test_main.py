"""The command line: what a user types, and what comes back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from invariance_propagation.store.checkpoint import steps_in
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


INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *rest):
        if name == "invariance_propagation":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
runpy.run_path("main.py", run_name="__main__")
"""


def test_ctrl_c_while_it_is_imported_is_no_traceback() -> None:
    command = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config is missing"),
        (["--config=digts"], "there is no digts; did you mean --config=digits?"),
        (["--config=digits"], "--workdir is missing"),
        (
            ["--config=configs/default.py", "--workdir=x"],
            "--config.data.name is missing: choose a data set, one of digits",
        ),
        (
            ["--config=digits", "--config.task=plan", "--workdir=x"],
            "takes no --workdir",
        ),
        (["--config=digits", "--workdir=x", "--join_timeout=3"], "--join_timeout"),
        (
            ["--config=evaluate", "--workdir=x", "--config.checkpoint=y"],
            "--workdir=x and --config.checkpoint=y name different runs",
        ),
        (
            ["--config=digits", "--workdir=x", "--config.augment.crop_scale=abc"],
            "--config.augment.crop_scale=abc: write numbers with commas between",
        ),
        (["--config=digits", "--config.train=3"], "--config.train is a section"),
        (["--config=digits", "--num_processes=two"], "=two: write a whole number"),
        (["--config.seed=3"], "only after --config="),
        (["--config=configs/digits.py", "--config.task=embed"], "configs/embed.py"),
        (["--config=configs/embed.py", "--config.task=scan"], "the config of a run"),
        (["--config=configs/digits.py"], "--workdir is missing"),
        (["--config=configs/nothing.py", "--workdir=x"], "there is no configs/nothing"),
        (["--config=README.md"], "README.md, line 3: unexpected indent; a config is"),
        (
            ["--config=configs/digits.py:moco"],
            "configs/digits.py:moco cannot be used: there is no method 'moco'",
        ),
        (["--config=configs/digits.py:invariance_propagation"], "--workdir is missing"),
        (["--confg=configs/digits.py"], "confg"),
        (
            ["--config=configs/digits.py", "--config.method.num_hop=3"],
            "unknown key --config.method.num_hop: "
            "did you mean --config.method.num_hops?",
        ),
        (
            ["--config=configs/digits.py", "--config.trian.epochs=3"],
            "unknown key --config.trian.epochs: did you mean --config.train.epochs?",
        ),
        (["--config=configs/digits.py", "--workdir=README.md"], "README.md is a file"),
        (
            ["--config=configs/digits.py", "--config.train.epochs=many"],
            "--config.train.epochs=many: write a whole number, e.g. "
            "--config.train.epochs=100",
        ),
        (
            ["--config=configs/digits.py", "--config.train.epochs", "many"],
            "--config.train.epochs=many: write a whole number",
        ),
        (["--config=configs/digits.py", "--workdir=x", "digits"], "'digits'"),
        (["--config=configs/digits.py", "--workdir=x", "--config.task=sing"], "sing"),
        (
            ["--config=configs/imagenet.py", "--workdir=x"]
            + ["--config.data.folder=/nowhere"],
            "there is no folder /nowhere",
        ),
        (["--config=configs/export.py"], "--config.checkpoint is missing"),
        (["--config=export", "--config.chekpoint=x"], "mean --config.checkpoint?"),
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
            "--config.data.folder=s3://b/x is an address",
        ),
        (
            ["--config=configs/digits.py", "--config.task=preview"]
            + ["--config.output=gs://b/x.png"],
            "--config.output=gs://b/x.png is an address",
        ),
        (
            ["--config=configs/digits.py", "--config.task=plan"]
            + ["--config.weights=gs://b/x.npz"],
            "--config.weights=gs://b/x.npz is an address",
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
    # Before it stands what has taken longer than a second.
    (line,) = [x for x in output.splitlines() if x.startswith(f"{tmp_path}/")]
    assert line.startswith(f"{tmp_path}/backbone-7.onnx: backbone of step 7; ")
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
    assert status == 0
    assert "--config" in output and "configs/digits.py" in output


def test_help_into_a_pipe_that_is_closed_says_no_more() -> None:
    with start("--help") as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


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
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM at step" in errors and "same command" in errors
    assert errors.count("\n") == 1


def test_ctrl_c_before_training_is_one_line(tmp_path: Path) -> None:
    with start(*TINY, f"--workdir={tmp_path / 'run'}") as process:
        lines = iter(process.stdout.readline, "")
        assert any("256 training images" in line for line in lines)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors == "error: interrupted; nothing was left half written\n"


def wait_for(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.002)


def catches(process: subprocess.Popen, number: signal.Signals) -> bool:
    """Whether the process has a handler of its own for a signal, which Python has not."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux who has a handler")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM], ids=lambda x: x.name
)
def test_a_signal_during_import_is_one_line(number: signal.Signals) -> None:
    with start("--config=export", "--workdir=/nowhere") as process:
        wait_for(process, lambda: catches(process, signal.SIGHUP))
        time.sleep(0.2)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (128 + number, "")
    assert errors.startswith("error: interrupted") and errors.count("\n") == 1, errors


def test_an_export_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    store_run(tmp_path, (7,))
    before = sorted(tmp_path.rglob("*"))
    flags = ["--config=configs/export.py", f"--config.checkpoint={tmp_path}"]
    with start(*flags, "--config.format=onnx") as process:
        # It is written, and the check, which compiles, is still to come.
        wait_for(process, lambda: any(tmp_path.glob("*.tmp.onnx")))
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors == "error: interrupted by SIGTERM; nothing was left half written\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_an_evaluation_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    store_run(tmp_path, (7,))
    before = sorted(tmp_path.rglob("*"))
    # Digits are learnt from for minutes.
    flags = ["--config=configs/evaluate.py", f"--config.checkpoint={tmp_path}"]
    flags += ["--config.data.name=digits", "--config.protocols=linear"]
    with start(*flags) as process:
        wait_for(process, lambda: uses_xla(process))
        process.send_signal(signal.SIGHUP)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGHUP, errors
    assert errors == "error: interrupted by SIGHUP; nothing was left half written\n"
    assert sorted(tmp_path.rglob("*")) == before


def uses_xla(process: subprocess.Popen) -> bool:
    """Whether XLA has started its threads."""
    tasks = Path(f"/proc/{process.pid}/task")
    return any("XLA" in (x / "comm").read_text() for x in tasks.iterdir())


LAST_NET = """
import runpy, sys
from invariance_propagation.tasks import export

def refuse(**options):
    raise PermissionError(13, "Permission denied", "/a/place")

export.export = refuse
runpy.run_path("main.py", run_name="__main__")
"""


def test_what_the_system_refuses_is_one_line_in_any_task() -> None:
    flags = ["--config=configs/export.py", "--config.checkpoint=x"]
    done = subprocess.run(
        [sys.executable, "-c", LAST_NET, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: /a/place cannot be used (Permission denied): run the same command to "
        "continue from what has been saved once that is fixed\n"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_to_a_full_disk_is_one_line(tmp_path: Path) -> None:
    store_run(tmp_path, (7,))
    flags = ["--config=configs/export.py", f"--config.checkpoint={tmp_path}"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "main.py", *flags, "--config.what=memory"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: standard output cannot be used (No space left"
    )
    assert done.stderr.count("\n") == 1, done.stderr


FULL_WHILE_SAVING = """
import resource, runpy, signal, time
import numpy as np
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.train import pretrain

def save(config, workdir):
    checkpoints = Checkpoints(workdir, keep=2)
    state = {str(i): np.random.default_rng(i).normal(size=10**4) for i in range(50)}
    checkpoints.save(0, state, {})
    checkpoints.finish()
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    checkpoints.save(5, state, {})
    while True:  # as steps of a run do
        checkpoints.check()
        time.sleep(0.01)

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
pretrain.train_and_evaluate = save
runpy.run_path("main.py", run_name="__main__")
"""


def test_a_disk_that_is_full_while_it_saves_is_one_line(tmp_path: Path) -> None:
    """In Orbax's threads, which log and raise hundreds of lines."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_WHILE_SAVING, *TINY, f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1, done.stderr
    expected = "error: the checkpoint of step 5 could not be written to"
    assert done.stderr.startswith(expected) and done.stderr.count("\n") == 1, (
        done.stderr
    )
    assert steps_in(tmp_path) == [0]


def test_a_reader_that_went_away_is_one_line(tmp_path: Path) -> None:
    with start(*TINY, f"--workdir={tmp_path / 'run'}") as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert errors.startswith("error: the output was closed"), errors
    assert errors.count("\n") == 1


def test_tensorboard_is_written_when_asked_for(tmp_path: Path) -> None:
    changes = ["--config.train.epochs=1", "--config.train.tensorboard=True"]
    status, _, errors = run(*TINY, *changes, f"--workdir={tmp_path}")
    assert status == 0, errors
    assert list(tmp_path.glob("events.out.tfevents.*"))
