"""Transfer to small data sets, on mock data of TFDS."""

from pathlib import Path

import pytest

from configs.evaluate import get_config
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols import find_protocol
from invariance_propagation.evaluation.protocols.transfer import SETS
from tests.evaluation.protocols.conftest import EXAMPLES
from tests.evaluation.protocols.jobs import measured


def test_transfer_is_two_jobs_a_set(stored: Path, request_of) -> None:
    request = request_of(tfds_folder=str(stored), transfer_sets="cifar10, flowers")
    groups = list(find_protocol("transfer").jobs(request))
    assert all(first.bench is second.bench for first, second in groups)
    jobs = [job for group in groups for job in group]
    names = [(job.protocol, job.bench.dataset.name.split("/")[0]) for job in jobs]
    kinds = ("transfer_linear", "transfer_finetune")
    assert names == [
        (kind, name) for name in ("cifar10", "oxford_flowers102") for kind in kinds
    ]
    # Flowers has little to learn from: its validation too.
    sizes = [(job.bench.facts["train"], job.bench.facts["held_out"]) for job in jobs]
    few = EXAMPLES // 4
    assert sizes == [(EXAMPLES, few)] * 2 + [(EXAMPLES + few, few)] * 2
    for job in jobs:
        assert set(measured(job)) == {"top1", "top5", "per class"}


def test_all_sets_are_known_to_tfds() -> None:
    import tensorflow_datasets as tfds

    for name, _ in SETS.values():
        features = tfds.builder(name).info.features
        assert isinstance(features["image"], tfds.features.Image)
        assert isinstance(features["label"], tfds.features.ClassLabel)
    config = get_config()
    assert config.other.transfer_sets.split(",") == list(SETS)


def test_a_set_that_is_none_is_named(request_of) -> None:
    with pytest.raises(UserError, match="transfer_sets=food: choose from cifar10"):
        next(find_protocol("transfer").jobs(request_of(transfer_sets="cifar10,food")))
