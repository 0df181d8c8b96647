"""Online Deep Clustering, one image after the other, in float64 and NumPy alone.

Written from the paper and from open-mmlab/OpenSelfSup at commit 1db69ec, in whose order an
iteration goes: odc.py:70-95, then hooks/odc_hook.py:37-48. Two departures: `most` limits
how many small clusters an iteration treats (None: all of them, as released), and 2-means
starts from the two sides of the mean instead of scikit-learn's ten random starts.
"""

from typing import NamedTuple

import numpy as np


class State(NamedTuple):
    bank: np.ndarray  # [N, d]
    labels: np.ndarray  # [N]
    centroids: np.ndarray  # [C, d]


def unit(x: np.ndarray) -> np.ndarray:
    return x / (np.sqrt(np.sum(x * x)) + 1e-10)


def class_weights(labels: np.ndarray, num_clusters: int, power: float) -> np.ndarray:
    """odc.py:140-144."""
    sizes = [int(np.sum(labels == c)) for c in range(num_clusters)]
    weights = np.array([(1 / (size + 1e-5)) ** power for size in sizes])
    return weights / weights.sum()


def weighted_cross_entropy(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> float:
    """torch.nn.CrossEntropyLoss(weight=weights) with its default, reduction='mean'."""
    total, norm = 0.0, 0.0
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        largest = row.max()
        among = largest + np.log(np.sum(np.exp(row - largest)))
        total += weights[label] * (among - row[label])
        norm += weights[label]
    return total / norm


def nearest(feature: np.ndarray, centroids: np.ndarray, allowed: list[int]) -> int:
    best = allowed[0]
    for c in allowed:
        if centroids[c] @ feature > centroids[best] @ feature:
            best = c
    return best


def two_means(rows: np.ndarray, iterations: int = 20) -> np.ndarray:
    """Which rows are in the second half, bool [n]; see core.kmeans.two_means."""
    center = rows.mean(axis=0)
    distances = [np.sum((row - center) ** 2) for row in rows]
    away = rows[int(np.argmax(distances))] - center
    second = np.array([(row - center) @ away > 0 for row in rows])
    for _ in range(iterations):
        if second.all() or not second.any():
            break
        one, two = rows[~second].mean(axis=0), rows[second].mean(axis=0)
        second = np.array(
            [np.sum((row - two) ** 2) < np.sum((row - one) ** 2) for row in rows]
        )
    return second


def small_clusters(
    state: State, *, min_cluster: int, most: int | None, iterations: int, step: int
) -> State:
    """memories/odc_memory.py:129-164 and 202-249; with `most`, clusters take turns."""
    bank, labels, centroids = (x.copy() for x in state)
    num_clusters = len(centroids)
    sizes = [int(np.sum(labels == c)) for c in range(num_clusters)]
    small = [c for c in range(num_clusters) if sizes[c] < min_cluster]
    large = [c for c in range(num_clusters) if c not in small]
    first = 0 if most is None else step * most % num_clusters
    turns = [c for c in small if c >= first] + [c for c in small if c < first]
    chosen = sorted(turns[:most])
    for c in chosen:
        for image in np.flatnonzero(labels == c):
            labels[image] = nearest(bank[image], centroids, large)
    for empty in chosen:
        assert not np.any(labels == empty)
        sizes = [int(np.sum(labels == c)) for c in range(num_clusters)]
        largest = int(np.argmax(sizes))
        members = np.flatnonzero(labels == largest)
        second = two_means(bank[members], iterations)
        if second.all() or not second.any():
            second = np.arange(len(members)) % 2 == 1  # released: a random half
        labels[members[second]] = empty
        for c in (largest, empty):
            centroids[c] = bank[labels == c].mean(axis=0)
    return State(bank, labels, centroids)


def iteration(
    state: State,
    ids: np.ndarray,
    embeddings: np.ndarray,
    logits: np.ndarray,
    *,
    step: int,
    bank_momentum: float,
    min_cluster: int,
    splits_per_step: int | None,
    refresh_every: int,
    weight_power: float,
    split_iterations: int,
) -> tuple[State, float, float]:
    """The state after a step counted from 0, the loss, and the share of changed labels."""
    bank, labels, centroids = (x.copy() for x in state)
    weights = class_weights(labels, len(centroids), weight_power)
    loss = weighted_cross_entropy(logits, labels[ids], weights)
    changed = 0
    for image, embedding in zip(ids, np.asarray(embeddings, np.float64), strict=True):
        new = bank_momentum * bank[image] + (1 - bank_momentum) * unit(embedding)
        bank[image] = unit(new)
        label = nearest(bank[image], centroids, list(range(len(centroids))))
        changed += label != labels[image]
        labels[image] = label
    if (step + 1) % refresh_every == 0:
        for c in range(len(centroids)):
            if np.any(labels == c):
                centroids[c] = bank[labels == c].mean(axis=0)
    after = small_clusters(
        State(bank, labels, centroids),
        min_cluster=min_cluster,
        most=splits_per_step,
        iterations=split_iterations,
        step=step,
    )
    return after, loss, changed / len(ids)


def kmeans(
    rows: np.ndarray, start: np.ndarray, iterations: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd's algorithm; an empty cluster takes the row farthest from its own centroid.

    Args:
      rows: [N, d].
      start: [K, d], the first centroids.
      iterations: how often rows are assigned.
    """
    rows, centroids = np.asarray(rows, np.float64), np.asarray(start, np.float64)
    for _ in range(iterations):
        distances = np.array([[np.sum((x - c) ** 2) for c in centroids] for x in rows])
        labels, least = distances.argmin(axis=1), distances.min(axis=1)
        empty = [c for c in range(len(centroids)) if not np.any(labels == c)]
        keepers = [
            min(np.flatnonzero(labels == c), key=lambda i: (least[i], i))
            for c in range(len(centroids))
            if c not in empty
        ]
        givers = [i for i in range(len(rows)) if i not in keepers]
        givers.sort(key=lambda i: (-least[i], i))
        for c, i in zip(empty, givers, strict=False):
            labels[i] = c
        centroids = np.stack(
            [rows[labels == c].mean(axis=0) for c in range(len(centroids))]
        )
    return labels, centroids
