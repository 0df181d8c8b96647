"""Fine-tuning on few labels: which lists, and what is said about them."""

import numpy as np
import pytest

from invariance_propagation.data.dataset import Dataset
from invariance_propagation.evaluation.protocols import find_protocol
from invariance_propagation.evaluation.protocols.semi import remarks_on_shares
from tests.evaluation.protocols.conftest import numbered


@pytest.mark.parametrize("part", [{}, {"num_train": 10}, {"split": "train[:9]"}])
def test_of_all_of_imagenet_the_published_lists_are_used(
    request_on, part: dict
) -> None:
    asked = []

    def load(*, name: str) -> Dataset:
        asked.append(name)
        return numbered(12)

    data = {"name": "imagenet", "split": "", "num_train": 0} | part
    request = request_on(12, data=data)._replace(load=load)
    ((job,),) = find_protocol("semi").jobs(request)
    published = ["imagenet_1pct", "imagenet_10pct"]
    assert asked == ([] if part else published)  # once each
    assert ("published" in job.settings["lists"]) == (not part)


def test_shares_that_are_the_same_images_are_noted(request_on) -> None:
    """Of 12 images in 4 classes, 1 % and 10 % are both one image of each class."""
    ((job,),) = find_protocol("semi").jobs(request_on(12))
    (remark,) = job.settings["remarks"]
    assert remark.startswith("1% and 10% of the labels are the same 4 images here")
    ((job,),) = find_protocol("semi").jobs(request_on(240))
    assert "remarks" not in job.settings
    ((job,),) = find_protocol("semi_1pct").jobs(request_on(12))
    assert "remarks" not in job.settings


def test_one_class_that_differs_is_enough() -> None:
    labels = np.array([0] * 10 + [1] * 11)
    assert remarks_on_shares(labels, (0.01, 0.1)) == []
    assert len(remarks_on_shares(labels[:20], (0.01, 0.1))) == 1
