"""Compares a run's clusters with k-means on raw pixels, and draws some of them.

    python benchmarks/clusters.py runs/digits_odc docs/pictures/odc.png

Purity is the share of training images whose label is the most frequent one of their
cluster; with more clusters it rises by chance, so k-means makes as many.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from sklearn.cluster import KMeans

sys.path.insert(0, str(Path(__file__).parents[1]))
from invariance_propagation import settings
from invariance_propagation.data import sources
from invariance_propagation.methods.clusters import measure
from invariance_propagation.store.memory import restore_memory

ROWS, COLUMNS, PIXELS, GAP = 10, 20, 32, 4
PAPER, INK, GREYS = 255, 0, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path)
    parser.add_argument(
        "output", type=Path, nargs="?", help="PNG file; none by default"
    )
    options = parser.parse_args()
    memory = restore_memory(options.workdir)
    clusters, train = clusters_of(memory.arrays), images_of(memory.facts)
    count = clusters.max() + 1
    print(f"{len(clusters):,} images in {len(np.unique(clusters))} clusters")
    pixels = train.images.reshape(len(train.images), -1) / 255
    show("the run", clusters, train.labels)
    scores = [
        KMeans(count, n_init=1, random_state=seed).fit(pixels).labels_
        for seed in range(5)
    ]
    for seed, found in enumerate(scores):
        show(f"k-means on raw pixels, seed {seed}", found, train.labels)
    if options.output:
        draw(train.images, clusters, memory.arrays).save(options.output, optimize=True)
        print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


def clusters_of(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the cluster of each image; of several clusterings the first."""
    labels = arrays.get("clusters.labels", arrays.get("labels"))
    return labels if labels.ndim == 1 else labels[:, 0]


def images_of(facts: dict[str, Any]) -> sources.Split:
    config = facts["config"]
    more = {"size": config["augment"]["size"], "seed": config["seed"]}
    return settings.call(sources.load, "data", config, **more).train


def show(title: str, clusters: np.ndarray, labels: np.ndarray) -> None:
    everyone = np.arange(len(labels))
    found = measure(clusters, labels, everyone, clusters_of=lambda given: given)
    purity, mutual = 100 * found["cluster_purity"], found["cluster_nmi"]
    print(f"{title}: purity {purity:.2f} %, NMI {mutual:.3f}")


def choose(
    labels: np.ndarray, rows: int, columns: int
) -> list[tuple[int, int, np.ndarray]]:
    """Returns (cluster, its size, its first images) of clusters evenly spread by size.

    Clusters with fewer than `columns` images are left out; a label of -1 is no cluster.
    """
    sizes = np.bincount(labels[labels >= 0])
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] >= columns]
    places = np.linspace(0, len(order) - 1, min(rows, len(order))).astype(int)
    return [
        (int(c), int(sizes[c]), np.flatnonzero(labels == c)[:columns])
        for c in order[places]
    ]


def draw(
    images: np.ndarray, clusters: np.ndarray, arrays: dict[str, np.ndarray]
) -> Image.Image:
    """Draws some clusters, evenly spread by size, a row each.

    Where there is a bank, the images that are most central come first.
    """
    step = PIXELS + GAP
    page = Image.new("L", (GAP + 60 + COLUMNS * step, GAP + ROWS * step), PAPER)
    pen = ImageDraw.Draw(page)
    for row, (cluster, size, _) in enumerate(choose(clusters, ROWS, columns=1)):
        top = GAP + row * step
        pen.text((GAP, top + PIXELS // 3), f"{size} images", fill=INK)
        members = np.flatnonzero(clusters == cluster)
        if "bank" in arrays:
            near = arrays["bank"][members] @ arrays["clusters.centroids"][cluster]
            members = members[np.argsort(-near, kind="stable")]
        spread = np.linspace(0, len(members) - 1, min(COLUMNS, len(members)))
        for column, member in enumerate(members[spread.astype(int)]):
            tile = Image.fromarray(images[member, :, :, 0])
            tile = tile.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
            page.paste(tile, (GAP + 60 + column * step, top))
    return page.quantize(GREYS)


if __name__ == "__main__":
    main()
