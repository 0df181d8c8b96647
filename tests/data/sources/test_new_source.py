"""Tests that a new data set is one module and one line, without other changes."""

from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from invariance_propagation.data import sources
from invariance_propagation.data.sources import load
from invariance_propagation.errors import UserError
from invariance_propagation.store.checkpoint import steps_in
from invariance_propagation.tasks.plan import print_plan
from invariance_propagation.train.journal import read_rows
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.tiny_run import tiny_config
from tests.toy_source import NUM_TRAIN, stripes


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the line of the new data set to the table."""
    monkeypatch.setitem(sources.LOADERS, "stripes", stripes)


def config_of(**changes: str) -> ConfigDict:
    return tiny_config(
        num_devices=1,
        data__name="stripes",
        data__num_train=0,
        method__background_size=16,
        train__batch_size=16,
        train__epochs=1,
        train__evaluate_every=1,
        train__checkpoint_every=4,
        train__log_every=2,
        knn__num_neighbors=3,
        **changes,
    )


def test_it_is_trained_on_with_an_option(tmp_path: Path) -> None:
    config = config_of(data__split="noisy")
    train_and_evaluate(config, str(tmp_path))
    assert steps_in(tmp_path)[0] == NUM_TRAIN // 16
    assert all(np.isfinite(row["loss"]) for row in read_rows(tmp_path) if "loss" in row)
    # The checkpoint refuses the set without noise: the option reached the module.
    with pytest.raises(UserError, match="stripes"):
        train_and_evaluate(config_of(), str(tmp_path))


def test_it_is_planned(capsys: pytest.CaptureFixture) -> None:
    print_plan(config_of())
    assert f"stripes: {NUM_TRAIN} images" in capsys.readouterr().out


def test_its_options_are_those_of_its_function() -> None:
    plain, noisy = (
        load(name="stripes", folder="", num_train=0, split=split)
        for split in ("", "noisy")
    )
    assert plain.digest() != noisy.digest()
    assert plain.class_name(1) == "columns"
    sample = load(name="stripes", folder="", num_train=5)
    assert len(sample.train.images) == 5
    with pytest.raises(UserError, match="--config.data.classes=True: stripes has no"):
        load(name="stripes", folder="", num_train=0, classes=True)
    with pytest.raises(
        UserError, match="choose one of digits.*, stripes, or tfds:NAME"
    ):
        load(name="strips", folder="", num_train=0)
    assert not sources.must_be_fetched("stripes", "")
