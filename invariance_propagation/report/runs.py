"""One run as it is, several side by side."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from invariance_propagation.report import page
from invariance_propagation.report.record import Record


def beside(
    records: Sequence[Record], describe: Callable[[Record], Mapping[str, str]]
) -> str:
    """A column for each run, a row for each name that one of them has."""
    found = [describe(record) for record in records]
    every = dict.fromkeys(name for own in found for name in own)
    rows = [(name, "", *(own.get(name, "") for own in found)) for name in every]
    return page.table([record.name for record in records], rows)


def each(
    records: Sequence[Record], make: Callable[[Record], list[str]], introduction: str
) -> str:
    """The parts of one run, or of several in pairs, below an introduction."""
    made = [make(record) for record in records]
    if not any(made):
        return ""
    if len(records) == 1:
        return introduction + page.block("parts", made[0])
    named = (
        [page.block("", [page.heading(record.name), part]) for part in parts]
        for record, parts in zip(records, made, strict=True)
    )
    rows = itertools.zip_longest(*named, fillvalue="<div></div>")
    return introduction + "\n".join(page.block("parts", row) for row in rows)


def of(records: Sequence[Record], record: Record, sentence: str) -> str:
    return f"{record.name}: {sentence}" if len(records) > 1 else sentence
