"""How a run went: one small plot for each thing that its rows hold."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

from invariance_propagation.report.draw import (
    COLORS,
    DASHES,
    GRAY,
    STYLE,
    literal,
    new_figure,
)
from invariance_propagation.report.record import Record

HOPS = "purity_by_hop"


class Panel(NamedTuple):
    """A plot.

    Attributes:
      title: what is shown.
      unit: of the vertical axis.
      series: keys of rows, and what a legend calls them.
      meaning: a sentence on how to read it.
      scale: what to multiply with, 100 for percent.
      from_zero: whether the vertical axis starts there.
    """

    title: str
    unit: str
    series: dict[str, str]
    meaning: str
    scale: float = 1.0
    from_zero: bool = False


PANELS = (
    Panel(
        "Instance loss",
        "nats per image",
        {"instance": ""},
        "How hard it is to tell an image from all others. Falls as training goes on.",
    ),
    Panel(
        "Propagation loss",
        "nats per image",
        {"propagation": ""},
        "How far the positives are from their anchor, beside the most similar other "
        "images. Before propagation starts it is only watched.",
    ),
    Panel(
        "kNN accuracy",
        "% of held-out images",
        {
            "knn": "features",
            "knn_embedding": "embeddings",
            "knn_bank": "bank",
        },
        "Held-out images classified by the votes of their nearest training images: by "
        "the backbone's features, by the head's embeddings, or against the bank.",
        100,
    ),
    Panel(
        "Purity of the positives",
        "% with the anchor's label",
        {HOPS: "hop"},
        "Of all that propagation reaches, the share that has the anchor's label. "
        "Labels are used for this plot alone. Further hops are less pure.",
        100,
    ),
    Panel(
        "Neighbours found again",
        "% of an image's neighbours",
        {"neighbor_overlap": ""},
        "The share of an image's neighbours that are found again at its next visit; "
        "needs no labels. Near 0 the graph is made anew each epoch.",
        100,
        from_zero=True,
    ),
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
        for start in {record.start_epoch for record in records} - {None, 0}:
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
