"""Online Deep Clustering in NumPy, one image and one cluster after the other.

Written from the order of the released code: models/odc.py, memories/odc_memory.py and
hooks/odc_hook.py of open-mmlab/OpenSelfSup at 1db69ec. What that leaves to scikit-learn,
the 2-means of a split, has the rule of this project: start at the plane through the mean
across the direction of the farthest member, then Lloyd's iterations.
"""

from dataclasses import dataclass

import numpy as np


@dataclass
class Memory:
    bank: np.ndarray  # [N, d]
    labels: np.ndarray  # [N]
    centroids: np.ndarray  # [C, d]

    def copy(self) -> "Memory":
        return Memory(self.bank.copy(), self.labels.copy(), self.centroids.copy())

    def members(self, cluster: int) -> list[int]:
        return [i for i, label in enumerate(self.labels) if label == cluster]

    def size(self, cluster: int) -> int:
        return len(self.members(cluster))


def unit(x: np.ndarray) -> np.ndarray:
    return x / (np.linalg.norm(x) + 1e-10)


def loss(logits: np.ndarray, labels: np.ndarray, sizes: np.ndarray, power: float):
    """The weighted mean of PyTorch's CrossEntropyLoss, weights as `set_reweight` has them."""
    inverse = (1 / (sizes + 1e-5)) ** power
    weight = inverse / inverse.sum()
    total, weights = 0.0, 0.0
    for row, label in zip(np.asarray(logits, np.float64), labels, strict=True):
        shifted = row - row.max()
        log_probability = shifted[label] - np.log(np.exp(shifted).sum())
        total -= weight[label] * log_probability
        weights += weight[label]
    return total / weights


def best(centroids: np.ndarray, row: np.ndarray, among: list[int]) -> int:
    products = [centroids[c] @ row for c in among]
    return among[int(np.argmax(products))]


def visit(memory: Memory, indices: np.ndarray, embeddings: np.ndarray, *, m: float):
    """Moves rows and labels of a batch; returns the share of labels that changed."""
    everywhere, changed = list(range(len(memory.centroids))), 0
    for i, embedding in zip(indices, embeddings, strict=True):
        memory.bank[i] = unit(m * memory.bank[i] + (1 - m) * unit(embedding))
        label = best(memory.centroids, memory.bank[i], everywhere)
        changed += label != memory.labels[i]
        memory.labels[i] = label
    return changed / len(indices)


def recompute(memory: Memory, clusters: list[int]) -> None:
    for cluster in clusters:
        members = memory.members(cluster)
        if members:
            memory.centroids[cluster] = memory.bank[members].mean(axis=0)


def halves(rows: np.ndarray, *, iterations: int) -> tuple[list[int], list[int]]:
    """Which rows [n, d] are in the first and in the second half."""
    mean = rows.mean(axis=0)
    distances = [((row - mean) ** 2).sum() for row in rows]
    across = rows[int(np.argmax(distances))] - mean
    second = [bool(row @ across > mean @ across) for row in rows]
    for _ in range(iterations):
        if all(second) or not any(second):
            break
        one = rows[[not s for s in second]].mean(axis=0)
        two = rows[second].mean(axis=0)
        second = [((row - two) ** 2).sum() < ((row - one) ** 2).sum() for row in rows]
    if all(second) or not any(second):
        second = [i % 2 == 1 for i in range(len(rows))]
    places = range(len(rows))
    return [i for i in places if not second[i]], [i for i in places if second[i]]


def split_largest(memory: Memory, empty: int, *, iterations: int) -> None:
    sizes = [memory.size(c) for c in range(len(memory.centroids))]
    largest = int(np.argmax(sizes))
    members = np.array(memory.members(largest))
    first, second = halves(memory.bank[members], iterations=iterations)
    moved = first if len(second) > len(first) else second
    memory.labels[members[moved]] = empty
    recompute(memory, [largest, empty])


def deal_with_small(memory: Memory, *, smallest: int, iterations: int) -> int:
    """Returns how many clusters were small."""
    every = range(len(memory.centroids))
    small = [c for c in every if memory.size(c) < smallest]
    others = [c for c in every if c not in small]
    for cluster in small:
        for i in memory.members(cluster):
            memory.labels[i] = best(memory.centroids, memory.bank[i], others)
    for cluster in small:
        assert memory.size(cluster) == 0
        split_largest(memory, cluster, iterations=iterations)
    return len(small)


def iterate(
    memory: Memory,
    indices: np.ndarray,
    embeddings: np.ndarray,
    *,
    step: int,
    m: float,
    every: int,
    smallest: int,
    iterations: int,
) -> tuple[float, int]:
    """One iteration on the memory: the share of changed labels, and of small clusters."""
    changed = visit(memory, indices, embeddings, m=m)
    if (step + 1) % every == 0:
        recompute(memory, list(range(len(memory.centroids))))
    return changed, deal_with_small(memory, smallest=smallest, iterations=iterations)


def lloyd(rows: np.ndarray, centroids: np.ndarray, *, iterations: int):
    """Labels and means after so many iterations of k-means, and one more."""
    centroids = centroids.copy()
    for _ in range(iterations + 1):
        labels = np.array(
            [np.argmin([((row - c) ** 2).sum() for c in centroids]) for row in rows]
        )
        for cluster in range(len(centroids)):
            if (labels == cluster).any():
                centroids[cluster] = rows[labels == cluster].mean(axis=0)
    return labels, centroids
