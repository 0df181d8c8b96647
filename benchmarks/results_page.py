"""docs/results.md and its plots, from the cards of benchmarks/evidence.py.

    python benchmarks/results_page.py

What people wrote below the last mark stays as it is.
"""

import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from evidence import CARDS, CELLS, EVALUATIONS, ROOT, SETS

PAGE = ROOT / "docs" / "results.md"
PLOT = ROOT / "docs" / "results.png"
MARK = "<!-- Written by benchmarks/results_page.py down to here. -->"
TITLES = {"digits": "Digits", "fashion_mnist": "Fashion-MNIST"}
# By which protocol and score a column is, in percent.
COLUMNS = {
    "kNN": ("knn", "top1"),
    "linear": ("linear", "top1"),
    "1 % of labels": ("semi_1pct", "top1, 1%"),
}
# Colours of Okabe and Ito, told apart by most who are colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")

Card = dict[str, Any]


def main() -> None:
    sets = {data: (yardsticks(data), cards(data)) for data in SETS}
    written = PAGE.read_text() if PAGE.exists() else f"{MARK}\n"
    parts = [HEAD]
    for data, (untrained, found) in sets.items():
        if found:
            parts.append(section(data, untrained, found))
    PAGE.write_text("\n\n".join(parts) + "\n\n" + written[written.index(MARK) :])
    draw({data: found for data, (_, found) in sets.items() if found})
    print(f"{PAGE}, {PLOT}")


HEAD = """# Results

Every form of the method on two sets that a CPU can train on, over seeds. Each run and its
evaluation is a card in `benchmarks/results/evidence`.

    python benchmarks/evidence.py      # runs what has no card yet; continues where it stopped
    python benchmarks/results_page.py  # writes the tables of this page

Figures are in percent. kNN, the linear probe and fine-tuning on 1 % of the labels measure
the backbone's features on the held-out images, by the protocols of `configs/evaluate.py`,
at the last step. Nothing was chosen by these labels. The K of kNN is 15 % of a class, 20 on
digits and 150 on Fashion-MNIST ('auto'). What a run prints while it trains uses another K,
10 and 20, and so differs. Purity is the share of positives with their anchor's label, by
hop, at the end. ± is the standard deviation over seeds. All runs get the same 1 % of the
labels; the untrained network gets one list for each of its seeds. Minutes are those of
training, on cores that other programs shared. *Not run yet* means just that.

Digits were measured with the settings of version 0.1, which `benchmarks/evidence.py` holds
(`MEASURED_WITH`); the demo's settings may differ. Fashion-MNIST's 10,000 images were the
first of the set. Today `data.num_train` draws a random sample, so a new run has others.

![Scores of every run, and what became of the neighbours](results.png)"""


def cards(data: str) -> dict[str, list[Card]]:
    """By cell, those that there are."""
    found: dict[str, list[Card]] = {}
    for name in CELLS:
        paths = sorted(CARDS.glob(f"{data}-{name}-[0-9]*.json"))
        if paths:
            found[name] = [json.loads(path.read_text()) for path in paths]
    return found


def yardsticks(data: str) -> dict[str, Any]:
    """Scores of raw pixels and of random weights, by protocol."""
    path = CARDS / f"{data}-untrained.json"
    return json.loads(path.read_text())["evaluation"] if path.exists() else {}


def section(data: str, untrained: dict, found: dict[str, list[Card]]) -> str:
    any_card = next(iter(found.values()))[0]
    every = [card for own in found.values() for card in own]
    dates = sorted({card["date"] for card in every})
    machines = " or ".join(sorted({card["machine"] for card in every}))
    versions = ", ".join(f"{k} {v}" for k, v in any_card["versions"].items())
    settings, evaluated = (
        " ".join(f"--config.{override}" for override in overrides[data])
        for overrides in (SETS, EVALUATIONS)
    )
    trained = f"`configs/{data}.py`" + (f" with `{settings}`" if settings else "")
    trained += f"; evaluated with `{evaluated}`" if evaluated else ""
    lines = [
        f"## {TITLES[data]}",
        "",
        f"{trained}.",
        f"{machines}; Python {any_card['python']}, {versions}; "
        + " to ".join(sorted({dates[0], dates[-1]}))
        + ".",
        "",
        "| | kNN | linear | 1 % of labels | purity, hop 1 / 2 / 3 | starts in epoch "
        "| seeds | minutes |",
        "|---|---|---|---|---|---|---|---|",
        yardstick_row("raw pixels", untrained.get("raw pixels", {})),
        yardstick_row("untrained network", untrained.get("random encoder", {})),
    ]
    for name, cell in CELLS.items():
        own = found.get(name, [])
        lines.append(
            row(cell.name, own) if own else f"| {cell.name} | *not run yet* |||||||"
        )
    return "\n".join(lines)


