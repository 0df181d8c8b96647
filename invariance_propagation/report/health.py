"""Whether embeddings still tell images apart, and neighbours still name them all.

NumPy in, numbers out; embeddings are unit rows, float [n, d].
"""

from typing import NamedTuple

import numpy as np

from invariance_propagation.evaluation.features import unit_rows

# Beyond these a sentence warns. Far from where a sound run ends: on digits the rank is
# 32, uniformity -2.9, similarity 0.0, and 1 % name the image named most.
LEAST_RANK = 3.0
MOST_UNIFORMITY = -0.5
MOST_SIMILARITY = 0.8
MOST_NAMED = 0.2


class Degrees(NamedTuple):
    """How often images are named as a neighbour.

    Attributes:
      counts: int [N], see `in_degree`.
      skewness: of `counts`.
      most_named: share of the other images that name the one named most.
      never_named: share of the images that no other names.
      unvisited: share of the images that have no neighbours yet.
    """

    counts: np.ndarray
    skewness: float
    most_named: float
    never_named: float
    unvisited: float


class Health(NamedTuple):
    """The health of one run.

    Attributes:
      dim: d, the most that `rank` can be.
      rank: see `effective_rank`.
      uniformity: see `uniformity`.
      similarity: see `mean_similarity`.
      degrees: of its neighbours; None where the method keeps none.
    """

    dim: int
    rank: float
    uniformity: float
    similarity: float
    degrees: Degrees | None


def measure(
    rows: np.ndarray, neighbors: np.ndarray | None, *, most: int = 4096
) -> Health:
    """Measures a memory.

    Args:
      rows: float [N, d], an embedding for each image.
      neighbors: int [N, k], or None.
      most: rows to look at, evenly spread.
    """
    unit = unit_rows(rows[spread(len(rows), most)])
    return Health(
        dim=rows.shape[1],
        rank=effective_rank(unit),
        uniformity=uniformity(unit),
        similarity=mean_similarity(unit),
        degrees=None if neighbors is None else measure_degrees(neighbors),
    )


def measure_degrees(neighbors: np.ndarray) -> Degrees:
    """Measures int [N, k], the neighbours of each image."""
    counts = in_degree(neighbors)
    return Degrees(
        counts=counts,
        skewness=skewness(counts),
        most_named=float(counts.max() / (len(neighbors) - 1)),
        never_named=float(np.mean(counts == 0)),
        unvisited=float(np.mean(_itself(neighbors).all(axis=1))),
    )


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of 0 .. count - 1, evenly spread, int [n]."""
    number = min(count, most)
    return ((np.arange(number) + 0.5) * count / number).astype(int)


def effective_rank(embeddings: np.ndarray) -> float:
    """exp of the entropy of the singular values, as parts of their sum.

    From 1, all in one direction, to min(n, d). RankMe (Garrido et al. 2023,
    arXiv 2210.02885).
    """
    values = np.linalg.svd(embeddings, compute_uv=False)
    parts = values[values > 0] / values.sum()
    return float(np.exp(-(parts * np.log(parts)).sum()))


def uniformity(embeddings: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs of different rows.

    0 where all are the same, -4 and little less where they are spread evenly in many
    dimensions. Wang and Isola 2020, arXiv 2005.10242.
    """
    count = len(embeddings)
    # |x - y|^2 = 2 - 2 x.y; the rows with themselves are 1 each.
    total = np.exp(4 * (embeddings @ embeddings.T) - 4).sum() - count
    return float(np.log(total / (count * (count - 1))))


def mean_similarity(embeddings: np.ndarray) -> float:
    """Mean cosine similarity of pairs of different rows."""
    count = len(embeddings)
    total = np.square(embeddings.sum(axis=0)).sum() - np.square(embeddings).sum()
    return float(total / (count * (count - 1)))


def in_degree(neighbors: np.ndarray) -> np.ndarray:
    """Counts by how many other images each is named as a neighbour, int [N]."""
    return np.bincount(neighbors[~_itself(neighbors)], minlength=len(neighbors))


def skewness(values: np.ndarray) -> float:
    """Third moment over the 3/2 power of the second; 0 where all are the same."""
    off = values - values.mean()
    variance = np.mean(off**2)
    return float(np.mean(off**3) / variance**1.5) if variance > 0 else 0.0


def warnings(health: Health) -> list[str]:
    """A plain sentence for each number that looks like a collapse."""
    found = []
    if health.rank < LEAST_RANK:
        found.append(
            f"The embeddings fill only {health.rank:.1f} of {health.dim} dimensions: "
            "this looks like a collapse onto a few directions."
        )
    if health.similarity > MOST_SIMILARITY or health.uniformity > MOST_UNIFORMITY:
        found.append(
            f"Any two images are alike to the network (mean similarity "
            f"{health.similarity:.2f}, uniformity {health.uniformity:.2f}): this looks "
            "like a collapse to one point."
        )
    return found if health.degrees is None else found + _warnings(health.degrees)


def _warnings(degrees: Degrees) -> list[str]:
    found = []
    if degrees.most_named > MOST_NAMED:
        found.append(
            f"One image is a neighbour of {degrees.most_named:.0%} of all others: a hub."
        )
    if degrees.unvisited > 0:
        found.append(
            f"{degrees.unvisited:.1%} of the images have no neighbours yet: training has "
            "not come to them."
        )
    return found


def _itself(neighbors: np.ndarray) -> np.ndarray:
    """bool [N, k], where a row names itself, as all do before their first visit."""
    return neighbors == np.arange(len(neighbors))[:, None]
