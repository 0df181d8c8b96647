"""With JAX_ENABLE_X64=1 every number is the same: constants have dtypes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_run import ROOT, TINY, rows_without_times

EVALUATE = ["--config=configs/evaluate.py", "--config.protocols=knn,linear,semi_1pct"]
EVALUATE += ["--config.linear.epochs=2", "--config.semi.epochs=1"]


def run(*arguments: str, x64: bool) -> None:
    environment = os.environ | {"JAX_ENABLE_X64": str(int(x64))}
    done = subprocess.run(
        [sys.executable, "main.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory) -> dict[bool, Path]:
    """A tiny run without and with x64, and what is made of each."""
    folders = {}
    for x64 in (False, True):
        folder = folders[x64] = tmp_path_factory.mktemp(f"x64_{x64}")
        run(*TINY, f"--workdir={folder}", x64=x64)
        run(*EVALUATE, f"--config.checkpoint={folder}", x64=x64)
    return folders


def test_training_gives_the_same_numbers(workdirs: dict[bool, Path]) -> None:
    plain, x64 = map(rows_without_times, workdirs.values())
    # Of the rate, which the step computes in float32, a row has the float64.
    for row in plain + x64:
        row.pop("learning_rate", None)
    assert plain == x64 and len(plain) > 8


def test_evaluation_gives_the_same_numbers(workdirs: dict[bool, Path]) -> None:
    scores = []
    for folder in workdirs.values():
        cards = sorted((folder / "cards").glob("*.json"))
        found = [json.loads(path.read_text()) for path in cards]
        scores.append(
            sorted((x["protocol"], x["encoder"], str(x["scores"])) for x in found)
        )
    assert scores[0] == scores[1] and len(scores[0]) >= 6
