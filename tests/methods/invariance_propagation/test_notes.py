"""The message when propagation starts, and when there is none."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from configs import digits
from invariance_propagation.methods import Problem, make_from
from invariance_propagation.methods.invariance_propagation.notes import describe_start
from invariance_propagation.methods.invariance_propagation.readiness import (
    NOT_YET,
    Readiness,
)
from invariance_propagation.models import Encoder
from tests import tiny

OFF = {"epoch": 1, "propagation_weight": 0.0, "neighbor_overlap": 0.25}
ON = {"epoch": 2, "propagation_weight": 0.6, "neighbor_overlap": 0.3}


def spoken(row: dict[str, Any], before: dict[str, Any], chance: float = 0.0) -> list:
    return describe_start(row, before, chance=chance)


def test_what_was_known_before_it_started() -> None:
    before = OFF | {"purity": 0.5, "purity_by_hop": [0.75, 0.5]}
    (text,) = spoken(ON, before)
    assert text == (
        "epoch 2: propagation starts; neighbours kept between visits 25.00 %; purity of "
        "the positives 50.00 % (by hop 75.00 %, 50.00 %)"
    )


def test_a_graph_that_is_new_each_epoch_is_warned_of() -> None:
    _, warning = spoken(ON, OFF | {"neighbor_overlap": 0.04})
    assert warning.startswith("warning: fewer than 5.00 %")
    assert "--config.method.start_epoch above 2" in warning


def test_what_chance_keeps_does_not_count() -> None:
    # 4 of 99 others are 4 %, half of the 8 % that are kept.
    kept = OFF | {"neighbor_overlap": 0.08}
    assert len(spoken(ON, kept)) == 1
    _, warning = spoken(ON, kept, chance=4 / 99)
    assert "between visits beyond the 4.04 % of chance, so the graph" in warning


@pytest.mark.parametrize(
    "row, before",
    [
        (ON, ON),
        (OFF, OFF),
        (ON, {}),  # as with ramp='gaussian'
        (ON, {"epoch": 1, "loss": 2.0}),  # of a method that measures no overlap
    ],
)
def test_there_is_nothing_to_say(row: dict, before: dict) -> None:
    assert spoken(row, before) == []


class Memory(NamedTuple):
    readiness: Readiness


@pytest.mark.parametrize("name", ["method", "method.inner"])
def test_a_start_by_itself_that_never_came_is_said(name: str) -> None:
    config = digits.get_config("unmix" if "inner" in name else "")
    section = config.method.get("inner", config.method)
    section.start, section.ramp = "auto", "binary"
    notes = make_from(config.method, problem(), key="method").notes
    waiting = Readiness(np.float32(0.0125), np.int32(NOT_YET))
    (remark,) = notes.remarks(Memory(waiting))
    assert "1.25 % at the end, did not reach the 5.20 % of " in remark
    assert f"{name}.start=auto" in remark and f"lower {name}.start_overlap" in remark
    assert notes.remarks(Memory(waiting._replace(since=np.int32(7)))) == []
    section.start = "epoch"
    notes = make_from(config.method, problem(), key="method").notes
    assert notes.remarks(Memory(waiting)) == []


def problem() -> Problem:
    encoder = Encoder(tiny.TinyBackbone(None), "linear", dim=8)
    return Problem(
        encoder=encoder,
        num_examples=2001,
        batch_size=20,
        steps_per_epoch=100,
        axis_name=None,
    )
