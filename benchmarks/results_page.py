"""docs/results.md and its plots, from the cards of benchmarks/evidence.py.

    python benchmarks/results_page.py

What people wrote below the last mark stays as it is.
"""

import json
import statistics
from collections.abc import Sequence
from typing import Any

from evidence import CARDS, CELLS, EVALUATIONS, ROOT, SETS

PAGE = ROOT / "docs" / "results.md"
PLOT = ROOT / "docs" / "results.png"
MARK = "<!-- Written by benchmarks/results_page.py down to here. -->"
TITLES = {"digits": "Digits", "letters": "Letters", "fashion_mnist": "Fashion-MNIST"}
# By which protocol and score a column is, in percent.
COLUMNS = {
    "kNN": ("knn", "top1"),
    "linear": ("linear", "top1"),
    "1 % of labels": ("semi_1pct", "top1, 1%"),
}
# Colours of Okabe and Ito, told apart by most who are colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

Card = dict[str, Any]


def main() -> None:
    sets = {data: (yardsticks(data), cards(data)) for data in SETS}
    written = PAGE.read_text() if PAGE.exists() else f"{MARK}\n"
    measured = {data: found for data, (_, found) in sets.items() if found}
    parts = [HEAD, PICTURE if measured else NOTHING_YET]
    for data, found in measured.items():
        parts.append(section(data, sets[data][0], found))
    PAGE.write_text("\n\n".join(parts) + "\n\n" + written[written.index(MARK) :])
    if measured:
        draw(measured)
    print(f"{PAGE}, {PLOT}")


HEAD = """# Results

Every method on three sets that a CPU can train on, over three seeds, with the same network,
epochs and evaluation. Each run and its evaluation is a card in `benchmarks/results/evidence`.

    python benchmarks/letters.py runs/letters_data  # makes the set of letters
    python benchmarks/evidence.py      # runs what has no card yet; continues where it stopped
    python benchmarks/results_page.py  # writes the tables of this page

Figures are in percent. kNN, the linear probe and fine-tuning on 1 % of the labels measure
the backbone's features on the held-out images, by the protocols of `configs/evaluate.py`,
at the last step. Letters and Fashion-MNIST are small here: 10,000 images of 14 pixels, a network
of width 8, batches of 32, 20 epochs. For these two sets, instance discrimination, both forms of
Invariance Propagation, Un-Mix, ODC and CoKe each had four settings compared, by kNN of 2,000 training
images after training on 4,000 others; `benchmarks/results/folds.jsonl` has all of them, and
`benchmarks/evidence.py` the best. Both forms use the learning rate and temperature that were best
for instance discrimination, and Un-Mix the paper form's weight, start and temperature. On digits
every method trains for 100 epochs, and a setting is compared over three folds of the training
writers, one run each: four settings of every method but the paper form, whose settings are the
best of 33, because they are the demo's.

The K of kNN is 15 % of a class ('auto'); what a run prints while it trains uses another K, and so
differs. Purity is measured at the end: that of Invariance Propagation's positives, by hop, or
that of the clusters, and ODC and CoKe have more clusters than there are classes. ± is the standard
deviation over seeds. All runs get the same 1 % of the labels; the untrained network gets one list
for each of its seeds. Minutes are those of training on one core, for the quickest of the seeds,
because some ran beside other work. A row with fewer than three seeds is not finished. On letters,
CoKe's best learning rate was the lowest one tried, so a lower one may be better, and its number of
clusters grew with N from the fold to the table.

[The forms of Invariance Propagation](forms.md) compares its variants."""
PICTURE = "![Scores of every run, and purity by epoch](results.png)"
NOTHING_YET = (
    "**No run has a card yet**, so there are no tables here. The pages\nof the methods have "
    "one run each on digits."
)


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
        "| | kNN | linear | 1 % of labels | purity | starts in epoch | seeds | minutes |",
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
    starts = sorted({card["started_in_epoch"] for card in own} - {None})
    started = " to ".join(str(x) for x in sorted({*starts[:1], *starts[-1:]})) or "–"
    # Some seeds ran beside other work.
    minutes = min(card["minutes"] for card in own)
    return f"| {name} | {' | '.join(values)} | {purity(own)} | {started} | {len(own)} | {minutes:.1f} |"


def purity(own: Sequence[Card]) -> str:
    """Mean purity of the positives of each hop, or of the clusters."""
    values = [
        card["summary"].get("purity_by_hop", [card["summary"].get("cluster_purity")])
        for card in own
    ]
    parts = zip(*values, strict=True)
    return " / ".join(f"{100 * statistics.mean(part):.1f}" for part in parts)


def score_of(card: Card, protocol: str, score: str) -> float:
    return card["evaluation"][protocol][score]["mean"]


def spread(shares: Sequence[float]) -> str:
    """Mean and standard deviation, in percent."""
    percent = [100 * share for share in shares]
    text = f"{statistics.mean(percent):.1f}"
    return text + (f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else "")


def draw(sets: dict[str, dict[str, list[Card]]]) -> None:
    """A row per set: scores of every run; purity by epoch."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(sets), 2, figsize=(11, 4.2 * len(sets)), squeeze=False, layout="constrained"
    )
    for (data, found), (scores, by_epoch) in zip(sets.items(), axes, strict=True):
        draw_scores(scores, found)
        scores.set_title(f"{TITLES[data]}: held-out accuracy, each run", loc="left")
        draw_purity(by_epoch, found)
        by_epoch.set(ylabel="%", title="purity of positives or clusters")
        by_epoch.legend(fontsize="small", loc="lower right")
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


def draw_purity(axes, found: dict[str, list[Card]]) -> None:
    """Of seed 0; a dot where propagation starts."""
    for (name, own), colour in zip(found.items(), COLOURS, strict=False):
        line = [100 * value for value in own[0]["purity"]]
        axes.plot(range(1, len(line) + 1), line, color=colour, label=name)
        start = own[0]["started_in_epoch"]
        if start is not None:
            axes.plot(start + 1, line[start], "o", color=colour)
    axes.set_xlabel("epochs done; a dot where propagation starts")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
