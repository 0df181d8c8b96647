"""How the objective grows with images and devices: the figures of docs/scaling.md.

    python benchmarks/growth.py

Each cell is one process of benchmarks/objective.py. The devices share this machine's
cores, so that more of them tell of memory and traffic, not of speed. Plots need
matplotlib (requirements-dev.txt).
"""

import argparse
from pathlib import Path
from typing import Any

import tqdm
from objective import start_child
from provenance import write_result

IMAGES, DEVICES = (10_000, 60_000, 300_000, 1_281_167, 10_000_000), 2
SHARDS, SHARDED_IMAGES = (1, 2, 4, 8), (10_000, 60_000, 1_281_167)
BATCH = 256
PLOT = Path(__file__).parents[1] / "docs" / "scaling.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=max(IMAGES), help="images")
    options = parser.parse_args()
    cells = {(count, DEVICES) for count in IMAGES}
    cells |= {(count, shards) for count in SHARDED_IMAGES for shards in SHARDS}
    cells = sorted(cell for cell in cells if cell[0] <= options.most)
    runs = []
    for count, shards in tqdm.tqdm(cells, unit="process"):
        sizes = argparse.Namespace(examples=count, batch=BATCH, devices=shards)
        runs.append({"examples": count, "devices": shards})
        runs[-1] |= start_child("paper", sizes)
    print(table(runs))
    print(traffic_table(runs))
    draw(runs)
    print(
        f"written to {write_result('growth', {'batch': BATCH, 'runs': runs})}, {PLOT}"
    )


def table(runs: list[dict[str, Any]]) -> str:
    lines = ["| N | D | ms | peak MB |", "|---|---|---|---|"]
    for run in runs:
        lines.append(
            f"| {run['examples']:,} | {run['devices']} | {1000 * run['seconds']:,.0f} "
            f"| {run['peak_bytes'] / 1e6:,.0f} |"
        )
    return "\n".join(lines)


def traffic_table(runs: list[dict[str, Any]]) -> str:
    """Collectives of the programs that look at the whole batch at once.

    In them, what lies in a loop is a pass of the search for the background's end.
    """
    lines = ["| D | bytes per step | and per pass | largest |", "|---|---|---|---|"]
    for run in runs:
        if run["examples"] != min(IMAGES) or not run["traffic"]:
            continue
        each_pass = sum(part["bytes"] for part in run["traffic"] if part["in_loop"])
        once = sum(part["bytes"] for part in run["traffic"]) - each_pass
        largest = max(run["traffic"], key=lambda part: part["bytes"])
        lines.append(
            f"| {run['devices']} | {once:,} | {each_pass:,} | {largest['kind']} "
            f"{', '.join(largest['arrays'])} |"
        )
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 3.5), layout="constrained"
    )
    kept = [run for run in runs if run["devices"] == DEVICES]
    images = [run["examples"] for run in kept]
    left.loglog(images, [run["seconds"] for run in kept], "o-", color="#0072b2")
    left.set(xlabel="images N", ylabel="seconds per step", title="time")
    right.loglog(
        images, [run["peak_bytes"] / 1e9 for run in kept], "o-", color="#d55e00"
    )
    right.set(xlabel="images N", ylabel="GB, growth of the process", title="memory")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(PLOT, dpi=120)


if __name__ == "__main__":
    main()
