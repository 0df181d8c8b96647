"""Checks of exact resume: the verdict, what breaks it, and that nothing is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.tasks import verify
from invariance_propagation.train.resume import restore
from tests.tiny_run import ROOT, TINY, tiny_config

# Bank and graph are in files of their own; by themselves, below, they are not.
ROWS = {"train__gather_checkpoints": False, "method__graph": "sharded"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    verify.train_steps(tiny_config(**ROWS), workdir, verify.STEPS)
    return workdir


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the steps in this process; the run without a break is shared by all tests."""

    def train(config: ConfigDict, workdir: Path, steps: int) -> None:
        if steps == verify.STEPS:
            shutil.copytree(whole, workdir)
        else:
            verify.train_steps(config, workdir, steps)

    monkeypatch.setattr(verify, "train_elsewhere", train)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_run_that_goes_on_is_exact(here: Path, capsys) -> None:
    verify.verify_resume(tiny_config(**ROWS))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 of 2: 6 steps") and str(here) in lines[0]
    assert any(line.startswith("2 of 2: ") for line in lines)
    groups = [line for line in lines if line.endswith("the same bit for bit")]
    assert [line.split(":")[0] for line in groups] == list(verify.GROUPS.values())
    assert lines[-1].startswith("exact here (cpu): ")
    assert not list(here.iterdir())


def drop_momentum(state: Any) -> Any:
    zero = lambda x: np.zeros_like(x) if x.ndim else x  # noqa: E731
    return state._replace(opt_state=jax.tree.map(zero, state.opt_state))


def forget_a_row(state: Any) -> Any:
    bank = state.memory.bank.copy()
    bank[0] = bank[1]
    return state._replace(memory=state.memory._replace(bank=bank))


@pytest.mark.parametrize(
    ("breaks", "expected"),
    [
        (drop_momentum, ["optimizer state: ", "trace", "parameters: ", "by up to "]),
        (forget_a_row, ["memory: ", " arrays differ: bank in ", "by up to "]),
    ],
)
def test_what_is_lost_on_the_way_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys, breaks: Any, expected: list
) -> None:
    put = restore.put
    monkeypatch.setattr(restore, "put", lambda run, state: put(run, breaks(state)))
    with pytest.raises(
        TrainingError, match=r"^not exact here \(cpu\): \d+ arrays diff"
    ):
        verify.verify_resume(tiny_config(**ROWS))
    output = capsys.readouterr().out
    assert all(text in output for text in expected)
    assert "exact here" not in output
    assert not list(here.iterdir())


@pytest.mark.parametrize("start_epoch", [2, 3])
def test_a_run_that_would_end_too_soon_is_made_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, start_epoch: int
) -> None:
    seen = []
    monkeypatch.setattr(verify, "go_on", lambda run, config, folder: seen.append(run))
    config = tiny_config(data__num_train=64, train__epochs=2)
    config.method.start_epoch = start_epoch
    verify.train_steps(config, tmp_path, verify.STEPS)
    (run,) = seen
    assert run.total_steps == 8 > verify.STEPS and run.dataset.held_out is None
    assert run.options.stop_after_steps == verify.STEPS
    # An epoch has two steps, so six steps never reach epoch 3.
    assert ("after these steps" in capsys.readouterr().out) == (start_epoch == 3)


def test_a_gpu_is_told_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    flag = "XLA_FLAGS=--xla_gpu_deterministic_ops=true"
    assert flag in verify.advice("gpu") and flag not in verify.advice("cpu")
    monkeypatch.setenv("XLA_FLAGS", f"--xla_a=1 {verify.FLAG}")
    assert "although XLA_FLAGS has" in verify.advice("gpu")


def test_what_a_config_has_survives_the_way_to_the_other_process() -> None:
    config = tiny_config().to_dict()
    config["augment"]["crop_scale"] = ()
    sent = ConfigDict(config).to_json_best_effort()
    assert verify.with_tuples(json.loads(sent)) == config


def test_processes_of_their_own_say_and_leave_as_much(tmp_path: Path) -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "main.py", *TINY, "--config.task=verify_resume"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("exact here (cpu): ")
    assert not list(tmp_path.glob("verify-*"))


def test_bad_input_in_the_other_process_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match="train.batch_size=999, but there are 256"):
        verify.verify_resume(tiny_config(train__batch_size=999))
    assert not list(tmp_path.iterdir())


def test_whoever_is_killed_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "main.py", *TINY, "--config.task=verify_resume"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)}
    for number in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        seen = iter(process.stdout.readline, "")
        assert any("256 training images" in x for x in seen)  # the other is at work
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        deadline = time.monotonic() + 60
        while list(tmp_path.glob("verify-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not list(tmp_path.glob("verify-*"))
        if number == signal.SIGINT:
            assert process.returncode == 130
            assert len(errors.splitlines()) == 1, errors
