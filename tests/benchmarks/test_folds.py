"""Tests that settings are compared on training images alone."""

import importlib
from typing import Any

import numpy as np
import pytest

from configs import digits
from invariance_propagation.data import sources
from tests.tiny_run import ROOT


def test_a_fold_is_a_block_of_the_training_images(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    folds = importlib.import_module("folds")
    whole = sources.load(name="digits", folder="", num_train=0).train
    tested = []
    for fold in range(3):
        found = folds.fold_of(digits.get_config(), fold)
        tested.append(found.held_out.images)
        assert len(found.train.images) + len(tested[-1]) == len(whole.images)
        if fold == 0:
            rest = whole.images[len(tested[-1]) :]
            np.testing.assert_array_equal(found.train.images, rest)
    np.testing.assert_array_equal(np.concatenate(tested), whole.images)


def test_a_setting_names_data_method_and_overrides(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    folds = importlib.import_module("folds")
    setting = "augment.crop_scale=(0.5,1.0) method.form=released train.epochs=3"
    config = folds.config_of("letters:invariance_propagation", setting)
    assert config.data.name == "letters" and config.train.epochs == 3
    assert config.augment.crop_scale == (0.5, 1.0)
    assert config.method.form == "released"
    with pytest.raises(KeyError):
        folds.config_of("digits", "method.from=released")


def test_one_process_can_run_several_folds(monkeypatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    folds = importlib.import_module("folds")
    seen = []

    def train(config: Any, workdir: str) -> dict[str, float]:
        dataset = sources.load(name=config.data.name, folder="", num_train=0)
        seen.append((len(dataset.train.images), len(dataset.held_out.images)))
        return {"knn_trained": 0.5, "knn_raw_pixels": 0.25}

    monkeypatch.setattr(
        "invariance_propagation.train.pretrain.train_and_evaluate", train
    )
    for fold in range(3):
        assert folds.run_fold("digits", "", 0, fold)["trained"] == 50
    assert seen == [(898, 449)] * 3
