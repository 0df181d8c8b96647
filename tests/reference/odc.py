"""One iteration of ODC in float64 with loops, from its specification.

Order as in the released code (open-mmlab/OpenSelfSup at 1db69ec): odc_memory.py and
odc_hook.py. Only the division of a cluster is this project's own.
"""

from typing import Any

import numpy as np

ROUNDS = 20


def unit(x: np.ndarray) -> np.ndarray:
    length = np.sqrt((x**2).sum())
    return x / length if length > 0 else x


def losses(
    logits: np.ndarray, labels: np.ndarray, sizes: np.ndarray, *, balance: float
) -> np.ndarray:
    """Weighted cross-entropies whose mean is PyTorch's weighted mean."""
    weights, crosses = [], []
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        weights.append((1 / (sizes[label] + 1e-5)) ** balance)
        crosses.append(np.log(np.exp(row - row.max()).sum()) + row.max() - row[label])
    return len(labels) * np.array(weights) * crosses / np.sum(weights)


def iteration(
    memory: dict[str, Any],
    indices: np.ndarray,
    embeddings: np.ndarray,
    *,
    step: int,
    min_size: int,
    bank_momentum: float,
    centroid_every: int,
) -> dict[str, Any]:
    """Updates bank, labels and centroids after one batch."""
    bank, labels = memory["bank"].copy(), memory["labels"].copy()
    centroids = memory["centroids"].copy()
    for i, embedding in zip(indices, np.asarray(embeddings, np.float64), strict=True):
        moved = bank_momentum * bank[i] + (1 - bank_momentum) * unit(embedding)
        bank[i] = unit(moved)
        labels[i] = np.argmax(centroids @ bank[i])
    if (step + 1) % centroid_every == 0:
        for cluster in range(len(centroids)):
            if (labels == cluster).any():
                centroids[cluster] = bank[labels == cluster].mean(axis=0)
    small = [c for c in range(len(centroids)) if (labels == c).sum() < min_size]
    others = [c for c in range(len(centroids)) if c not in small]
    for cluster in small:
        for i in np.flatnonzero(labels == cluster):
            labels[i] = others[np.argmax(centroids[others] @ bank[i])]
    for cluster in small:
        largest = np.bincount(labels, minlength=len(centroids)).argmax()
        members = np.flatnonzero(labels == largest)
        labels[members[divide(bank[members])]] = cluster
        for changed in (largest, cluster):
            centroids[changed] = bank[labels == changed].mean(axis=0)
    return {"bank": bank, "labels": labels, "centroids": centroids, "small": small}


def divide(rows: np.ndarray) -> np.ndarray:
    """2-means from the row farthest from the mean, and the row farthest from that one."""

    def farthest(point: np.ndarray) -> np.ndarray:
        return rows[np.argmax(((rows - point) ** 2).sum(axis=1))]

    one = farthest(rows.mean(axis=0))
    centres = [one, farthest(one)]
    for number in range(ROUNDS + 1):
        away = [((rows - centre) ** 2).sum(axis=1) for centre in centres]
        second = away[1] < away[0]
        if number < ROUNDS:
            for side, chosen in enumerate((~second, second)):
                if chosen.any():
                    centres[side] = rows[chosen].mean(axis=0)
    if not second.any() or second.all():
        second = np.arange(len(rows)) % 2 == 1
    return second
