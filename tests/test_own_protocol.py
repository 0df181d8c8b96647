"""docs/own_protocol.md, followed to the letter."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.evaluation.bench import View
from invariance_propagation.evaluation.protocols import find_protocol
from tests.tiny_run import ROOT


def test_it_is_found_and_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / "own_protocol.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "my_protocol.py").write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    protocol = find_protocol("my_protocol:CLASS_MEANS")

    labels = np.array([0, 0, 1, 1, 2, 2])
    splits = [Split(np.zeros((6, 8, 8, 1), np.uint8), labels) for _ in range(2)]
    bench = SimpleNamespace(
        dataset=Dataset("three", *splits),
        view=View(8, (0.5,), (0.5,)),
        crop={},
        remarks=[],
    )
    (jobs,) = protocol.jobs(SimpleNamespace(bench=lambda: bench))
    (job,) = jobs
    assert job.protocol == "class_means" and not job.by_chance
    assert job.settings["options"] == {"similarity": "cosine"}

    def top1(features: np.ndarray, queries: np.ndarray) -> float:
        subject = SimpleNamespace(features=lambda: features, queries=lambda: queries)
        return dict(job.measure(subject, 0))["top1"]

    known = np.eye(3, dtype=np.float32)[labels]
    assert top1(known, known) == 1.0
    assert top1(np.ones_like(known), known) == pytest.approx(1 / 3)
