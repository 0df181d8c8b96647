"""Options of CoKe: what 'auto' means, what does not fit, and what a run is told."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from configs import imagenet
from invariance_propagation.errors import UserError
from invariance_propagation.methods.coke.options import clusters_for
from tests.methods.coke import made


@pytest.mark.parametrize(
    ("num_examples", "expected"),
    [
        (1_281_167, (3000, 4000, 5000)),
        (60_000, (3000, 4000, 5000)),
        (1347, (89, 118, 148)),
        (20, (6, 8, 10)),
    ],
)
def test_auto_follows_the_number_of_images(num_examples, expected) -> None:
    assert clusters_for(7, num_examples=num_examples) == (7,)
    assert clusters_for("auto", num_examples=num_examples) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"views": "three"},
            "method.views='three': choose one of one, two, multi_crop",
        ),
        (
            {"num_clusters": (5, 36)},
            "method.num_clusters=(5, 36): set each from 2 to 35",
        ),
        ({"num_clusters": (1,)}, "method.num_clusters=(1,): set each from 2"),
        ({"num_clusters": ()}, "method.num_clusters=(): set it to one whole number"),
        ({"num_clusters": 36}, "method.num_clusters=(36,): set each from 2 to 35"),
        ({"num_clusters": "many"}, "method.num_clusters='many': set it to one"),
        ({"num_clusters": (5.0,)}, "method.num_clusters=(5.0,): set it to one"),
        ({"least_size": 1.1}, "method.least_size=1.1: set it from 0 to 1"),
        ({"hard_weight": -1}, "method.hard_weight=-1: set it from 0 to 1"),
        ({"prediction_weight": 2}, "method.prediction_weight=2: set it from 0 to 1"),
        ({"large_weight": 2}, "method.large_weight=2: set it from 0 to 1"),
        ({"dual_rate": 0}, "method.dual_rate=0: set it above 0"),
        ({"temperature": 0}, "method.temperature=0: set it above 0"),
        ({"slot_temperature": 0}, "method.slot_temperature=0: set it above 0"),
        ({"num_small": 0}, "method.num_small=0: set it to 1 or above"),
        ({"average_from": 0}, "method.average_from=0: set it to 1 or above"),
        ({"num_slots": 1}, "method.num_slots=1: set it to 2 or above"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        made.make_method(**changes)


def test_groups_that_are_not_used_may_be_set_up() -> None:
    def groups(kind: str) -> dict[str, int]:
        return dict(made.make_method(views=kind).requires.views)

    assert groups("one") == {"view": 1, "first": 0, "second": 0, "small": 0}
    assert groups("two") == {"view": 0, "first": 1, "second": 1, "small": 0}
    assert groups("multi_crop") == {"view": 0, "first": 1, "second": 1, "small": 3}


def test_what_a_run_is_told() -> None:
    one = made.make_method(views="one", average_from=20).notes
    assert one.about == "clusterings into 5, 9" and one.starts == 20
    assert one.warnings(21) == []
    (warning,) = one.warnings(20)
    assert "from epoch 20 on, and this run has 20 epochs" in warning
    two = made.make_method(views="two").notes
    assert two.starts is None and two.warnings(20) == []
    # q and p of 5 views, 64 images over 4 devices, 14 centres, 4 bytes.
    many = made.make_method(views="multi_crop").notes
    assert many.buffers(64, 4, "cpu") == {"logits": 2 * 5 * 16 * 14 * 4}


def test_images_without_a_cluster_are_one_more() -> None:
    method = made.make_method()
    memory = method.init_memory(jax.random.key(0), {})
    labels = np.arange(made.N) % 3
    scores = method.notes.measure(memory, labels, np.arange(made.N))
    assert scores["cluster_purity"] == pytest.approx((labels == 0).mean())
    strips, text = method.notes.gallery.strips(memory, 4, None)
    assert strips[0].title == "cluster 5" and len(strips[0].indices) == made.N - 1
    assert text == f"{made.N} images are in this cluster"


def test_imagenet_embeds_anew_where_no_rows_are_kept() -> None:
    assert imagenet.get_config("coke").knn.embed_anew
    assert not imagenet.get_config().knn.embed_anew
