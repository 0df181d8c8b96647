"""What a run says of scores that mean little."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from invariance_propagation.data import sources
from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.methods import Notes
from invariance_propagation.models import Outputs
from invariance_propagation.train import monitor
from invariance_propagation.train.averages import NotFinite
from invariance_propagation.train.options import KnnOptions
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.tiny_run import tiny_config

ONE_CLASS = "one class: every answer is right, whatever was learnt"


def test_one_class_is_remarked_on_at_the_start_and_the_end(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    digits = sources.find_loader("digits")

    def of_one_class(folder: str) -> Dataset:
        dataset = digits(folder)
        train, held_out = (x._replace(labels=0 * x.labels) for x in dataset[1:3])
        return dataset._replace(train=train, held_out=held_out)

    monkeypatch.setitem(sources.LOADERS, "digits", of_one_class)
    changes = {"train__epochs": 1, "train__evaluate_every": 0, "method__start_epoch": 0}
    summary = train_and_evaluate(tiny_config(**changes), str(tmp_path))
    assert summary["knn_untrained"] == summary["knn_trained"] == 1.0
    assert summary["remarks"] == [ONE_CLASS]
    assert json.loads((tmp_path / "summary.json").read_text())["remarks"]
    said = capsys.readouterr().out
    assert said.count(f"note: {ONE_CLASS}") == 2
    assert said.index(f"note: {ONE_CLASS}") < said.index("weighted kNN")


def run_with(features: np.ndarray) -> SimpleNamespace:
    """Stands in for a `Run` whose network gives these features."""
    labels = np.arange(len(features), dtype=np.int32) % 2
    split = Split(np.zeros((len(features), 2, 2, 1), np.uint8), labels)
    return SimpleNamespace(
        dataset=Dataset("few", split, split),
        embed=lambda params, batch_stats, images: Outputs(features, features),
        knn=KnnOptions(num_neighbors=3, temperature=0.07, embed_anew=True),
        method=SimpleNamespace(notes=Notes()),
        kept_rows="",
        has_labels=True,
        has_knn=True,
    )


STATE = SimpleNamespace(params={}, batch_stats={}, memory=())


def test_features_that_are_all_alike_are_remarked_on() -> None:
    scores = monitor.knn(run_with(np.ones((8, 3), np.float32)), STATE)
    assert scores[monitor.ALIKE] == 1.0
    assert monitor.describe(scores).endswith("images have the same features")
    random = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    scores = monitor.knn(run_with(random), STATE)
    assert set(scores) == {"knn", "knn_embedding"}
    assert "same" not in monitor.describe(scores)


def test_features_that_are_not_finite_have_no_score() -> None:
    features = np.ones((8, 3), np.float32)
    features[6, 1] = np.nan
    run, state = run_with(features), SimpleNamespace(**vars(STATE), step=5)
    run.runner = SimpleNamespace(local=lambda x: x)
    with pytest.raises(NotFinite, match="step 5: features of 1 of 8 .* number 6.* nan"):
        monitor.knn(run, state)


def test_without_held_out_images_purity_is_remarked_on() -> None:
    run = run_with(np.ones((8, 3), np.float32))
    assert monitor.remarks(run) == []
    train = run.dataset.train._replace(labels=np.zeros(8, np.int32))
    run.dataset, run.has_knn = Dataset("few", train, None), False
    assert monitor.remarks(run) == [ONE_CLASS]
    run.has_labels = False
    assert monitor.remarks(run) == []


@pytest.mark.parametrize(("count", "looked_at"), [(900, 900), (90_000, 4096)])
def test_what_a_method_measures_is_of_images_of_all_classes(
    count: int, looked_at: int
) -> None:
    """In a folder that is sorted by class, the first ones are of its first classes."""
    labels = np.arange(count) * 30 // count
    asked = []

    def measure(memory: None, labels: np.ndarray, indices: np.ndarray) -> dict:
        asked.append(indices)
        return {"share": np.mean(labels[indices] < 3)}

    def run_of(seed: int) -> SimpleNamespace:
        return SimpleNamespace(
            num_examples=count,
            seed=seed,
            runner=SimpleNamespace(local=lambda memory: memory),
            method=SimpleNamespace(notes=Notes(measure=measure)),
            has_labels=True,
            dataset=SimpleNamespace(train=SimpleNamespace(labels=labels)),
        )

    state = SimpleNamespace(memory=None)
    found = monitor.measure(run_of(0), state)
    assert found == {"share": pytest.approx(0.1, abs=0.02)}
    assert monitor.measure(run_of(0), state) == found
    monitor.measure(run_of(1), state)
    first, again, other = asked
    assert len(np.unique(first)) == looked_at
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (looked_at == count)
