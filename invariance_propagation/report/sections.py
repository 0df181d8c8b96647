"""The parts of the page, each from all runs: '' where there is nothing to show."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from invariance_propagation.errors import percent
from invariance_propagation.report import curves, draw, embedding_map, health, page
from invariance_propagation.report.provenance import cards, config
from invariance_propagation.report.record import Record
from invariance_propagation.report.runs import beside, each, of
from invariance_propagation.report.thumbnails import (
    NEAREST_LEGEND,
    method_gallery,
    method_legend,
    nearest_gallery,
)
from invariance_propagation.train.monitor import has_scores

MAPPED = 2000  # images of a map; t-SNE of so many takes seconds


def summary(records: Sequence[Record]) -> str:
    """What was trained on what, what came out, and what is missing here."""
    missing = [
        page.paragraph(of(records, record, sentence), "warning")
        for record in records
        for sentence in record.missing
    ]
    return page.block("", [beside(records, _outcome), *missing])


def curve_plots(records: Sequence[Record]) -> str:
    """A small plot for each thing that rows hold."""

    def plots() -> Iterator[str]:
        for panel in curves.panels(records):
            drawn = curves.draw(records, panel)
            if drawn is not None:
                figure, ends = drawn
                yield page.plot(draw.svg(figure), ends, panel.meaning)

    begun = any(record.notes.begins(record.rows) for record in records)
    note = "Dotted: where a part of the loss starts." if begun else ""
    return page.block("", [page.note(note), page.block("plots", plots())])


def health_table(records: Sequence[Record]) -> str:
    """Numbers that show a collapse, a sentence for each that does, and the in-degree."""
    measured = {
        record.name: health.measure(record.memory.rows, record.memory.neighbors)
        for record in records
        if record.memory is not None
    }
    if not measured:
        return ""
    sentences = []
    for record in records:
        if record.name in measured:
            found = health.warnings(measured[record.name])
            sentences += [(of(records, record, text), "warning") for text in found] or [
                (of(records, record, "Nothing here looks like a collapse."), "good")
            ]
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
            "Images by how often others name them as a neighbour. A long tail to the "
            "right: hubs.",
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
    """Shows what each method does with some anchors, by the method's own title."""
    titles = [r.notes.gallery.title for r in records if r.notes.gallery is not None]
    return {title: _gallery(title, records) for title in dict.fromkeys(titles)}


def _gallery(title: str, records: Sequence[Record]) -> str:
    def show(record: Record) -> list[str]:
        own = record.notes.gallery
        if own is None or own.title != title:
            return []
        return method_gallery(record)

    return each(records, show, method_legend(records, title))


def nearest(records: Sequence[Record]) -> str:
    """What is nearest to some images that were not trained on."""
    return each(records, nearest_gallery, NEAREST_LEGEND)


def maps(records: Sequence[Record]) -> str:
    """Embeddings in two dimensions."""
    return each(
        records,
        _map,
        page.paragraph(
            "A point is a training image, by its row of the memory. Labels, where there "
            "are any, are for the eye alone; they had no part in training. Of t-SNE "
            "only who lies beside whom means something, not how far groups are apart."
        ),
    )


# What each heading is followed by; `galleries` come after HEALTH.
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
        "Dimensions that the embeddings fill (RankMe). 1: all lie on a line.",
        lambda x: f"{x.rank:.1f} of {x.dim}",
    ),
    (
        "uniformity",
        "0: all in one place; near -4: spread evenly over the sphere.",
        lambda x: f"{x.uniformity:.2f}",
    ),
    (
        "mean similarity",
        "Cosine of two images. 1: all alike; about 0: as unlike as chance has it.",
        lambda x: f"{x.similarity:.2f}",
    ),
)
_DEGREES: tuple[tuple[str, str, Callable[[health.Degrees], str]], ...] = (
    (
        "skewness of the in-degree",
        "How uneven it is how often an image is named as a neighbour. Near 0: even; "
        "some way above: hubs, which many name.",
        lambda x: f"{x.skewness:.2f}",
    ),
    (
        "most named",
        "The share of all others that name the image named most.",
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
    found = {"steps done": f"{last['step']:,}"}
    found["epochs done"] = f"{last['step'] / record.steps_per_epoch:g}"
    if record.facts:
        count, name = record.facts["num_examples"], record.facts["dataset"]
        found = {"training images": f"{count:,} of {name}"} | found
    options = record.config.get("method", {})
    found |= record.notes.outcome(record.rows, record.summary, options)
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
    return found | {
        name: percent(share) for name, share in shares.items() if share is not None
    }


def _map(record: Record) -> list[str]:
    if record.memory is None or len(record.memory.rows) < embedding_map.FEWEST:
        return []
    indices = health.spread(len(record.memory.rows), MAPPED)
    rows = health.unit_rows(record.memory.rows[indices])
    labels, class_name = None, str
    if record.dataset is not None and record.dataset.train.labels is not None:
        labels = np.asarray(record.dataset.train.labels)[indices]
        class_name = record.dataset.class_name
    caption = f"{len(indices):,} of {len(record.memory.rows):,} training images."
    if labels is not None and len(np.unique(labels)) > embedding_map.MOST_CLASSES:
        caption += " There are more classes than colours could tell apart."
    parts = []
    for title, points in embedding_map.project(rows).items():
        figure = embedding_map.draw(title, points, labels, class_name)
        parts.append(page.plot(draw.png(figure), f"{title}: {caption}", caption))
    return parts
