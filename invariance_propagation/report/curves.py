"""How a run went: one small plot for each thing that its rows hold."""

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
        "As scheduled.",
        from_zero=True,
    ),
    Panel(
        "Speed",
        "images per second",
        {"images_per_second": ""},
        "Training steps on all devices together, evaluation not counted.",
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
    """Returns what to plot: each method's own panels, kNN, and what every run has."""
    own = [panel for record in records for panel in record.notes.panels]
    if not own:
        own = [
            Panel("Loss", "of an image", {"loss": ""}, "What training makes smaller.")
        ]
    rows = [record.notes.rows for record in records if record.notes.rows]
    series = {"knn": "features", "knn_embedding": "embeddings"}
    series |= {f"knn_{name}": name for name in rows}
    against = "".join(f", or against the {name}" for name in dict.fromkeys(rows))
    scores = Panel(
        "kNN accuracy",
        "% of held-out images",
        series,
        "Held-out images classified by the votes of their nearest training images: by "
        f"the backbone's features, by the head's embeddings{against}.",
        100,
    )
    by_title = {panel.title: panel for panel in own}
    return [*by_title.values(), scores, *USUAL]


class Line(NamedTuple):
    """A series of one run: its label, and (epochs done, value) of each row."""

    label: str
    points: list[tuple[float, float]]


def lines(record: Record, panel: Panel) -> Iterator[Line]:
    """The lines of one run that have points."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in record.rows:
        epochs = row["step"] / record.steps_per_epoch
        for key, name in panel.series.items():
            for label, value in _values(row, key, name):
                found.setdefault(label, []).append((epochs, panel.scale * value))
    yield from (Line(label, points) for label, points in found.items())


def draw(records: Sequence[Record], panel: Panel) -> tuple[Figure, str] | None:
    """The plot, and where each line ends, in words; None where there is nothing."""
    shown = {record.name: [*lines(record, panel)] for record in records}
    if not any(shown.values()):
        return None
    figure = new_figure()
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot(
            title=panel.title, xlabel="epochs done", ylabel=panel.unit
        )
        ends = []
        for i, (name, own) in enumerate(shown.items()):
            for j, (label, points) in enumerate(own):
                # Colours tell runs apart, or, of a single run, its lines.
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
