"""The cells of docs/results.md, and the page that is made of their cards."""

import importlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tiny_run import ROOT


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("evidence")
    monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(module, "CARDS", tmp_path / "cards")
    return module


@pytest.fixture
def page(
    evidence: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ModuleType:
    module = importlib.import_module("results_page")
    monkeypatch.setattr(module, "CARDS", evidence.CARDS)
    monkeypatch.setattr(module, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(module, "PLOT", tmp_path / "results.png")
    return module


def pretend(workdir: Path, arguments: tuple[str, ...]) -> None:
    """What main.py would leave of two epochs of four steps, or of an evaluation."""
    if "--config=configs/evaluate.py" not in arguments:
        facts = workdir / "checkpoints" / "8" / "facts"
        facts.mkdir(parents=True)
        (facts / "metadata").write_text(json.dumps({"facts": {"batch_size": 30}}))
        rows = [{"step": 0, "epoch": 0, "knn": 0.5}]
        for step, weight in ((2, 0.0), (4, 0.0), (6, 0.3), (8, 0.6)):
            rows.append({"step": step, "epoch": (step - 1) // 4, "loss": 1.0})
            rows[-1] |= {"propagation_weight": weight, "images_per_second": 2.0}
            rows[-1] |= {"purity": step / 10}
        lines = [json.dumps(row) + "\n" for row in rows]
        (workdir / "metrics.jsonl").write_text("".join(lines))
        summary = {"workdir": str(workdir), "purity_by_hop": [0.9, 0.8, 0.7]}
        (workdir / "summary.json").write_text(json.dumps(summary))
        return
    output = next(Path(x.split("=")[1]) for x in arguments if "output=" in x)
    (output / "cards").mkdir(parents=True, exist_ok=True)
    scores = {"knn": "top1", "linear": "top1", "semi_1pct": "top1, 1%"}
    for protocol, score in scores.items():
        for encoder in ("step 8", "random encoder", "raw pixels"):
            checkpoint = {"path": str(workdir), "digest": "abc"}
            values = {"mean": 0.5, "by_seed": {"0": 0.4, "1": 0.6}}
            card = {"protocol": protocol, "encoder": encoder, "scores": {score: values}}
            card["checkpoint"] = checkpoint if encoder == "step 8" else {}
            name = f"{protocol}-{encoder}-{workdir.name}.json"
            (output / "cards" / name).write_text(json.dumps(card))


@pytest.fixture
def calls(evidence: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    found = []

    def call(workdir: Path, *arguments: str) -> None:
        found.append(arguments)
        pretend(workdir, arguments)

    monkeypatch.setattr(evidence, "call", call)
    return found


def test_whole_seeds_come_first(evidence: ModuleType, monkeypatch) -> None:
    short = evidence.CELLS["paper"]._replace(seeds=1)
    monkeypatch.setitem(evidence.CELLS, "short", short)
    planned = list(evidence.plan(["digits", "fashion_mnist"], ["paper", "short"], None))
    assert planned[:4] == [
        ("digits", "paper", 0),
        ("digits", "short", 0),
        ("fashion_mnist", "paper", 0),
        ("fashion_mnist", "short", 0),
    ]
    assert planned[4:] == [
        (data, "paper", seed) for seed in (1, 2) for data in ("digits", "fashion_mnist")
    ]
    assert len(list(evidence.plan(["digits"], ["paper", "short"], 2))) == 4


def test_a_cell_leaves_a_card_and_is_not_run_again(evidence, calls) -> None:
    evidence.run_cell("digits", "paper", 1)
    card = json.loads((evidence.CARDS / "digits-paper-1.json").read_text())
    assert card["overrides"] == ["method.form=paper", "seed=1"]
    assert card["minutes"] == pytest.approx(8 * 30 / 2 / 60)
    assert card["started_in_epoch"] == 1
    assert card["method"] == "invariance_propagation" and card["purity"] == [0.4, 0.8]
    assert card["checkpoint"] == "abc" and "workdir" not in card["summary"]
    assert set(card["evaluation"]) == {"knn", "linear", "semi_1pct"}
    assert "--config.method.form=paper" in calls[0] and len(calls) == 2
    evidence.run_cell("digits", "paper", 1)
    assert len(calls) == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_each_core_has_a_cell_of_its_own(
    evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    meeting, found = threading.Barrier(2), []

    def run(*cell: object) -> None:
        meeting.wait(timeout=60)  # both run at the same time
        shown = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True,
            text=True,
        )
        found.append(shown.stdout)

    monkeypatch.setattr(evidence, "run_cell", run)
    cells = [("digits", "odc", 0), ("digits", "odc", 1)]
    evidence.run_cells(cells, cores=2, last_begin=math.inf)
    assert len(set(found)) == 2 and all("," not in cores for cores in found)


def test_a_cell_that_fails_ends_those_that_wait(
    evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def run(*cell: object) -> None:
        begun.append(cell)
        time.sleep(0.1)
        raise SystemExit("error: no such file")

    monkeypatch.setattr(evidence, "run_cell", run)
    cells = [("digits", "odc", seed) for seed in range(50)]
    with pytest.raises(SystemExit, match="no such file"):
        evidence.run_cells(cells, cores=1, last_begin=math.inf)
    assert len(begun) < 50
    with pytest.raises(SystemExit, match="the same command continues"):
        evidence.run_cells(cells, cores=1, last_begin=0)


def test_a_cell_names_its_method(evidence, calls) -> None:
    evidence.run_cell("letters", "odc", 0)
    assert calls[0][0] == "--config=configs/letters.py:odc"
    assert "--config.data.num_train=10000" in calls[0]


def test_what_was_chosen_is_a_key_of_its_config(evidence) -> None:
    for data in evidence.SETS:
        for name, cell in evidence.CELLS.items():
            module = importlib.import_module(f"configs.{data}")
            config = module.get_config(cell.method)
            for override in evidence.overrides_of(data, name, 0):
                key, _, _ = override.partition("=")
                section: Any = config
                for part in key.split("."):
                    section = section[part]  # KeyError: no such key
    assert evidence.overrides_of("letters", "unmix", 0)[-2:] == [
        "method.inner.form=paper",
        "seed=0",
    ]
    assert "method.inner.start_epoch=10" in evidence.overrides_of("letters", "unmix", 0)


@pytest.mark.parametrize("settings", ["SETS", "EVALUATIONS"])
def test_other_settings_under_a_name_are_refused(
    evidence, calls, monkeypatch, settings: str
) -> None:
    evidence.run_cell("digits", "paper", 0)
    monkeypatch.setitem(getattr(evidence, settings), "digits", ["linear.epochs=3"])
    with pytest.raises(SystemExit, match="digits-paper-0.json has .*: move it away"):
        evidence.run_cell("digits", "paper", 0)


def test_a_failure_ends_with_its_own_line(evidence: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unknown key --config.trian"):
        evidence.call(
            tmp_path / "run", "--config=configs/digits.py", "--config.trian.epochs=1"
        )


def test_yardsticks_are_measured_once(evidence, calls) -> None:
    evidence.run_cell("digits", "paper", 0)
    evidence.run_yardsticks("digits")
    evidence.run_yardsticks("digits")
    assert len(calls) == 3 and "--config.num_seeds=3" in calls[2]
    card = json.loads((evidence.CARDS / "digits-untrained.json").read_text())
    assert set(card["evaluation"]) == {"random encoder", "raw pixels"}


def test_the_page_says_what_there_is_and_what_there_is_not(
    evidence, page, calls
) -> None:
    for seed, share in enumerate((0.90, 0.92, 0.97)):
        card = evidence.run_cell("digits", "paper", seed)
        card["evaluation"]["linear"]["top1"]["mean"] = share
        evidence.write(evidence.CARDS / f"digits-paper-{seed}.json", card)
    evidence.run_yardsticks("digits")
    page.main()
    text = page.PAGE.read_text()
    # 93 and the square root of (9 + 1 + 16) / 2
    assert (
        "| 50.0 ± 0.0 | 93.0 ± 3.6 | 50.0 ± 0.0 | 90.0 / 80.0 / 70.0 | 1 | 3 |" in text
    )
    assert "| untrained network | 50.0 ± 14.1 | 50.0 ± 14.1 | 50.0 ± 14.1 |" in text
    assert text.count("*not run yet*") == len(evidence.CELLS) - 1
    assert "Fashion-MNIST" not in text.split("## ", 1)[1]
    assert page.PLOT.stat().st_size > 10_000
    page.PAGE.write_text(text + "\nWhat it means.\n")
    page.main()
    assert page.PAGE.read_text() == text + "\nWhat it means.\n"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").rglob("*.json")))
def test_cards_name_no_place_of_a_machine(path: Path) -> None:
    text = path.read_text()
    assert not any(place in text for place in ("/work", "/tmp", "/root", "/home"))
