"""Draws clusters of a run by a method that clusters: a row for each, its first images.

    python main.py --config=configs/digits.py:coke --workdir=runs/coke
    python benchmarks/clusters.py runs/coke --output=docs/pictures/coke.png

The clusters shown are spread evenly over all, by size, from the largest to the smallest.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", help="the folder of the run")
    parser.add_argument("--output", default="clusters.png", help="the PNG file")
    parser.add_argument("--rows", type=int, default=8, help="clusters to show")
    parser.add_argument("--columns", type=int, default=10, help="images of each")
    options = parser.parse_args()
    from invariance_propagation import settings
    from invariance_propagation.data import sources
    from invariance_propagation.store.memory import restore_memory
    from invariance_propagation.tasks.preview import sheet

    memory = restore_memory(options.workdir)
    labels = memory.arrays["labels"]
    labels = labels if labels.ndim == 1 else labels[:, 0]  # the first of several
    run = memory.facts["config"]
    given = {"size": run["augment"]["size"], "seed": run["seed"]}
    data = settings.call(sources.load, "data", run, **given)
    members = choose(labels, options.rows, options.columns)
    columns, names = {}, []
    for cluster, size, _ in members:
        names.append(f"cluster {cluster}: {size} images")
    for column in range(options.columns):
        chosen = [ids[column] for _, _, ids in members]
        columns[f"{column + 1}"] = data.train.images[np.array(chosen)]
    sheet(columns, names, [f"{data.name}, {len(members)} clusters"]).save(
        options.output, optimize=True
    )
    print(options.output)


def choose(
    labels: np.ndarray, rows: int, columns: int
) -> list[tuple[int, int, np.ndarray]]:
    """Returns (cluster, its size, its first images) of some clusters.

    Clusters with fewer than `columns` images are left out.
    """
    sizes = np.bincount(labels[labels >= 0])
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= columns]
    places = np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(int)
    return [
        (int(c), int(sizes[c]), np.flatnonzero(labels == c)[:columns])
        for c in order[places]
    ]


if __name__ == "__main__":
    main()
