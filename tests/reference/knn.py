"""Oracle of weighted kNN classification: float64, one query and one row at a time.

From the definition in Wu et al. 2018 (arXiv 1805.01978), section 3.4; nothing is
shared with the package.
"""

import math

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    dot = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    squares = [math.fsum(float(x) ** 2 for x in vector) for vector in (a, b)]
    return dot / math.sqrt(squares[0] * squares[1])


def votes(
    features: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    *,
    num_neighbors: int,
    temperature: float,
    num_classes: int,
) -> np.ndarray:
    """[q, num_classes]: sum of e(similarity / temperature) over the nearest rows.

    In units of the nearest row's vote, so that a small temperature can be had.
    """
    result = np.zeros((len(queries), num_classes))
    for i, query in enumerate(queries):
        similarities = [cosine(query, row) for row in features]
        order = sorted(range(len(features)), key=lambda j: -similarities[j])
        best = similarities[order[0]]
        for j in order[:num_neighbors]:
            result[i, labels[j]] += math.exp((similarities[j] - best) / temperature)
    return result
