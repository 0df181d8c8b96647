"""The objective of Invariance Propagation in plain NumPy: float64, loops and sets, slow, and written from the specification alone.

Nothing here is shared with the package and nothing imports JAX, so an error has to be made twice, independently, before a test misses it.

Sizes: `b` images in the batch, `N` training images, `d` embedding size, `k` neighbors per image, `l` hops, `P` hard positives, `M` background size.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

EPSILON = 1e-7  # inside both logarithms of the released form


class Objective(NamedTuple):
    """Both losses of every image, their gradients, and the neighbors found on the way."""

    instance: np.ndarray  # [b]
    propagation: np.ndarray  # [b]
    neighbors: np.ndarray  # [b, k]
    instance_slope: (
        np.ndarray
    )  # [b, d]: with respect to the normalised embedding, as a free vector
    propagation_slope: np.ndarray  # [b, d]
    instance_gradient: np.ndarray  # [b, d]: with respect to the embedding itself
    propagation_gradient: np.ndarray  # [b, d]


def normalise(vector: np.ndarray) -> np.ndarray:
    vector = np.asarray(vector, np.float64)
    norm = math.sqrt(math.fsum(vector * vector))
    return vector / norm if norm > 0 else np.zeros_like(vector)


def propagate(graph: np.ndarray, indices: np.ndarray, *, num_hops: int) -> np.ndarray:
    """Ids reached hop by hop, repeats kept, [b, k + k^2 + ... + k^l]."""
    rows = []
    for anchor in indices:
        slots: list[int] = []
        frontier = [int(anchor)]
        for _ in range(num_hops):
            frontier = [int(neighbor) for node in frontier for neighbor in graph[node]]
            slots.extend(frontier)
        rows.append(slots)
    return np.array(rows, np.int64)


def distinct(positives: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """True where an id stands for the first time in its row and is not the anchor."""
    rows = []
    for row, anchor in zip(positives, indices, strict=True):
        seen = {int(anchor)}
        flags = []
        for node in row:
            flags.append(int(node) not in seen)
            seen.add(int(node))
        rows.append(flags)
    return np.array(rows, bool)


def within_reach(graph: np.ndarray, anchor: int, num_hops: int) -> set[int]:
    """The positives of the paper: breadth-first search, at most `num_hops` steps, without the anchor.

    Deliberately not built on `propagate`, so that the two definitions check each other.
    """
    reached = {int(anchor)}
    frontier = {int(anchor)}
    for _ in range(num_hops):
        frontier = {
            int(neighbor) for node in frontier for neighbor in graph[node]
        } - reached
        reached |= frontier
    return reached - {int(anchor)}


def background_weights(similarities_row: np.ndarray, size: int) -> np.ndarray:
    """How much each row counts as one of the `size` most similar: 1 above the M-th value, a fair share at it, 0 below."""
    value = sorted((float(s) for s in similarities_row), reverse=True)[size - 1]
    above = sum(float(s) > value for s in similarities_row)
    tied = sum(float(s) == value for s in similarities_row)
    weights = []
    for s in similarities_row:
        weights.append(
            1.0 if s > value else (size - above) / tied if s == value else 0.0
        )
    return np.array(weights)


def similarities(embedding: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Dot products of the normalised embedding with every row. `fsum` rounds once, so rows that should tie do tie."""
    direction = normalise(embedding)
    return np.array(
        [math.fsum(direction * np.asarray(row, np.float64)) for row in bank]
    )


def nearest(similarities_row: np.ndarray, anchor: int, num_neighbors: int) -> list[int]:
    """The most similar rows other than the anchor, most similar first; of equals the lower id first."""
    others = [j for j in range(len(similarities_row)) if j != anchor]
    return sorted(others, key=lambda j: (-similarities_row[j], j))[:num_neighbors]


def choose(
    candidates: list[int], similarities_row: np.ndarray, num_hard: int, positives: str
) -> list[int]:
    """The `num_hard` least (hard) or most (easy) similar of the candidates, or all of them if there are fewer."""
    order = {"hard": 1, "easy": -1}[positives]
    return sorted(candidates, key=lambda j: order * similarities_row[j])[:num_hard]


def minus_log_ratio(
    above: dict[int, float],
    below: dict[int, float],
    e: np.ndarray,
    temperature: float,
    epsilon: float,
):
    """-log(sum above / sum below + epsilon) and its derivative by every similarity, for {row: multiplicity} on both sides."""
    numerator = math.fsum(w * e[j] for j, w in above.items())
    denominator = math.fsum(w * e[j] for j, w in below.items())
    ratio = numerator / denominator
    slope = np.zeros(len(e))
    for j, w in above.items():
        slope[j] += w * e[j] / numerator
    for j, w in below.items():
        slope[j] -= w * e[j] / denominator
    return -math.log(ratio + epsilon), -slope * (
        ratio / (ratio + epsilon)
    ) / temperature


