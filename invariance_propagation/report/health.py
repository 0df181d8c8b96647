"""Measures whether embeddings have collapsed, and whether the neighbours have hubs.

Functions take NumPy arrays and return numbers; embeddings are unit rows, float [n, d].
"""

from typing import NamedTuple

import numpy as np

from invariance_propagation.evaluation.features import unit_rows

# The report warns beyond these limits. Healthy runs are far from them: on digits the rank
# is 32, uniformity -2.9, similarity 0.0, and 1 % name the most frequent neighbour.
LEAST_RANK = 3.0
MOST_UNIFORMITY = -0.5
MOST_SIMILARITY = 0.8
MOST_NAMED = 0.2


class Degrees(NamedTuple):
    """Says how often images are named as neighbours.

    Attributes:
      counts: int [N], see `in_degree`.
      skewness: skewness of `counts`.
      most_named: share of the images that name the most frequent neighbour.
      never_named: share of the images that no other image names.
      unvisited: share of the images that have no neighbours yet.
    """

    counts: np.ndarray
    skewness: float
    most_named: float
    never_named: float
    unvisited: float


class Health(NamedTuple):
    """Holds the health of one run.

    Attributes:
      dim: d, an upper bound of `rank`.
      rank: see `effective_rank`.
      uniformity: see `uniformity`.
      similarity: see `mean_similarity`.
      degrees: how often images are named; None if the method keeps no neighbours.
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
      most: the largest number of rows to look at, evenly spread.
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
    """Returns at most `most` of the numbers 0 .. count - 1, evenly spread, int [n]."""
    number = min(count, most)
    return ((np.arange(number) + 0.5) * count / number).astype(int)


def effective_rank(embeddings: np.ndarray) -> float:
    """Computes the exponential of the entropy of the normalised singular values.

    It is 1 if all rows have one direction, and at most min(n, d). Source: RankMe
    (Garrido et al. 2023, arXiv 2210.02885).
    """
    values = np.linalg.svd(embeddings, compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def uniformity(embeddings: np.ndarray) -> float:
    """Computes the log of the mean of exp(-2 |x - y|^2) over pairs of different rows.

    It is 0 if all rows are equal, and about -4 if they are spread evenly in many
    dimensions. Source: Wang and Isola 2020, arXiv 2005.10242.
    """
    count = len(embeddings)
    # |x - y|^2 = 2 - 2 x.y. Each row paired with itself contributes 1.
    total = np.exp(4 * (embeddings @ embeddings.T) - 4).sum() - count
    return float(np.log(total / (count * (count - 1))))


def mean_similarity(embeddings: np.ndarray) -> float:
    """Computes the mean cosine similarity of pairs of different rows."""
    count = len(embeddings)
    total = np.square(embeddings.sum(axis=0)).sum() - np.square(embeddings).sum()
    return float(total / (count * (count - 1)))


def in_degree(neighbors: np.ndarray) -> np.ndarray:
    """Counts how many other images name each image as a neighbour, int [N]."""
    return np.bincount(neighbors[~_itself(neighbors)], minlength=len(neighbors))


def skewness(values: np.ndarray) -> float:
    """Computes the third moment over the 3/2 power of the second; 0 if all are equal."""
    deviations = values - values.mean()
    variance = np.mean(deviations**2)
    return float(np.mean(deviations**3) / variance**1.5) if variance > 0 else 0.0


def warnings(health: Health) -> list[str]:
    """Returns a sentence for each number that looks like a collapse."""
    sentences = []
    if health.rank < LEAST_RANK:
        sentences.append(
            f"The embeddings fill only {health.rank:.1f} of {health.dim} dimensions: "
            "this looks like a collapse onto a few directions."
        )
    if health.similarity > MOST_SIMILARITY or health.uniformity > MOST_UNIFORMITY:
        sentences.append(
            f"The network sees any two images as alike (mean similarity "
            f"{health.similarity:.2f}, uniformity {health.uniformity:.2f}): this looks "
            "like a collapse to one point."
        )
    if health.degrees is None:
        return sentences
    return sentences + _degree_warnings(health.degrees)


def _degree_warnings(degrees: Degrees) -> list[str]:
    sentences = []
    if degrees.most_named > MOST_NAMED:
        sentences.append(
            f"One image is a neighbour of {degrees.most_named:.0%} of all others: a hub."
        )
    if degrees.unvisited > 0:
        sentences.append(
            f"{degrees.unvisited:.1%} of the images have no neighbours yet: training has "
            "not visited them."
        )
    return sentences


def _itself(neighbors: np.ndarray) -> np.ndarray:
    """Returns bool [N, k], where a row names itself, as it does before its first visit."""
    return neighbors == np.arange(len(neighbors))[:, None]
