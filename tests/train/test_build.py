"""Bad input: one clear line, before anything is written."""

from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from invariance_propagation.errors import UserError
from invariance_propagation.train.pretrain import train_and_evaluate
from tests.tiny_run import tiny_config

BAD = {
    "batch over devices": ({"train__batch_size": 63}, "63 does not divide over 2 dev"),
    "too many devices": ({"num_devices": 99}, "num_devices=99, but JAX sees 8"),
    "no devices": ({"num_devices": 0}, "num_devices=0"),
    "M > N": (
        {"method__background_size": 5000},
        "background_size=5000, but the bank holds 256 images: set it from 1 to 256",
    ),
    "M < 1": ({"method__background_size": 0}, "background_size=0"),
    "k + 1 > N": ({"method__num_neighbors": 256}, "set it to at most 255"),
    "k < 1": ({"method__num_neighbors": 0}, "num_neighbors=0"),
    "K > N": ({"knn__num_neighbors": 300}, "300, but there are 256 training images"),
    "batch > N": ({"train__batch_size": 512}, "512, but there are 256 training"),
    "missing data": (
        {"data__name": "fashion_mnist", "data__folder": "/nowhere"},
        "apt-get install dataset-fashion-mnist",
    ),
    "missing records": (
        {"data__name": "imagenet", "data__folder": "/nowhere"},
        "there is no folder /nowhere",
    ),
    "unknown data": ({"data__name": "mnist"}, "choose one of digits"),
    "too few data": ({"data__num_train": 5000}, "digits has 1347 training images"),
    "no hops": ({"method__num_hops": 0}, "num_hops=0"),
    "no positives": ({"method__num_hard": 0}, "num_hard=0"),
    "temperature": ({"method__temperature": 0.0}, "temperature=0.0"),
    "bank momentum": ({"method__bank_momentum": 1.5}, "bank_momentum=1.5"),
    "lambda": ({"method__propagation_weight": -1.0}, "propagation_weight=-1.0"),
    "T": ({"method__start_epoch": -1}, "start_epoch=-1"),
    "form": ({"method__form": "exact"}, "form='exact': choose one of paper, released"),
    "positives": ({"method__positives": "soft"}, "positives='soft'"),
    "bank start": ({"method__bank_start": "zeros"}, "bank_start='zeros'"),
    "ramp": ({"method__ramp": "linear"}, "ramp='linear'"),
    "start": ({"method__start": "now"}, "start='now': choose one of epoch, auto"),
    "start of a ramp": (
        {"method__start": "auto", "method__ramp": "gaussian"},
        "set method.start='epoch'",
    ),
    "overlap": ({"method__start_overlap": 1.0}, "start_overlap=1.0"),
    "method": (
        {"method__name": "simclr"},
        "method.name='simclr': choose one of coke, invariance_propagation",
    ),
    "method's module": ({"method__name": "no_such:f"}, "No module named 'no_such'"),
    "method's function": ({"method__name": "json:f"}, "has no attribute 'f'"),
    "method that is none": ({"method__name": "json:dumps"}, "takes `problem`"),
    "reach": ({"method__num_hops": 30}, "set num_hops to at most 9"),
    "share": (
        {"data__max_unreadable": -1.0},
        "max_unreadable=-1.0: set it from 0 to 1",
    ),
    "learning rate": ({"optimizer__learning_rate": 0.0}, "learning_rate=0.0"),
    "SGD momentum": ({"optimizer__momentum": 1.0}, "optimizer.momentum=1.0"),
    "schedule": ({"optimizer__schedule": "linear"}, "schedule='linear'"),
    "warm-up": ({"optimizer__warmup_epochs": 4}, "warmup_epochs=4, but train.epochs=4"),
    "no warm-up": (
        {"optimizer__warmup_epochs": 2, "optimizer__still_epochs": 3},
        "still_epochs=3: set it to 0, or train.epochs to 6 or more",
    ),
    "parallel": ({"parallel": "pjit"}, "parallel='pjit': choose one of pmap"),
    "depth": ({"encoder__depth": 34}, "encoder.depth=34: choose one of 6, 18, 50"),
    "stem": ({"encoder__stem": "vit"}, "encoder.stem='vit'"),
    "head": ({"encoder__head": "none"}, "encoder.head='none'"),
    "width": ({"encoder__width": 0}, "encoder.width=0"),
    "dtype": ({"encoder__dtype": "float16"}, "encoder.dtype='float16'"),
    "channels": ({"augment__mean": (0.5, 0.5, 0.5)}, "mean"),
    "probability": ({"augment__flip": 1.5}, "augment.flip=1.5"),
    "crop": ({"augment__crop_scale": (0.5, 1.5)}, "augment.crop_scale=(0.5, 1.5)"),
    "size": ({"augment__size": 0}, "augment.size=0"),
    "epochs": ({"train__epochs": 0}, "train.epochs=0"),
    "checkpoints": ({"train__keep_checkpoints": 0}, "keep at least 1"),
    "sigma": ({"knn__temperature": 0.0}, "knn.temperature=0.0"),
}


def fails(config: ConfigDict, workdir: Path, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        train_and_evaluate(config, str(workdir))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert not workdir.exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_values(name: str, tmp_path: Path) -> None:
    changes, expected = BAD[name]
    fails(tiny_config(**changes), tmp_path / "run", expected)


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [
        ("method", "num_hop", "unknown config key method.num_hop: did you mean"),
        ("augment", "blurr", "unknown config key augment.blurr: did you mean"),
        ("train", "epoch", "unknown config key train.epoch: did you mean"),
        (None, "sed", "unknown config key sed: did you mean seed"),
    ],
)
def test_unknown_keys(section: str, key: str, expected: str, tmp_path: Path) -> None:
    """As from a notebook, where no flag parser has looked at the names."""
    config: Any = tiny_config()
    with config.unlocked():
        (config[section] if section else config)[key] = 1
    fails(config, tmp_path / "run", expected)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    config = tiny_config()
    with config.unlocked():
        del config.optimizer.decay
    fails(config, tmp_path / "run", "optimizer.decay is missing")
