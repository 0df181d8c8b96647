"""Plots how a run went: one small plot for each quantity in metrics.jsonl."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from invariance_propagation.methods import Panel
from invariance_propagation.report.draw import (
    COLORS,
    DASHES,
    GRAY,
    STYLE,
    literal,
    new_figure,
)
from invariance_propagation.report.record import Record

USUAL = (
    Panel(
        "Learning rate",
        "per step",
        {"learning_rate": ""},
        "The rate of the schedule.",
        from_zero=True,
    ),
    Panel(
        "Speed",
        "images per second",
        {"images_per_second": ""},
        "Training speed of all devices together, without evaluation.",
        from_zero=True,
    ),
    Panel(
        "Waiting for data",
        "% of the time",
        {"waiting_for_data": ""},
        "The share of training time in which the devices had no images to work on.",
        100,
        from_zero=True,
    ),
)


def panels(records: Sequence[Record]) -> list[Panel]:
    """Returns the plots: those of each method, kNN, and those that every run has."""
    of_methods = [panel for record in records for panel in record.notes.panels]
    if not of_methods:
        of_methods = [
            Panel(
                "Loss", "per image", {"loss": ""}, "The loss that training minimises."
            )
        ]
    rows = [record.notes.rows for record in records if record.notes.rows]
    series = {"knn": "features", "knn_embedding": "embeddings"}
    series |= {f"knn_{name}": name for name in rows}
    against = "".join(f", or against the {name}" for name in dict.fromkeys(rows))
    scores = Panel(
        "kNN accuracy",
        "% of held-out images",
        series,
        "Accuracy of classifying held-out images by their nearest training images, "
        f"using the backbone's features or the head's embeddings{against}.",
        100,
    )
    by_title = {panel.title: panel for panel in of_methods}
    return [*by_title.values(), scores, *USUAL]


class Line(NamedTuple):
    """Holds a series of one run.

    Attributes:
      label: name in the legend.
      points: (epochs done, value) for each row that has a value.
    """

    label: str
    points: list[tuple[float, float]]


def lines(record: Record, panel: Panel) -> Iterator[Line]:
    """Yields the lines of one run that have points."""
    points_of: dict[str, list[tuple[float, float]]] = {}
    for row in record.rows:
        epochs = row["step"] / record.steps_per_epoch
        for key, name in panel.series.items():
            for label, value in _values(row, key, name):
                points_of.setdefault(label, []).append((epochs, panel.scale * value))
    yield from (Line(label, points) for label, points in points_of.items())


def draw(records: Sequence[Record], panel: Panel) -> tuple[Figure, str] | None:
    """Draws a plot; also returns the last value of each line, in words.

    Returns:
      None if there is nothing to plot.
    """
    shown = {record.name: [*lines(record, panel)] for record in records}
    if not any(shown.values()):
        return None
    figure = new_figure()
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot(
            title=panel.title, xlabel="epochs done", ylabel=panel.unit
        )
        ends = []
        for i, (name, of_a_run) in enumerate(shown.items()):
            for j, (label, points) in enumerate(of_a_run):
                # Colours distinguish runs or, if there is only one, its lines.
                color, dashes = (i, j) if len(records) > 1 else (j, 0)
                axes.plot(
                    *zip(*points, strict=True),
                    color=COLORS[color % len(COLORS)],
                    linestyle=DASHES[dashes % len(DASHES)],
                    marker="o" if len(points) < 10 else None,
                    markersize=4,
                    label=literal(_join(name if len(records) > 1 else "", label)),
                )
                ends.append(f"{_join(name, label)} {points[-1][1]:.4g}")
        for start in {record.notes.begins(record.rows) for record in records}:
            if not start:
                continue
            axes.axvline(start, color=GRAY, linestyle=":", linewidth=1.5)
        if len(ends) > 1:
            axes.legend(loc="best")
        axes.margins(y=0.08)
        axes.set_xlim(left=0)
        if panel.from_zero:
            axes.set_ylim(bottom=0)
    return figure, f"{panel.title}, at the end: {', '.join(ends)}"


def _values(row: dict[str, Any], key: str, name: str) -> Iterator[tuple[str, float]]:
    value = row.get(key)
    if isinstance(value, list):
        for number, part in enumerate(value, 1):
            if part is not None:
                yield f"{name} {number}", part
    elif value is not None:
        yield name, value


def _join(*words: str) -> str:
    return ", ".join(word for word in words if word)
