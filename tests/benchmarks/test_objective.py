"""The benchmark of the objective measures PyTorch's program too, which has no collectives."""

import json
import subprocess
import sys

import pytest

from tests.tiny_run import ROOT


def test_pytorch_is_measured() -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "benchmarks/objective.py", "--child=pytorch"]
    command += ["--examples=6000", "--batch=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds"] > 0 and found["traffic"] == []
