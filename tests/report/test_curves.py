"""Curves show the values of the rows."""

from pathlib import Path

import numpy as np
import pytest

from invariance_propagation.methods import Notes
from invariance_propagation.report import curves
from invariance_propagation.report.draw import COLORS
from invariance_propagation.report.record import Record
from tests.methods.invariance_propagation.test_method import make_method
from tests.report.finished_run import OVERLAPS, rows

NOTES = make_method().notes


def record(name: str = "one", **changes: object) -> Record:
    """Makes the record of a run without a checkpoint."""
    known = Record(name, Path(), rows(), {}, {}, None, NOTES, None, [], [])
    return known._replace(**changes)


PANELS = {panel.title: panel for panel in curves.panels([record()])}


def drawn(records: list[Record], title: str) -> list[tuple[str, str, list, list]]:
    figure, _ = curves.draw(records, PANELS[title])
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == title
    assert axes.get_xlabel() == "epochs done" and axes.get_ylabel()
    return [
        (line.get_label(), line.get_color(), *map(list, line.get_data()))
        for line in axes.lines
    ]


def test_epochs_and_percent() -> None:
    (line, start) = drawn([record()], "Neighbours found again")
    assert line[2:] == ([1, 2, 3], [100 * x for x in OVERLAPS])
    # Propagation has a weight from the second epoch on, after one epoch.
    np.testing.assert_array_equal(start[2], [1, 1])


def test_of_one_run_colours_tell_lines_apart() -> None:
    features, embeddings, bank, _ = drawn([record()], "kNN accuracy")
    assert features == ("features", COLORS[0], [0], [75])
    assert embeddings == ("embeddings", COLORS[1], [0], [50])
    assert bank == ("bank", COLORS[2], [0], [25])


def test_purity_is_drawn_hop_by_hop_where_it_is_defined() -> None:
    first, second, _ = drawn([record()], "Purity of the positives")
    assert first[0] == "hop 1" and first[2:] == ([1, 2, 3], [75] * 3)
    assert second[0] == "hop 2" and second[2:] == ([1, 2, 3], [50] * 3)


def test_of_several_runs_colours_tell_runs_apart() -> None:
    one, other = record(), record("other", rows=rows()[:3])
    lines = drawn([one, other], "Purity of the positives")
    labels = [label for label, *_ in lines[:4]]
    assert labels == ["one, hop 1", "one, hop 2", "other, hop 1", "other, hop 2"]
    colors = [color for _, color, *_ in lines[:4]]
    assert colors == [COLORS[0], COLORS[0], COLORS[1], COLORS[1]]
    assert lines[2][2] == [1, 2]


def test_without_checkpoint_rows_tell_how_long_an_epoch_is() -> None:
    assert record().steps_per_epoch == 3
    assert record(rows=rows()[:1]).steps_per_epoch == 1


@pytest.mark.parametrize("title", PANELS)
def test_what_a_run_lacks_is_not_drawn(title: str) -> None:
    assert curves.draw([record()], PANELS[title]) is not None
    bare = record(rows=[{"step": 3, "epoch": 0}])
    assert curves.draw([bare], PANELS[title]) is None


def test_the_ends_are_told_in_words() -> None:
    _, words = curves.draw([record()], PANELS["Instance loss"])
    assert words == "Instance loss, at the end: one 2"


def test_a_method_without_panels_has_its_loss() -> None:
    titles = [panel.title for panel in curves.panels([record(notes=Notes())])]
    assert titles[:2] == ["Loss", "kNN accuracy"] and "Propagation loss" not in titles
    assert [*PANELS][0] == "Instance loss" and "Loss" not in PANELS
