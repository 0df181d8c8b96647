"""The command line: what a user types, and what comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_run import ROOT, TINY, final_state

BAD = {
    "unknown key": (["--config.method.num_hop=3"], "num_hop"),
    "wrong type": (["--config.train.epochs=many"], "epochs"),
    "batch over devices": (["--config.num_devices=2", "--config.train.batch_size=63"],
        "batch_size=63 does not divide over 2 devices"),
    "more devices than there are": (["--config.num_devices=99"], "num_devices=99"),
    "M > N": (["--config.method.background_size=5000"],
        "background_size=5000, but the bank holds 256"),
    "k + 1 > N": (["--config.method.num_neighbors=256"], "set it to at most 255"),
    "K > N": (["--config.knn.num_neighbors=300"],
        "knn.num_neighbors=300, but there are 256"),
    "batch > N": (["--config.train.batch_size=512"], "batch_size=512"),
    "missing data": (["--config.data.name=fashion_mnist",
        "--config.data.folder=/nowhere"], "apt-get install dataset-fashion-mnist"),
    "planned data": (["--config.data.name=imagenet"], "comes with a later release"),
    "unknown data": (["--config.data.name=mnist"], "choose one of digits"),
    "no hops": (["--config.method.num_hops=0"], "num_hops=0"),
    "no positives": (["--config.method.num_hard=0"], "num_hard=0"),
    "temperature": (["--config.method.temperature=0.0"], "temperature=0.0"),
    "bank momentum": (["--config.method.bank_momentum=1.5"], "bank_momentum=1.5"),
    "SGD momentum": (["--config.optimizer.momentum=1.0"], "optimizer.momentum=1.0"),
    "form": (["--config.method.form=exact"], "form='exact'"),
    "parallel": (["--config.parallel=pjit"], "parallel='pjit'"),
    "task": (["--config.task=sing"], "task='sing'"),
    "depth": (["--config.encoder.depth=34"], "depth"),
    "channels": (["--config.augment.mean=(0.5,0.5,0.5)"], "mean"),
    "positional argument": (["digits"], "unknown argument"),
}


def run(*flags: str, workdir: Path | None, timeout: float = 240) -> subprocess.Popen:
    command = [sys.executable, "main.py", *flags]
    if workdir is not None:
        command.append(f"--workdir={workdir}")
    environment = {k: v for k, v in os.environ.items() if k != "PJRT_NPROC"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    name: str, tmp_path: Path, in_process
) -> None:
    flags, expected = BAD[name]
    workdir = tmp_path / "run"
    status, output, errors = in_process([*TINY, *flags, f"--workdir={workdir}"])
    assert status == 2
    assert expected in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config is missing"),
        (["--config=configs/digits.py"], "--workdir is missing"),
        (["--config=configs/nothing.py"], "nothing.py"),
        (["--confg=configs/digits.py"], "confg"),
    ],
)
def test_missing_flags(flags: list[str], expected: str, in_process) -> None:
    status, _, errors = in_process(flags)
    assert status == 2 and expected in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1
