"""Trains every method on three sets, over seeds, and evaluates each run.

    python benchmarks/evidence.py                            # all that has no card yet
    python benchmarks/evidence.py --sets=digits --cells=paper,odc --seeds=1 --cores=1
    python benchmarks/results_page.py                        # docs/results.md of the cards

A cell is a run of main.py in runs/evidence, and its evaluation by kNN, the linear probe
and 1 % of the labels. It leaves one card in benchmarks/results/evidence; what has a card
is not run again, and an interrupted run continues. Networks this small use one core well
and two badly, so every core has a cell of its own.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import tqdm
from provenance import RESULTS, provenance

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "evidence"
CARDS = RESULTS / "evidence"
PROTOCOLS = "knn,linear,semi_1pct"
YARDSTICK_SEEDS = 3
# What a CPU can train in minutes. Small batches, because with 128 images in each, twenty
# epochs are too few steps: on a fold of letters, instance discrimination reached 84 %, and
# 96 % with 32.
SMALL = [
    "data.num_train=10000",
    "augment.size=14",
    "encoder.width=8",
    "train.batch_size=32",
    "train.epochs=20",
    "train.evaluate_every=20",
]
SETS = {"digits": [], "letters": SMALL, "fashion_mnist": SMALL}
# Without flips the linear probe needs its features but once: a tenth of the time.
EVALUATIONS = {
    "digits": [],
    # When these cards were made, fine-tuning mirrored letters. It no longer does.
    "letters": ["linear.flip=0.0", "semi.flip=0.5"],
    "fashion_mnist": ["linear.flip=0.0"],
}


class Cell(NamedTuple):
    """What is trained, by which method and settings, over how many seeds."""

    name: str
    method: str
    overrides: list[str]
    seeds: int = 3


CELLS = {
    "instance": Cell(
        "instance discrimination (lambda 0)",
        "invariance_propagation",
        ["method.propagation_weight=0.0"],
    ),
    "released": Cell(
        "Invariance Propagation, released form",
        "invariance_propagation",
        ["method.form=released"],
    ),
    "paper": Cell(
        "Invariance Propagation, paper form",
        "invariance_propagation",
        ["method.form=paper"],
    ),
    "auto": Cell(
        "the same, automatic start",
        "invariance_propagation",
        ["method.form=paper", "method.start=auto"],
    ),
    "unmix": Cell("Un-Mix over the paper form", "unmix", ["method.inner.form=paper"]),
    "odc": Cell("ODC", "odc", []),
    "coke": Cell("CoKe", "coke", []),
}
# What each cell needs on a set beyond the set's config: the best of four settings by
# benchmarks/folds.py, on a part of the training images that the network did not see;
# benchmarks/results/folds.jsonl has them all. Where a cell is missing, the config itself is
# the best. Un-Mix takes weights, temperature and start from its inner method.
_STEEP = "optimizer.learning_rate=0.12"
_WARM, _COLD = "{}.temperature=0.3", "{}.temperature=0.1"
_STRONG = ["{}.propagation_weight=2.0", "{}.start_epoch=10"]
_WEAK = ["{}.propagation_weight=0.6", "{}.start_epoch=10"]
CHOSEN = {
    "digits": {
        "coke": ["optimizer.learning_rate=0.03"],
        "odc": ["method.num_clusters=20"],
        "unmix": ["method.global_probability=1.0"],
        "released": ["method.propagation_weight=0.6", "method.start_epoch=15"],
    },
    "letters": {
        "instance": [_STEEP, _WARM],
        "paper": [_STEEP, _WARM, *_STRONG],
        "auto": [_STEEP, _WARM, *_STRONG],
        "unmix": [_STEEP, _WARM, *_STRONG, "method.global_probability=1.0"],
        "released": [_STEEP, _WARM, *_STRONG],
    },
    "fashion_mnist": {
        "instance": [_STEEP, _COLD],
        "paper": [_STEEP, _COLD, *_WEAK],
        "auto": [_STEEP, _COLD, *_WEAK],
        "unmix": ["optimizer.learning_rate=0.06", _COLD, *_WEAK],
        "released": [_STEEP, _COLD, *_STRONG],
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default=",".join(SETS), help="by commas")
    parser.add_argument("--cells", default=",".join(CELLS), help="by commas")
    parser.add_argument("--seeds", type=int, help="of each cell, instead of its own")
    parser.add_argument(
        "--hours", type=float, help="begin no cell after this many hours"
    )
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    sets, names = options.sets.split(","), options.cells.split(",")
    for given, known in ((sets, SETS), (names, CELLS)):
        unknown = sorted(set(given) - set(known))
        if unknown:
            parser.error(f"unknown {unknown[0]!r}: choose from {', '.join(known)}")
    cells = list(plan(sets, names, options.seeds))
    last_begin = time.monotonic() + 3600 * (options.hours or 1e6)
    run_cells(cells, cores=options.cores, last_begin=last_begin)
    for data in sets:
        run_yardsticks(data)


def run_cells(
    cells: list[tuple[str, str, int]], *, cores: int, last_begin: float
) -> None:
    """Runs cells side by side, one on each core; what fails ends all that wait."""
    free = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:cores]:
        free.put(core)

    def keep_to_one_core() -> None:
        # Of this thread, and of the processes that it starts.
        os.sched_setaffinity(0, {free.get()})

    def run(cell: tuple[str, str, int]) -> None:
        if time.monotonic() > last_begin:
            sys.exit("stopped by --hours; the same command continues")
        run_cell(*cell)

    pool = ThreadPoolExecutor(free.qsize(), initializer=keep_to_one_core)
    try:
        running = [pool.submit(run, cell) for cell in cells]
        with tqdm.tqdm(total=len(cells), unit="cell") as bar:
            for future in as_completed(running):
                future.result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


def plan(
    sets: list[str], names: list[str], seeds: int | None
) -> Iterator[tuple[str, str, int]]:
    """Set, cell and seed; a whole seed before the next, so that an end tells most."""
    most = seeds or max(cell.seeds for cell in CELLS.values())
    for seed in range(most):
        for data in sets:
            for name in names:
                if seed < (seeds or CELLS[name].seeds):
                    yield data, name, seed


def run_yardsticks(data: str) -> None:
    """Raw pixels, and the network before training, by the protocols of the cells."""
    path = CARDS / f"{data}-untrained.json"
    if path.exists():
        return
    # Any run on this set will do: only its data and the shape of its network count.
    workdir = RUNS / f"{data}-paper-0"
    found = evaluate(data, workdir, "untrained", num_seeds=YARDSTICK_SEEDS)
    kinds = {"random encoder": {}, "raw pixels": {}}
    for card in found:
        if card["encoder"] in kinds:
            kinds[card["encoder"]][card["protocol"]] = card["scores"]
    write(path, provenance() | {"set": data, "evaluation": kinds})


def run_cell(data: str, name: str, seed: int) -> dict[str, Any]:
    """Runs one cell to its end, unless it has a card; returns the card."""
    overrides = overrides_of(data, name, seed)
    settings = {
        "method": CELLS[name].method,
        "overrides": overrides,
        "evaluated_with": EVALUATIONS[data],
    }
    path = CARDS / f"{data}-{name}-{seed}.json"
    if path.exists():
        card = json.loads(path.read_text())
        for key, own in settings.items():
            if card[key] != own:
                sys.exit(f"error: {path} has {key} {card[key]}: move it away")
        return card
    workdir = RUNS / f"{data}-{name}-{seed}"
    config = f"--config=configs/{data}.py:{CELLS[name].method}"
    pretrain = [f"--config.{x}" for x in overrides]
    call(workdir, config, f"--workdir={workdir}", *pretrain)
    # Of random weights and raw pixels there is one card for all runs on a set.
    found = evaluate(data, workdir, "evaluated", num_seeds=1)
    own = [card for card in found if card["checkpoint"].get("path") == str(workdir)]
    rows = read_rows(workdir)
    card = provenance() | {
        "set": data,
        "cell": name,
        "seed": seed,
        **settings,
        "minutes": minutes(workdir, rows),
        "summary": json.loads((workdir / "summary.json").read_text()),
        "started_in_epoch": next(
            (row["epoch"] for row in rows if row.get("propagation_weight", 0) > 0), None
        ),
        # Of the positives, or of the clusters.
        "purity": [row.get("purity", row.get("cluster_purity")) for row in rows],
        "checkpoint": own[0]["checkpoint"]["digest"],
        "evaluation": {card["protocol"]: card["scores"] for card in own},
    }
    del card["summary"]["workdir"]
    write(path, card)
    return card


def overrides_of(data: str, name: str, seed: int) -> list[str]:
    """What a cell changes in the config of its set and method; the last word counts."""
    section = "method.inner" if CELLS[name].method == "unmix" else "method"
    chosen = [x.format(section) for x in CHOSEN.get(data, {}).get(name, [])]
    return [*SETS[data], *chosen, *CELLS[name].overrides, f"seed={seed}"]


def evaluate(
    data: str, workdir: Path, name: str, *, num_seeds: int
) -> list[dict[str, Any]]:
    """Evaluates a run; all cards that then lie in the folder of this set and name."""
    output = RUNS / f"{data}-{name}"
    call(
        workdir,
        "--config=configs/evaluate.py",
        f"--config.checkpoint={workdir}",
        f"--config.output={output}",
        f"--config.protocols={PROTOCOLS}",
        f"--config.num_seeds={num_seeds}",
        *(f"--config.{override}" for override in EVALUATIONS[data]),
    )
    return [json.loads(path.read_text()) for path in output.glob("cards/*.json")]


def call(workdir: Path, *arguments: str) -> None:
    """Runs main.py; its output lies beside the workdir."""
    workdir.parent.mkdir(parents=True, exist_ok=True)
    log = workdir.with_suffix(".log")
    with log.open("a") as output:
        command = [sys.executable, "main.py", *arguments]
        process = subprocess.run(command, cwd=ROOT, stdout=output, stderr=output)
    if process.returncode:
        last = log.read_text().strip().splitlines()[-1]
        sys.exit(f"{last}\nwhile running {' '.join(command)}; see {log}")


def read_rows(workdir: Path) -> list[dict[str, Any]]:
    """One row an epoch: its last."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "loss" in row]
    return list({row["epoch"]: row for row in rows}.values())


def minutes(workdir: Path, rows: list[dict[str, Any]]) -> float:
    """Spent in steps, at the median rate of the epochs."""
    facts = next(workdir.glob("checkpoints/*/facts/metadata"))
    images = rows[-1]["step"] * json.loads(facts.read_text())["facts"]["batch_size"]
    rate = statistics.median(row["images_per_second"] for row in rows)
    return images / rate / 60


def write(path: Path, card: dict[str, Any]) -> None:
    """As a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(card, indent=1) + "\n")
    os.replace(draft, path)


if __name__ == "__main__":
    main()
