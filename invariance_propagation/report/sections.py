"""The parts of the page, each from all runs: '' where there is nothing to show."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from invariance_propagation.monitor import percent
from invariance_propagation.report import curves, draw, embedding_map, health, page
from invariance_propagation.report.record import Record
from invariance_propagation.report.thumbnails import (
    NEAREST_LEGEND,
    nearest_gallery,
    propagation_gallery,
    propagation_legend,
)

MAPPED = 2000  # images of a map; t-SNE of so many takes seconds


def summary(records: Sequence[Record]) -> str:
    """What was trained on what, what came out, and what is missing here."""
    missing = [
        page.paragraph(_of(records, record, sentence), "warning")
        for record in records
        for sentence in record.missing
    ]
    return page.block("", [_side_by_side(records, _outcome), *missing])


def curve_plots(records: Sequence[Record]) -> str:
    """A small plot for each thing that rows hold."""

    def plots() -> Iterator[str]:
        for panel in curves.PANELS:
            drawn = curves.draw(records, panel)
            if drawn is not None:
                figure, ends = drawn
                yield page.plot(draw.svg(figure), ends, panel.meaning)

    return page.block("plots", plots())


def health_table(records: Sequence[Record]) -> str:
    """Numbers that show a collapse, a sentence for each that does, and the in-degree."""
    measured = {
        record.name: health.measure(record.memory.bank, record.memory.graph)
        for record in records
        if record.memory is not None
    }
    if not measured:
        return ""
    sentences = []
    for record in records:
        if record.name in measured:
            found = health.warnings(measured[record.name])
            sentences += [
                (_of(records, record, text), "warning") for text in found
            ] or [(_of(records, record, "Nothing here looks like a collapse."), "good")]
    rows = [
        (name, note, *(write(x) for x in measured.values()))
        for name, note, write in _HEALTH
    ]
    plots = (
        page.plot(
            draw.svg(embedding_map.draw_degrees(x.degrees, name)),
            f"in-degree of {name}: at most {x.degrees.max()}",
            "In a healthy graph most images are named about k times and few are not.",
        )
        for name, x in measured.items()
    )
    return "\n".join(
        [
            *(page.paragraph(*sentence) for sentence in sentences),
            page.table([*measured], rows),
            page.block("plots", plots),
        ]
    )


def propagation(records: Sequence[Record]) -> str:
    """What is reached from some anchors."""
    return _each(records, propagation_gallery, propagation_legend(records))


def nearest(records: Sequence[Record]) -> str:
    """What is nearest to some images that were not trained on."""
    return _each(records, nearest_gallery, NEAREST_LEGEND)


def maps(records: Sequence[Record]) -> str:
    """Embeddings in two dimensions."""
    return _each(
        records,
        _map,
        page.paragraph(
            "A point is a training image, by its row of the bank. Labels, where there "
            "are any, are for the eye alone; they had no part in training. Of t-SNE "
            "only who lies beside whom means something, not how far groups are apart."
        ),
    )


def cards(records: Sequence[Record]) -> str:
    """Scores of the evaluations that have been made, each with what it depends on."""
    parts = []
    for record in records:
        for name, card in record.cards.items():
            text = json.dumps(card, indent=2, ensure_ascii=False)
            shown = page.details(_of(records, record, card_title(name, card)), text)
            parts.append(shown)
    return page.block("", parts)


def config(records: Sequence[Record]) -> str:
    """Where the runs differ, and all keys of each; what they were made with."""
    known = [record for record in records if record.facts]
    if not known:
        return ""
    keys = {record.name: leaves(record.config) for record in known}
    every = dict.fromkeys(key for own in keys.values() for key in own)
    differ = {
        key: ("", *values)
        for key in every
        if len(set(values := [json.dumps(own.get(key)) for own in keys.values()])) > 1
    }
    versions = _side_by_side(known, lambda record: record.facts.get("versions", {}))
    parts = [page.heading("Versions"), versions] if versions else []
    if len(known) > 1:
        parts.append(page.heading("Where the configs differ"))
        parts.append(
            page.table([*keys], [(key, *cells) for key, cells in differ.items()])
            or page.paragraph("Nowhere.")
        )
    for name, own in keys.items():
        text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in own.items())
        parts.append(page.details(f"All keys of {name}", text))
    return "\n".join(parts)


# What each heading is followed by.
SECTIONS: dict[str, Callable[[Sequence[Record]], str]] = {
    "Summary": summary,
    "Curves": curve_plots,
    "Health": health_table,
    "Propagation": propagation,
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
        "Images that are nobody's neighbour; the walk reaches them from nowhere.",
        lambda x: percent(x.never_named),
    ),
)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """'section.key' -> value."""
    found = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= leaves(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return found


def card_title(name: str, card: Any) -> str:
    """What was measured of what, and the scores; the file's name where it is unclear."""
    try:
        scores = ", ".join(_score(*item) for item in card["scores"].items())
        return (
            f"{card['protocol']} of {card['encoder']}, {card['data']['name']}: {scores}"
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return name


def _score(name: str, score: Mapping[str, Any]) -> str:
    text = f"{name} {100 * score['mean']:.2f}"
    deviation = score.get("deviation")
    return f"{text} %" if deviation is None else f"{text} ± {100 * deviation:.2f} %"


def _outcome(record: Record) -> dict[str, str]:
    last = record.rows[-1]
    found = {"steps done": f"{last['step']:,}"}
    found["epochs done"] = f"{last['step'] / record.steps_per_epoch:g}"
    if record.facts:
        count, name = record.facts["num_examples"], record.facts["dataset"]
        found = {"training images": f"{count:,} of {name}"} | found
    start = record.start_epoch
    found["propagation"] = "not begun" if start is None else f"from epoch {start} on"
    scores = [row for row in record.rows if "knn_bank" in row]
    shares = {}
    if scores:
        untrained, trained = scores[0], scores[-1]
        shares["kNN, untrained features"] = untrained.get("knn")
        shares["kNN, features"] = trained.get("knn")
        shares["kNN, embeddings"] = trained.get("knn_embedding")
        shares["kNN, bank"] = trained["knn_bank"]
    shares["purity of the positives"] = next(
        (row["purity"] for row in reversed(record.rows) if "purity" in row), None
    )
    return found | {
        name: percent(share) for name, share in shares.items() if share is not None
    }


def _map(record: Record) -> str:
    if record.memory is None or len(record.memory.bank) < embedding_map.FEWEST:
        return ""
    indices = health.spread(len(record.memory.bank), MAPPED)
    rows = health.unit_rows(record.memory.bank[indices])
    labels = None if record.dataset is None else record.dataset.train.labels
    if labels is not None:
        labels = np.asarray(labels)[indices]
    figure = embedding_map.draw(embedding_map.project(rows), labels)
    count = len(record.memory.bank)
    caption = f"{len(indices):,} of {count:,} training images."
    if labels is not None and len(np.unique(labels)) > embedding_map.MOST_CLASSES:
        caption += " There are more classes than colours could tell apart."
    return page.block("wide", [page.plot(draw.png(figure), caption, caption)])


def _side_by_side(
    records: Sequence[Record], describe: Callable[[Record], Mapping[str, str]]
) -> str:
    """A column for each run, a row for each name that one of them has."""
    found = [describe(record) for record in records]
    every = dict.fromkeys(name for own in found for name in own)
    rows = [(name, "", *(own.get(name, "") for own in found)) for name in every]
    return page.table([record.name for record in records], rows)


def _each(
    records: Sequence[Record], make: Callable[[Record], str], introduction: str
) -> str:
    """Each run's own, side by side, below an introduction."""
    made = {record.name: make(record) for record in records}
    parts = [
        page.block("", [page.heading(name) if len(records) > 1 else "", html])
        for name, html in made.items()
        if html
    ]
    return introduction + page.block("runs", parts) if parts else ""


def _of(records: Sequence[Record], record: Record, sentence: str) -> str:
    return f"{record.name}: {sentence}" if len(records) > 1 else sentence
