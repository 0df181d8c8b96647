"""What is said when propagation starts, and when it is not."""

from typing import Any

import pytest

from invariance_propagation.announce import (
    changed_settings,
    collapse,
    propagation_starts,
)

OFF = {"epoch": 1, "propagation_weight": 0.0, "neighbor_overlap": 0.25}
ON = {"epoch": 2, "propagation_weight": 0.6, "neighbor_overlap": 0.3}


class Spoken(list):
    """Stands in for a `Progress`."""

    say = list.append


def spoken(row: dict[str, Any], before: dict[str, Any]) -> Spoken:
    said = Spoken()
    propagation_starts(row, before, said)
    return said


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
    assert "method.start_epoch > 2" in warning


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


def test_what_is_learnt_otherwise_from_here_on_is_named(capsys) -> None:
    before = {"method": {"temperature": 0.1, "old": 1}, "train": {"epochs": 3}}
    changed_settings(before, before)
    # What is new or gone is this program's doing; more epochs are asked for by name.
    other = {"method": {"temperature": 0.1, "new": 2}, "train": {"epochs": 4}}
    changed_settings(before | {"knn": {"k": 1}}, other | {"knn": {"k": 2}})
    assert capsys.readouterr().out == ""
    changed_settings(before, {"method": {"temperature": 0.2}})
    assert "has method.temperature = 0.1 so far, and 0.2 from here on" in (
        capsys.readouterr().out
    )


def test_a_collapse_is_told_once_and_not_of_the_first_epochs() -> None:
    said, before = Spoken(), {}
    for epoch, similarity in enumerate([0.99] * 10 + [0.5, 0.95, 0.96, 0.2]):
        row = {"epoch": epoch, "similarity": similarity}
        collapse(row, before, said)
        before = row
    (warning,) = said
    assert warning.startswith("warning: in epoch 11 all images have nearly the same")
    assert "mean cosine 0.95" in warning and "optimizer.warmup_epochs" in warning
