"""The table of protocols, and what all of them have in common."""

import numpy as np
import pytest

from invariance_propagation.data.dataset import Dataset, Split
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.protocols import find_protocol


def test_a_card_says_how_it_was_trained_and_cropped(request_on) -> None:
    ((job,),) = find_protocol("linear").jobs(request_on(12))
    assert job.settings["optimizer"] == "SGD, momentum 0.9"
    assert job.settings["view"]["crop"] == {"train": "whole", "held_out": "whole"}


def labelled(train: list[int], held_out: list[int]) -> Dataset:
    return Dataset(
        "labelled",
        *(
            Split(np.zeros((len(x), 8, 8, 3), np.uint8), np.array(x, np.int32))
            for x in (train, held_out)
        ),
    )


def test_a_single_class_is_refused(request_of) -> None:
    for held_out in ([2, 2], [0, 1]):
        with pytest.raises(UserError, match="all 3 training images are of one class"):
            request_of().bench_of(labelled([2, 2, 2], held_out))


@pytest.mark.parametrize("protocol", ["knn", "linear", "semi", "svm"])
def test_labels_that_say_little_are_on_every_card(request_of, protocol: str) -> None:
    request = request_of()
    bench = request.bench_of(labelled([0, 1] * 4, [0, 1, 5]))
    ((job,),) = find_protocol(protocol).jobs(request._replace(bench=lambda: bench))
    remark, *more = job.settings["remarks"]
    assert remark.startswith("1 of 3 held-out images belong to classes without")
    # Four images are few for 96 a class, and 1 % of them are as many as 10 %.
    assert len(more) == (protocol in ("svm", "semi"))
