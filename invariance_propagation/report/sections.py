"""Builds the sections of the page; each gets all runs, and '' means nothing to show."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from invariance_propagation.errors import percent
from invariance_propagation.evaluation import meaning
from invariance_propagation.report import curves, draw, embedding_map, health, page
from invariance_propagation.report.provenance import cards, config
from invariance_propagation.report.record import Record
from invariance_propagation.report.thumbnails import (
    NEAREST_LEGEND,
    method_gallery,
    method_legend,
    nearest_gallery,
)
from invariance_propagation.train.monitor import has_scores

MAPPED = 2000  # images in a map; t-SNE takes seconds for this many


def summary(records: Sequence[Record]) -> str:
    """Shows what was trained on what, the results, and what the report lacks."""
    runs = names_of(records)
    missing = [
        page.paragraph(page.attributed(runs, record.name, sentence), "warning")
        for record in records
        for sentence in record.missing
    ]
    remarks = [
        page.note(page.attributed(runs, record.name, f"{sentence}."))
        for record in records
        for sentence in _remarks(record)
    ]
    table = page.columns(runs, [*map(_outcome, records)])
    return page.block("", [table, *remarks, *missing])


def curve_plots(records: Sequence[Record]) -> str:
    """Shows a small plot for each quantity in metrics.jsonl."""

    def plots() -> Iterator[str]:
        for panel in curves.panels(records):
            drawn = curves.draw(records, panel)
            if drawn is not None:
                figure, ends = drawn
                yield page.plot(draw.svg(figure), ends, panel.meaning)

    marked = any(record.notes.begins(record.rows) for record in records)
    note = "A dotted line marks where a part of the loss starts." if marked else ""
    return page.block("", [page.note(note), page.block("plots", plots())])


def health_table(records: Sequence[Record]) -> str:
    """Shows numbers that reveal a collapse, with a verdict for each run."""
    measured = {
        record.name: health.measure(record.rows_of_memory, record.memory.neighbors)
        for record in records
        if record.rows_of_memory is not None
    }
    if not measured:
        return ""
    runs, sentences = names_of(records), []
    for name, x in measured.items():
        warnings = [(text, "warning") for text in health.warnings(x)]
        for text, kind in warnings or [("Nothing here looks like a collapse.", "good")]:
            sentences.append((page.attributed(runs, name, text), kind))
    degrees = {name: x.degrees for name, x in measured.items() if x.degrees is not None}
    rows = [
        (name, note, *(write(x) for x in measured.values()))
        for name, note, write in _HEALTH
    ]
    rows += [
        (name, note, *(write(degrees[x]) if x in degrees else "" for x in measured))
        for name, note, write in (_DEGREES if degrees else ())
    ]
    plots = (
        page.plot(
            draw.svg(embedding_map.draw_degrees(x.counts, name)),
            f"in-degree of {name}: at most {x.counts.max()}",
            "How often images are neighbours of others. A long tail to the right means "
            "hubs: images that are neighbours of many.",
        )
        for name, x in degrees.items()
    )
    return "\n".join(
        [
            *(page.paragraph(*sentence) for sentence in sentences),
            page.table([*measured], rows),
            page.block("plots", plots),
        ]
    )


def galleries(records: Sequence[Record]) -> dict[str, str]:
    """Shows what each method does with some anchors, under the method's title."""
    titles = [r.notes.gallery.title for r in records if r.notes.gallery is not None]
    return {title: _gallery(title, records) for title in dict.fromkeys(titles)}


def _gallery(title: str, records: Sequence[Record]) -> str:
    def show(record: Record) -> list[str]:
        gallery = record.notes.gallery
        shown = gallery is not None and gallery.title == title
        return method_gallery(record) if shown else []

    return page.side_by_side(
        names_of(records), [*map(show, records)], method_legend(records, title)
    )


def nearest(records: Sequence[Record]) -> str:
    """Shows the nearest training images of some held-out images."""
    return page.side_by_side(
        names_of(records), [*map(nearest_gallery, records)], NEAREST_LEGEND
    )


def maps(records: Sequence[Record]) -> str:
    """Shows embeddings in two dimensions."""
    return page.side_by_side(
        names_of(records),
        [*map(_map, records)],
        page.paragraph(
            "Each point is a training image, placed by its row of the memory. Labels, if "
            "there are any, only set the colours; training did not use them. In a t-SNE "
            "map only close neighbours mean something, not the distance between groups."
        ),
    )


