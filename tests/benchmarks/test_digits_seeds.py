"""What the demo says beside its own figure, and how that was measured."""

import importlib
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from configs import digits
from tests.tiny_run import ROOT

SCORES = [0.97, 0.98, 0.99, 0.98, 0.97, 0.98, 0.99, 0.98, 0.98, 0.98]


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("digits_seeds")
    monkeypatch.setattr(module, "PATH", tmp_path / "digits_seeds.json")
    monkeypatch.setattr(
        module.platform, "python_version_tuple", lambda: ("3", "11", "7")
    )
    return module


@pytest.fixture
def trained(seeds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were trained, in their order."""
    found = []

    def train(seed: int, workdir: Path) -> dict[str, float]:
        found.append(seed)
        return {"knn_trained": SCORES[seed], "knn_raw_pixels": 0.965}

    monkeypatch.setattr(seeds, "train", train)
    return found


def finished(folder: Path, **changes: object) -> Path:
    """A workdir as the demo leaves it, as far as it is read here."""
    config = json.loads(digits.get_config().to_json_best_effort()) | changes
    (folder / "checkpoints/600/facts").mkdir(parents=True)
    facts = folder / "checkpoints/600/facts/metadata"
    facts.write_text(json.dumps({"facts": {"config": config}}))
    (folder / "summary.json").write_text(json.dumps({"knn_trained": 0.9756}))
    return folder


def test_a_run_stands_beside_ten_seeds(seeds, trained, tmp_path: Path) -> None:
    run = finished(tmp_path / "run", seed=7)
    seeds.measure()
    assert trained == list(range(10))
    own, ten = seeds.describe(run, seeds.read_record()).splitlines()
    assert own == "knn trained: 97.56% in this run"
    # Mean 98; squares of the differences: four of 1, over nine.
    assert ten.startswith(
        "  ten seeds: 98.00 ± 0.67 %, lowest 97.00 (Python 3.11, jax "
    )
    assert ten.endswith("raw pixels 96.50")


def test_other_settings_are_not_compared(seeds, trained, tmp_path: Path) -> None:
    seeds.measure()
    run = finished(tmp_path / "run", augmentation="host")
    said = seeds.describe(run, seeds.read_record())
    assert "not been measured" in said and "ten seeds:" not in said


def test_what_does_not_train_makes_no_difference(seeds, trained, tmp_path) -> None:
    seeds.measure()
    run = finished(tmp_path / "run", parallel="shard_map", num_devices=1)
    assert "ten seeds: 98.00" in seeds.describe(run, seeds.read_record())


def test_fewer_than_ten_seeds_are_no_mean(
    seeds, trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished(tmp_path / "run")
    assert "not been measured" in seeds.describe(run, seeds.read_record())
    monkeypatch.setattr(seeds, "NUM_SEEDS", 4)
    seeds.measure()
    monkeypatch.setattr(seeds, "NUM_SEEDS", 10)
    assert "not been measured" in seeds.describe(run, seeds.read_record())
    seeds.measure()  # continues where it stopped
    assert trained == list(range(10))
    assert "ten seeds: 98.00" in seeds.describe(run, seeds.read_record())


def test_new_settings_are_measured_anew(seeds, trained) -> None:
    seeds.measure()
    record = seeds.read_record()
    record["settings"]["train.epochs"] += 1
    seeds.PATH.write_text(json.dumps(record))
    seeds.measure()
    assert trained == [*range(10), *range(10)]


def run_all_pythons(folder: Path, *, versions: tuple[str, ...], demo: str):
    """The script among interpreters and a make that do nothing but say so."""
    programs = folder / "programs"
    programs.mkdir(parents=True)
    for name in (f"python{version}" for version in versions):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    make = f'#!/bin/sh\necho "$@" >> {folder}/calls\necho "{demo}"\n'
    (programs / "make").write_text(make)
    (programs / "make").chmod(0o755)
    (folder / "tests").mkdir()
    script = folder / "tests" / "all_pythons.sh"
    script.write_text((ROOT / "tests" / "all_pythons.sh").read_text())
    tools = folder / "tools"
    tools.mkdir()
    for name in ("dirname", "tail", "ls", "grep", "rm", "mkdir", "tee", "bash"):
        place = next(
            path
            for path in (Path(x, name) for x in os.environ["PATH"].split(":"))
            if path.exists()
        )
        (tools / name).symlink_to(place)
    return subprocess.run(
        [tools / "bash", script],
        env={"PATH": f"{programs}:{tools}", "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def test_all_pythons_are_tried(tmp_path: Path) -> None:
    done = run_all_pythons(
        tmp_path, versions=("3.11", "3.13"), demo="  knn trained: 97 %"
    )
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["test", "demo"] * 2
    assert [call.split()[0] for call in calls] == (
        ["VENV=.venv-3.11"] * 2 + ["VENV=.venv-3.13"] * 2
    )
    assert (tmp_path / "runs/digits-3.13.log").read_text() == "  knn trained: 97 %\n"


def test_a_missing_python_is_one_line_with_the_way_to_it(tmp_path: Path) -> None:
    done = run_all_pythons(tmp_path, versions=("3.11",), demo="  knn trained: 97 %")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "there is no python3.13" in done.stderr and "trixie" in done.stderr


def test_a_demo_that_warns_fails(tmp_path: Path) -> None:
    done = run_all_pythons(
        tmp_path,
        versions=("3.11", "3.13"),
        demo="UserWarning: cores; knn trained: 97 %",
    )
    assert done.returncode == 1
    assert "the demo on Python 3.11 printed a warning" in done.stderr


def test_the_demo_has_been_measured_over_ten_seeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new key of the config belongs into the record, too.

    If it changes no digit of a run, it can be added there by hand.
    """
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("digits_seeds")
    record = json.loads((ROOT / "benchmarks/results/digits_seeds.json").read_text())
    config = json.loads(digits.get_config().to_json_best_effort())
    assert record["settings"] == module.settings_of(config)
