"""Shows what numbers depend on: evaluation cards, versions, config."""

import json
from collections.abc import Sequence

from flax.traverse_util import flatten_dict

from invariance_propagation.evaluation.cards import Card, by_kind, tabulate
from invariance_propagation.evaluation.published import published
from invariance_propagation.report import page
from invariance_propagation.report.record import Record


def cards(records: Sequence[Record]) -> str:
    """Builds a table for each protocol, followed by what its numbers depend on.

    A result that several runs have a card for, such as raw pixels, is listed once.
    """
    runs = [record.name for record in records]
    first: dict[str, tuple[Record, Card]] = {}
    for record in records:
        for card in record.cards:
            first.setdefault(card.name(), (record, card))
    trained_first = sorted(
        (card for _, card in first.values()), key=lambda card: not card.checkpoint
    )
    blocks = []
    for alike in by_kind(trained_first):
        encoders = [card.encoder for card in alike]
        names = [
            page.attributed(runs, first[card.name()][0].name, card.encoder)
            if card.checkpoint or encoders.count(card.encoder) > 1
            else card.encoder
            for card in alike
        ]
        blocks.append(_cards(alike, names))
    return "\n".join(blocks)


def config(records: Sequence[Record]) -> str:
    """Shows versions, where the configs of the runs differ, and all keys of each."""
    known = [record for record in records if record.facts]
    if not known:
        return ""
    keys = {record.name: flatten_dict(record.config, sep=".") for record in known}
    every = dict.fromkeys(key for flat in keys.values() for key in flat)
    differ = {
        key: ("", *values)
        for key in every
        if len(set(values := [json.dumps(x.get(key)) for x in keys.values()])) > 1
    }
    versions = page.columns(
        [*keys], [record.facts.get("versions", {}) for record in known]
    )
    blocks = [page.heading("Versions"), versions] if versions else []
    if len(known) > 1:
        blocks.append(page.heading("Where the configs differ"))
        blocks.append(
            page.table([*keys], [(key, *cells) for key, cells in differ.items()])
            or page.paragraph("Nowhere.")
        )
    for name, flat in keys.items():
        text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in flat.items())
        blocks.append(page.details(f"All keys of {name}", text))
    return "\n".join(blocks)


def _cards(alike: Sequence[Card], names: Sequence[str]) -> str:
    title, columns, rows, remarks = tabulate(alike, published(alike))
    names = [*names, *(name for name, _ in rows[len(names) :])]
    named = [(name, "", *cells) for name, (_, cells) in zip(names, rows, strict=True)]
    details = (
        page.details(name, json.dumps(card._asdict(), indent=2, ensure_ascii=False))
        for name, card in zip(names, alike, strict=False)
    )
    head = page.heading(title), page.table(columns, named)
    notes = map(page.note, [*remarks, "What these numbers depend on:"])
    return page.block("", [*head, *notes, *details])