def names_of(records: Sequence[Record]) -> list[str]:
    """Returns the names of the runs."""
    return [record.name for record in records]


# The section under each heading; `galleries` follow HEALTH.
HEALTH = "Health"
SECTIONS: dict[str, Callable[[Sequence[Record]], str]] = {
    "Summary": summary,
    "Curves": curve_plots,
    HEALTH: health_table,
    "Nearest neighbours": nearest,
    "Map": maps,
    "Evaluation": cards,
    "Config and versions": config,
}
_HEALTH: tuple[tuple[str, str, Callable[[health.Health], str]], ...] = (
    (
        "effective rank",
        "How many dimensions the embeddings fill (RankMe). 1: they all lie on a line.",
        lambda x: f"{x.rank:.1f} of {x.dim}",
    ),
    (
        "uniformity",
        "0: all in one place; near -4: spread evenly over the sphere.",
        lambda x: f"{x.uniformity:.2f}",
    ),
    (
        "mean similarity",
        "Mean cosine of two images. 1: all alike; about 0: like random directions.",
        lambda x: f"{x.similarity:.2f}",
    ),
)
_DEGREES: tuple[tuple[str, str, Callable[[health.Degrees], str]], ...] = (
    (
        "skewness of the in-degree",
        "How unevenly images are named as neighbours. Near 0: evenly; well above 0: "
        "there are hubs, which many images name.",
        lambda x: f"{x.skewness:.2f}",
    ),
    (
        "most named",
        "The share of images that name the most frequent neighbour.",
        lambda x: percent(x.most_named),
    ),
    (
        "never named",
        "Images that are nobody's neighbour.",
        lambda x: percent(x.never_named),
    ),
)


def _outcome(record: Record) -> dict[str, str]:
    last = record.rows[-1]
    facts = {}
    if record.facts:
        count, name = record.facts["num_examples"], record.facts["dataset"]
        facts["training images"] = f"{count:,} of {name}"
    facts["steps done"] = f"{last['step']:,}"
    facts["epochs done"] = f"{last['step'] / record.steps_per_epoch:g}"
    options = record.config.get("method", {})
    if "name" in options:
        facts["method"] = _method_name(options)
    facts |= record.notes.outcome(record.rows, record.summary, options)
    scores = list(filter(has_scores, record.rows))
    shares = {"kNN, raw pixels": record.summary.get("knn_raw_pixels")}
    if scores:
        untrained, trained = scores[0], scores[-1]
        shares["kNN, untrained features"] = untrained.get("knn")
        shares["kNN, features"] = trained.get("knn")
        shares["kNN, embeddings"] = trained.get("knn_embedding")
        if record.notes.rows:
            name = record.notes.rows
            shares[f"kNN, {name}"] = trained.get(f"knn_{name}")
    return facts | {
        name: percent(share) for name, share in shares.items() if share is not None
    }


def _remarks(record: Record) -> list[str]:
    """Returns what limits the meaning of the scores, as far as it is known."""
    known = list(record.summary.get("remarks", ()))
    if record.dataset is not None and record.dataset.held_out is not None:
        labels = record.dataset.train.labels, record.dataset.held_out.labels
        if all(x is not None for x in labels):
            known += meaning.remarks(*labels)
    return list(dict.fromkeys(known))


def _method_name(options: Mapping[str, Any]) -> str:
    """Names a method, and the one that it wraps, as --config=CONFIG:METHOD does."""
    inner = options.get("inner")
    return options["name"] + (f"+{_method_name(inner)}" if inner else "")


def _map(record: Record) -> list[str]:
    whole = record.rows_of_memory
    if whole is None or len(whole) < embedding_map.FEWEST:
        return []
    indices = health.spread(len(whole), MAPPED)
    rows = health.unit_rows(whole[indices])
    labels, class_name = None, str
    if record.dataset is not None and record.dataset.train.labels is not None:
        labels = np.asarray(record.dataset.train.labels)[indices]
        class_name = record.dataset.class_name
    caption = f"{len(indices):,} of {len(whole):,} training images."
    if labels is not None and len(np.unique(labels)) > embedding_map.MOST_CLASSES:
        caption += " There are too many classes to show in different colours."
    plots = []
    for title, points in embedding_map.project(rows).items():
        figure = embedding_map.draw(title, points, labels, class_name)
        plots.append(page.plot(draw.png(figure), f"{title}: {caption}", caption))
    return plots
