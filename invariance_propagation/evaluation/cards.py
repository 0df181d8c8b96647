"""Writes and reads evaluation cards: scores with everything that they depend on.

Scores can be compared only if they were measured in the same way on the same images.
A card says how it was measured, and a table holds only cards that agree in this.
"""

import hashlib
import json
import shutil
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from invariance_propagation.errors import UserError
from invariance_propagation.files.archives import open_file
from invariance_propagation.files.atomic import draft_of
from invariance_propagation.files.paths import reason

FOLDER = "cards"
# Stands on every card: how held-out labels were used.
SELECTION = "scores of the last step; held-out labels were not used to choose anything"


class Card(NamedTuple):
    """Holds the scores of one encoder by one protocol.

    Attributes:
      protocol: name of the protocol.
      version: of the protocol; scores of different versions cannot be compared.
      settings: numbers of the protocol, such as crop, schedule, K or costs.
      data: name, digest, and numbers of images and classes.
      encoder: name of what was measured, its row in a table.
      network: depth, stem, width and channels; empty for raw pixels.
      checkpoint: path, step and digest of the weights; empty without weights.
      scores: for each score its value by seed, such as {'top1': {'0': 0.97}}.
      made: for each seed commit, versions, machine, date, seconds, and remarks if there
        are any.
    """

    protocol: str
    version: int
    settings: dict[str, Any]
    data: dict[str, Any]
    encoder: str
    network: dict[str, Any]
    checkpoint: dict[str, Any]
    scores: dict[str, dict[str, float]]
    made: dict[str, Any]

    def kind(self) -> dict[str, Any]:
        """Returns what two cards must share for their scores to be comparable."""
        kind = {
            "protocol": self.protocol,
            "version": self.version,
            "settings": self.settings,
            "data": self.data,
        }
        # As in a card that was written to a file, where tuples become lists.
        return json.loads(json.dumps(kind))

    def name(self) -> str:
        """Returns the name of its file, which kind, encoder and weights decide."""
        weights = self.checkpoint.get("digest")
        about = {"encoder": self.encoder, "network": self.network, "weights": weights}
        words = "-".join((self.protocol, self.data["name"], self.encoder))
        words = "".join(c if c.isalnum() or c in "-_" else "_" for c in words)
        return f"{words}-{digest(self.kind() | about)}.json"

    def seeds(self) -> list[int]:
        """Returns the seeds for which every score has a value."""
        values = list(self.scores.values())
        common = set(values[0]).intersection(*values) if values else set()
        return sorted(map(int, common))

    def with_scores(self, seed: int, scores: Mapping[str, float]) -> "Card":
        """Returns the card with the scores of one more seed."""
        merged = {
            name: self.scores.get(name, {}) | {str(seed): float(value)}
            for name, value in scores.items()
        }
        return self._replace(scores=self.scores | merged)


def digest(content: Any) -> str:
    """Returns 16 hex digits of the SHA-256 of something that JSON can hold."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation; None for that of a single value."""
    values = list(values)
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation


def write_card(card: Card, workdir: Path) -> Path:
    """Writes WORKDIR/cards/NAME.json; a failure leaves no partial file."""
    summary = {}
    for name, by_seed in card.scores.items():
        mean, deviation = mean_and_deviation(by_seed.values())
        summary[name] = {"mean": mean, "deviation": deviation, "by_seed": by_seed}
    content = card._asdict() | {"selection": SELECTION, "scores": summary}
    path = workdir / FOLDER / card.name()
    with draft_of(path) as draft:
        text = json.dumps(content, indent=2, allow_nan=False)
        draft.write_text(text + "\n", encoding="utf-8")
    return path


def read_card(path: Path) -> Card:
    """Reads a card; raises UserError if the file is not one."""
    try:
        with open_file(path) as file:
            content = json.loads(file.read())
        scores = {name: x["by_seed"] for name, x in content["scores"].items()}
        fields = {name: content[name] for name in Card._fields}
        return Card(**fields | {"scores": scores})
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path} is no evaluation card ({error}): delete it, and it is measured again"
        ) from error


