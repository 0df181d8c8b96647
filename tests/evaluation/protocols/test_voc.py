"""SVMs on PASCAL VOC 2007, on mock data of TFDS."""

from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.data.sources.voc import targets_of, voc2007
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols import find_protocol, svm
from tests.evaluation.protocols.conftest import EXAMPLES
from tests.evaluation.protocols.jobs import measured


def test_voc_learns_from_trainval(stored: Path, request_of, monkeypatch) -> None:
    monkeypatch.setattr(svm, "LOW_SHOT", (1,))
    monkeypatch.setattr(svm, "DRAWS", 2)
    ((job,),) = find_protocol("voc07_svm").jobs(request_of(tfds_folder=str(stored)))
    train, held_out = job.bench.dataset.train, job.bench.dataset.held_out
    few = EXAMPLES // 4
    assert train.labels.shape == (EXAMPLES + few, 20) and train.labels.dtype == np.int8
    assert held_out.labels.shape == (few, 20)
    assert job.bench.num_classes == 20
    assert set(np.unique(train.labels)) == {-1, 0, 1}
    rows = [train.images.content.source[i] for i in range(len(train.labels))]
    for row, targets in zip(rows, train.labels, strict=True):
        sure = set(row["labels_no_difficult"])
        assert set(np.flatnonzero(targets == 1)) == sure
        assert set(np.flatnonzero(targets == -1)) == set(row["labels"]) - sure
    assert set(measured(job)) == {"mAP", "1 a class"}
    assert not job.by_chance
    assert job.version == 3
    assert job.settings["options"]["average_precision"] == "interpolated"


def test_what_is_hard_to_tell_is_ignored() -> None:
    row = {"labels": np.array([3, 7, 7, 19]), "labels_no_difficult": np.array([7])}
    targets = targets_of(row)
    assert targets.tolist() == [{3: -1, 7: 1, 19: -1}.get(i, 0) for i in range(20)]


def test_a_missing_set_is_named(tmp_path: Path, cache) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        voc2007(str(tmp_path / "nowhere"), size=8)


def test_a_protocol_names_its_own_key_for_the_folder(
    tmp_path: Path, request_of
) -> None:
    request = request_of(tfds_folder=str(tmp_path / "nowhere"))
    for protocol in ("voc07_svm", "places"):
        with pytest.raises(UserError, match=r"\(--config.other.tfds_folder=DIR\)$"):
            list(find_protocol(protocol).jobs(request))
