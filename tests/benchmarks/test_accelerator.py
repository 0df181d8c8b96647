"""The benchmark of accelerators, in miniature on a CPU."""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

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
    monkeypatch.setattr(accelerator, "STAGES", {"oracle": accelerator.oracle})
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


def test_a_stage_that_fails_leaves_its_last_lines(
    accelerator: ModuleType,
    accelerator_page: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [accelerator.__file__, "--minutes=x"])
    accelerator.run_stage("oracle", tmp_path / "oracle.json", 60)
    record = json.loads((tmp_path / "oracle.json").read_text())
    assert "invalid float value" in record["failed"][-1]
    assert any("invalid float" in x for x in accelerator_page.page({"oracle": record}))


def test_a_step_is_timed_beside_its_plan(
    accelerator: ModuleType,
    accelerator_page: ModuleType,
    options: argparse.Namespace,
) -> None:
    found = accelerator.time_step(options, 8)
    assert found["seconds"] > 0 and found["planned_bytes"] > 0
    assert found["images_per_second"] == pytest.approx(8 / found["seconds"])
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