def released(
    e: np.ndarray,
    weights: np.ndarray,
    anchor: int,
    slots: list[int],
    temperature: float,
):
    """Both losses as the authors' code has them; `slots` are the chosen positives, repeats and anchor included."""
    everything = {j: w for j, w in enumerate(weights) if w > 0}
    instance = minus_log_ratio({anchor: 1.0}, everything, e, temperature, EPSILON)
    # The M-set sum minus the anchor's whole term, whether or not all of it was in the M-set.
    rest = {j: w for j, w in everything.items() if j != anchor}
    missing = 1.0 - everything.get(anchor, 0.0)
    left = math.fsum(w * e[j] for j, w in rest.items())
    # Nothing is left when the M-set is the anchor alone (M = 1). With ties that nothing is a difference of shares, hence the margin of rounding.
    if left <= missing * e[anchor] * (1 + 1e-12):
        return instance, (0.0, np.zeros(len(e)))
    below = rest | {anchor: -missing}
    return instance, minus_log_ratio(
        dict(Counter(slots)), below, e, temperature, EPSILON
    )


def paper(
    e: np.ndarray,
    weights: np.ndarray,
    anchor: int,
    reached: set[int],
    chosen: list[int],
    temperature: float,
):
    """Both losses as the paper defines them; `reached` are all positives, `chosen` the ones that are pulled in."""
    background = {j: w for j, w in enumerate(weights) if w > 0 and j != anchor}
    instance = minus_log_ratio(
        {anchor: 1.0}, {anchor: 1.0} | background, e, temperature, 0.0
    )
    if not chosen:
        return instance, (0.0, np.zeros(len(e)))
    pulled = {j: 1.0 for j in chosen}
    negatives = {j: w for j, w in background.items() if j not in reached}
    return instance, minus_log_ratio(pulled, pulled | negatives, e, temperature, 0.0)


def losses(
    embeddings: np.ndarray,
    indices: np.ndarray,
    bank: np.ndarray,
    graph: np.ndarray,
    *,
    num_hops: int,
    num_hard: int,
    background_size: int,
    temperature: float,
    form: str,
    positives: str,
) -> Objective:
    embeddings = np.asarray(embeddings, np.float64)
    bank = np.asarray(bank, np.float64)
    out: dict[str, list] = {name: [] for name in Objective._fields}
    for x, anchor in zip(embeddings, (int(i) for i in indices), strict=True):
        s = similarities(x, bank)
        e = np.exp(s / temperature)
        weights = background_weights(s, background_size)
        if form == "released":
            slots = [int(j) for j in propagate(graph, [anchor], num_hops=num_hops)[0]]
            terms = released(
                e, weights, anchor, choose(slots, s, num_hard, positives), temperature
            )
        elif form == "paper":
            reached = within_reach(graph, anchor, num_hops)
            terms = paper(
                e,
                weights,
                anchor,
                reached,
                choose(sorted(reached), s, num_hard, positives),
                temperature,
            )
        else:
            raise ValueError(f"unknown form {form!r}")
        for name, (loss, by_similarity) in zip(
            ("instance", "propagation"), terms, strict=True
        ):
            slope = by_similarity @ bank
            out[name].append(loss)
            out[f"{name}_slope"].append(slope)
            out[f"{name}_gradient"].append(through_norm(slope, x))
        out["neighbors"].append(nearest(s, anchor, np.shape(graph)[1]))
    return Objective(**{name: np.array(rows) for name, rows in out.items()})


def through_norm(slope: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """Gradient by the embedding from the slope by its direction: the tangent part, divided by the norm. Undefined at zero: zero here."""
    embedding = np.asarray(embedding, np.float64)
    norm = math.sqrt(math.fsum(embedding * embedding))
    if norm == 0:
        return np.zeros_like(embedding)
    direction = embedding / norm
    return (slope - direction * (direction @ slope)) / norm


def difference_quotients(
    function, embeddings: np.ndarray, step: float = 1e-6
) -> np.ndarray:
    """Central differences of `function(embeddings) -> [b]`, where row i of the result depends on row i of the input alone."""
    embeddings = np.asarray(embeddings, np.float64)
    gradient = np.zeros_like(embeddings)
    for column in range(embeddings.shape[1]):
        shift = np.zeros_like(embeddings)
        shift[:, column] = step
        gradient[:, column] = (
            function(embeddings + shift) - function(embeddings - shift)
        ) / (2 * step)
    return gradient


def update_bank(
    bank: np.ndarray, indices: np.ndarray, embeddings: np.ndarray, *, momentum: float
) -> np.ndarray:
    bank = np.array(bank, np.float64)
    for i, x in zip(indices, embeddings, strict=True):
        bank[i] = normalise(momentum * bank[i] + (1 - momentum) * normalise(x))
    return bank


def update_graph(
    graph: np.ndarray, indices: np.ndarray, neighbors: np.ndarray
) -> np.ndarray:
    graph = np.array(graph)
    for i, row in zip(indices, neighbors, strict=True):
        graph[i] = row
    return graph
