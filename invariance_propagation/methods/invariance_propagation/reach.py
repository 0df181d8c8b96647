"""Shows what the loss would use for one anchor: hops, hard positives, negatives."""

from typing import NamedTuple

import numpy as np

from invariance_propagation.core.graph import distinct, propagate
from invariance_propagation.methods.invariance_propagation.options import Options
from invariance_propagation.methods.measures import most_similar


class Reached(NamedTuple):
    """Holds the images that the loss would compare with one anchor.

    The anchor's row of the bank stands in for its embedding.

    Attributes:
      hops: for each hop, int [n], the positives that no earlier hop reaches, the most
        similar first.
      chosen: int [n], the positives that the propagation loss pulls in.
      negatives: int [n], images of the background that no hop reaches, the most similar
        first.
    """

    hops: list[np.ndarray]
    chosen: np.ndarray
    negatives: np.ndarray


def reach(
    similarities: np.ndarray,
    graph: np.ndarray,
    anchor: int,
    *,
    options: Options,
    num_negatives: int,
) -> Reached:
    """Walks the graph from one anchor.

    Args:
      similarities: float [N], of the anchor to all images.
      graph: int [N, k].
      anchor: index of the anchor.
      options: those of the method. With form='released' the P chosen positives are P
        slots of the walk, so fewer different images may be chosen.
      num_negatives: the most negatives to return.
    """
    index, num_hops = np.array([anchor]), options.num_hops
    slots = propagate(graph, index, num_hops=num_hops)
    first = np.asarray(distinct(slots, index))[0]
    slots = np.asarray(slots)[0]
    ends = np.cumsum([graph.shape[1] ** hop for hop in range(1, num_hops)])
    hops = [
        most_similar(similarities, among=ids[is_first])
        for ids, is_first in zip(
            np.split(slots, ends), np.split(first, ends), strict=True
        )
    ]
    candidates = slots if options.form == "released" else slots[first]
    ordered = most_similar(similarities, among=candidates)
    chosen = (ordered[::-1] if options.positives == "hard" else ordered)[
        : options.num_hard
    ]
    background = most_similar(similarities, count=options.background_size)
    negatives = background[~np.isin(background, [*slots, anchor])]
    return Reached(
        hops,
        np.array(list(dict.fromkeys(chosen[chosen != anchor])), int),
        negatives[:num_negatives],
    )