def by_kind(cards: Iterable[Card]) -> list[list[Card]]:
    """Groups cards into those that can share a table."""
    groups: dict[str, list[Card]] = {}
    for card in cards:
        groups.setdefault(digest(card.kind()), []).append(card)
    return list(groups.values())


class Table(NamedTuple):
    """Holds the scores of several cards as text.

    Attributes:
      title: names the protocol and the data.
      columns: names of the scores.
      rows: the title and the cells of each row.
      remarks: sentences about what the scores do not show.
    """

    title: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]
    remarks: list[str]


def tabulate(cards: Sequence[Card], published: Mapping[str, float] = {}) -> Table:
    """Makes a table in percent: a row per card, a column per score.

    Args:
      cards: the rows, all of one kind.
      published: name of a score -> its value in the paper, in [0, 1]; makes a last row.

    Raises:
      UserError: the cards are not of one kind.
    """
    first = cards[0]
    for card in cards:
        if card.kind() != first.kind():
            raise UserError(
                f"{first.name()} and {card.name()} were not measured alike "
                f"({_difference(first, card)}): they cannot share a column"
            )
    names = list(dict.fromkeys(name for card in cards for name in card.scores))
    rows = []
    for card in cards:
        cells = [_cell(card.scores.get(name, {}).values()) for name in names]
        rows.append((card.encoder, cells))
    if published:
        cells = [f"{100 * published[x]:.1f}" if x in published else "-" for x in names]
        rows.append(("published", cells))
    data = first.data
    title = (
        f"{first.protocol} on {data['name']}: {data['train']:,} images with labels, "
        f"{data['held_out']:,} to test, {data['classes']} classes; in percent"
    )
    # kNN accuracies with another K are other scores, so each column says its own.
    num_neighbors = first.settings["options"].get("num_neighbors")
    suffix = "" if num_neighbors is None else f", K = {num_neighbors}"
    remarks = [*first.settings.get("remarks", ())]
    for card in cards:
        found = {x: None for made in card.made.values() for x in _remarks(made)}
        remarks += [f"{card.encoder}: {x}" for x in found]
    return Table(title, [name + suffix for name in names], rows, remarks)


def table(cards: Sequence[Card], published: Mapping[str, float] = {}) -> str:
    """Returns what `tabulate` makes as aligned lines, in blocks that fit the terminal."""
    title, columns, rows, remarks = tabulate(cards, published)
    lines = [["", *columns], *([name, *cells] for name, cells in rows)]
    blocks = _blocks(lines, shutil.get_terminal_size().columns)
    aligned = [line for block in blocks for line in _aligned(block)]
    notes = [f"  note: {remark}" for remark in remarks]
    return "\n".join([title, *aligned, *notes])


def _remarks(made: Any) -> Sequence[str]:
    return made.get("remarks", ()) if isinstance(made, Mapping) else ()


def _cell(values: Iterable[float]) -> str:
    values = [100 * value for value in values]
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _blocks(rows: list[list[str]], width: int) -> list[list[list[str]]]:
    """Divides columns into blocks at most `width` wide, each with the first column."""
    names, *columns = zip(*rows, strict=True)
    widths = [2 + max(map(len, column)) for column in (names, *columns)]
    blocks, used = [], width
    for column, wide in zip(columns, widths[1:], strict=True):
        if used + wide > width:
            blocks.append([names])
            used = widths[0]
        blocks[-1].append(column)
        used += wide
    return [[list(row) for row in zip(*block, strict=True)] for block in blocks]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _difference(one: Card, other: Card) -> str:
    """Names the first value in which the kinds of two cards differ."""
    left, right = (flatten_dict(card.kind(), sep=".") for card in (one, other))
    for name in left | right:
        if left.get(name) != right.get(name):
            return f"{name}: {left.get(name)} and {right.get(name)}"
    return "not at all"