def yardstick_row(name: str, by_protocol: dict[str, Any]) -> str:
    values = []
    for protocol, score in COLUMNS.values():
        found = by_protocol.get(protocol, {}).get(score)
        values.append("–" if found is None else spread(list(found["by_seed"].values())))
    seeds = max(
        (len(x["top1"]["by_seed"]) for x in by_protocol.values() if "top1" in x),
        default=0,
    )
    return f"| {name} | {' | '.join(values)} | | | {seeds or ''} | |"


def row(name: str, own: Sequence[Card]) -> str:
    values = [
        spread([score_of(card, *column) for card in own]) for column in COLUMNS.values()
    ]
    hops = zip(*(card["summary"]["purity_by_hop"] for card in own), strict=True)
    purity = " / ".join(f"{100 * statistics.mean(hop):.1f}" for hop in hops)
    starts = sorted({card["started_in_epoch"] for card in own} - {None})
    started = (
        " to ".join(str(x) for x in sorted({starts[0], starts[-1]}))
        if starts
        else "never"
    )
    minutes = statistics.mean(card["minutes"] for card in own)
    return f"| {name} | {' | '.join(values)} | {purity} | {started} | {len(own)} | {minutes:.1f} |"


def score_of(card: Card, protocol: str, score: str) -> float:
    return card["evaluation"][protocol][score]["mean"]


def spread(shares: Sequence[float]) -> str:
    """Mean and standard deviation, in percent."""
    percent = [100 * share for share in shares]
    text = f"{statistics.mean(percent):.1f}"
    return text + (f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else "")


def draw(sets: dict[str, dict[str, list[Card]]]) -> None:
    """A row per set: scores of every run; purity and neighbours kept, by epoch."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(sets), 3, figsize=(14, 4.2 * len(sets)), squeeze=False, layout="constrained"
    )
    for (data, found), (scores, purity, overlap) in zip(
        sets.items(), axes, strict=True
    ):
        draw_scores(scores, found)
        scores.set_title(f"{TITLES[data]}: held-out accuracy, each run", loc="left")
        draw_epochs(purity, found, lambda card: card["purity"])
        purity.set(ylabel="% of the positives", title="purity of the positives")
        draw_epochs(overlap, found, lambda card: card["neighbor_overlap"])
        overlap.set(ylabel="% of the neighbours", title="kept between visits")
        purity.legend(fontsize="small", loc="lower right")
    figure.savefig(PLOT, dpi=80)
    plt.close(figure)


def draw_scores(axes, found: dict[str, list[Card]]) -> None:
    places = {name: place for place, name in enumerate(reversed(found))}
    for (column, names), colour, marker in zip(
        COLUMNS.items(), COLOURS, "os^", strict=False
    ):
        runs = [
            (score_of(card, *names), places[name])
            for name in found
            for card in found[name]
        ]
        axes.plot(
            *zip(*((100 * x, y) for x, y in runs), strict=True),
            marker,
            color=colour,
            label=column,
            alpha=0.7,
            markersize=6,
        )
    axes.set_yticks(list(places.values()), list(places))
    axes.set_xlabel("%")
    axes.grid(axis="x", alpha=0.3)
    # Below, where it hides no run.
    axes.legend(
        fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3
    )


def draw_epochs(
    axes, found: dict[str, list[Card]], values: Callable[[Card], list]
) -> None:
    """Of seed 0; a dot where propagation starts."""
    shown = [
        name for name in ("instance", "released", "paper", "auto") if name in found
    ]
    for name, colour in zip(shown, COLOURS, strict=False):
        card = found[name][0]
        line = [100 * value for value in values(card)]
        epochs = range(1, len(line) + 1)
        axes.plot(epochs, line, color=colour, label=name)
        start = card["started_in_epoch"]
        if start is not None:
            axes.plot(start + 1, line[start], "o", color=colour)
    axes.set_xlabel("epochs done; a dot where propagation starts")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
