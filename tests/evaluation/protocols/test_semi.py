"""Fine-tuning on few labels: which lists, and what is said about them."""

import pytest

from invariance_propagation.data.dataset import Dataset
from invariance_propagation.evaluation.protocols import find_protocol
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
