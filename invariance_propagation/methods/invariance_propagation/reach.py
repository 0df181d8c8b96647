"""What the loss would see of one anchor: hops, hard positives, nearest negatives."""

from typing import NamedTuple

import numpy as np

from invariance_propagation.core.graph import distinct, propagate


class Reached(NamedTuple):
    """What the loss would see of one anchor, for which its row of the bank stands.

    Attributes:
      hops: of each hop, int [n], the positives that it is the first to reach, the most
        similar first.
      chosen: int [n], the positives that are pulled in: the hard (or easy) ones.
      negatives: int [n], the most similar of all that is not reached, likewise.
    """

    hops: list[np.ndarray]
    chosen: np.ndarray
    negatives: np.ndarray


def reach(
    similarities: np.ndarray,
    graph: np.ndarray,
    anchor: int,
    *,
    num_hops: int,
    num_hard: int,
    positives: str,
    form: str,
    background_size: int,
    num_negatives: int,
) -> Reached:
    """Walks the graph from one anchor.

    Args:
      similarities: float [N], of the anchor to all images.
      graph: int [N, k].
      anchor: its index.
      num_hops: l.
      num_hard: P.
      positives: 'hard', the P least similar are pulled in, or 'easy', the most.
      form: of the loss: 'paper', P different images, or 'released', P places of the
        walk, of which several may hold one image.
      background_size: M.
      num_negatives: how many to name, at most.
    """
    index = np.array([anchor])
    slots = propagate(graph, index, num_hops=num_hops)
    kept = np.asarray(distinct(slots, index))[0]
    slots = np.asarray(slots)[0]
    ends = np.cumsum([graph.shape[1] ** hop for hop in range(1, num_hops)])
    hops = [
        by_similarity(ids[keep], similarities)
        for ids, keep in zip(np.split(slots, ends), np.split(kept, ends), strict=True)
    ]
    places = by_similarity(slots if form == "released" else slots[kept], similarities)
    chosen = places[::-1][:num_hard] if positives == "hard" else places[:num_hard]
    background = nearest(similarities, background_size)
    negatives = background[~np.isin(background, [*slots, anchor])]
    return Reached(
        hops,
        np.array(list(dict.fromkeys(chosen[chosen != anchor])), int),
        negatives[:num_negatives],
    )


def cosines(rows: np.ndarray, anchor: int) -> np.ndarray:
    """Returns float32 [N], the cosine of row `anchor` of float32 [N, d] with each row."""
    lengths = np.maximum(np.linalg.norm(rows, axis=1), np.finfo(np.float32).tiny)
    return rows @ (rows[anchor] / lengths[anchor]) / lengths


def nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """The indices of the most similar, in order, int [count]."""
    return by_similarity(np.arange(len(similarities)), similarities)[:count]


def by_similarity(ids: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """`ids`, the most similar first."""
    return ids[np.argsort(-similarities[ids], kind="stable")]
