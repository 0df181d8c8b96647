"""What numbers depend on: evaluation cards, versions, config."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from invariance_propagation.evaluation.cards import leaves
from invariance_propagation.report import page
from invariance_propagation.report.record import Record
from invariance_propagation.report.runs import beside, of


def cards(records: Sequence[Record]) -> str:
    """Scores of the evaluations that have been made, each with what it depends on."""
    parts = []
    for record in records:
        for name, card in record.cards.items():
            text = json.dumps(card, indent=2, ensure_ascii=False)
            shown = page.details(of(records, record, card_title(name, card)), text)
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
    versions = beside(known, lambda record: record.facts.get("versions", {}))
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
