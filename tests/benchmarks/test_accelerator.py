"""The benchmark of accelerators, in miniature on a CPU."""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.tiny_run import ROOT


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("accelerator")


@pytest.fixture
def accelerator_page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("accelerator_page")


@pytest.fixture
def options(tmp_path: Path) -> argparse.Namespace:
    return argparse.Namespace(small=True, output=tmp_path, fashion="", minutes=1.0)


def test_a_stage_is_measured_once_and_kept(
    accelerator: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    arguments = ["--small", f"--output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [accelerator.__file__, *arguments])
    monkeypatch.setattr(accelerator, "STAGES", {"oracle": None})
    accelerator.main()
    record = json.loads((tmp_path / "oracle.json").read_text())
    assert record["stage"] == "oracle" and record["devices"]
    assert record["highest"]["instance"] < 1e-4
    assert record["highest"]["gradient"] < 1e-4
    assert record["highest"]["other_neighbors"] == 0
    assert record["bfloat16"]["instance"] > record["highest"]["instance"]
    capsys.readouterr()
    accelerator.main()
    assert capsys.readouterr().out == "oracle: there already\n"


def test_without_time_nothing_is_begun(
    accelerator: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--minutes=0.1", f"--output={tmp_path}"])
    accelerator.main()
    assert "oracle: no time is left; the same command continues here" in (
        capsys.readouterr().out
    )
    assert not [*tmp_path.iterdir()]


def test_a_stage_that_fails_is_tried_again_after_the_others(
    accelerator: ModuleType,
    accelerator_page: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [accelerator.__file__, "--minutes=x"])
    accelerator.run_stage("oracle", tmp_path, 60)
    assert not (tmp_path / "oracle.json").exists()
    record = json.loads((tmp_path / "oracle.failed").read_text())
    assert "invalid float value" in record["failed"][-1]
    assert any("invalid float" in x for x in accelerator_page.page({"oracle": record}))
    (tmp_path / "resume.json").write_text("{}")
    left = accelerator.waiting(tmp_path)
    assert left[0] == "digits" and left[-1] == "oracle" and "resume" not in left
    monkeypatch.setattr(
        sys, "argv", [accelerator.__file__, "--small", f"--output={tmp_path}"]
    )
    accelerator.run_stage("peaks", tmp_path, 60)
    assert [x.name for x in tmp_path.glob("p*")] == ["peaks.json"]
    assert json.loads((tmp_path / "peaks.json").read_text())["gigabytes_per_second"] > 0


def test_a_stage_that_takes_too_long_leaves_no_process(
    accelerator: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    # The stage starts a process of its own, which starts another.
    script = tmp_path / "stage.py"
    pids = tmp_path / "pids"
    script.write_text(
        "import os, subprocess, time\n"
        f"child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(accelerator, "__file__", str(script))
    monkeypatch.setattr(sys, "argv", ["x"])
    begun = time.monotonic()
    accelerator.run_stage("oracle", tmp_path, 5)
    # A process that stayed would hold the pipe for its whole minute.
    assert time.monotonic() - begun < 30
    assert "oracle: not done in 5 s" in capsys.readouterr().out
    assert not [*tmp_path.glob("oracle.*")]
    ends = time.monotonic() + 5
    for pid in map(int, pids.read_text().split()):
        while psutil.pid_exists(pid) and time.monotonic() < ends:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                break
            time.sleep(0.05)
        else:
            assert not psutil.pid_exists(pid)


def test_without_its_files_fashion_is_asked_for_again(
    accelerator: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--minutes=0.1", f"--output={tmp_path}"])
    monkeypatch.setattr(accelerator, "STAGES", {"fashion": None})
    accelerator.main()
    assert "fashion: left out; --fashion=DIR" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


def test_a_step_is_timed_beside_its_plan_and_its_parts(
    accelerator: ModuleType,
    accelerator_page: ModuleType,
    options: argparse.Namespace,
) -> None:
    found = accelerator.STAGES["step-128"](options)
    assert found["seconds"] > 0 and found["planned_bytes"] > 0
    assert found["images_per_second"] == pytest.approx(8 / found["seconds"])
    assert 0 < found["share_of_views"] and 0 < found["share_of_objective"]
    record = {
        "seconds": 1.0,
        "machine": "m",
        "python": "3",
        "versions": {"jax": "1"},
        "date": "d",
        "command": "c",
        "devices": "1 x cpu",
        "B=8": found,
    }
    text = "\n".join(accelerator_page.page({"step": record}))
    assert "1 x cpu" in text and "| B=8 | seconds |" in text
