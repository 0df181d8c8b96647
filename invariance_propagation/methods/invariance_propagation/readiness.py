"""Decides without labels when the graph is good enough to propagate over.

The paper does not do this; it starts at an epoch that is set in advance. While the
neighbours of an image change at every visit, the graph leads to arbitrary images. So we
watch the share of its neighbours that an image finds again, beyond what chance would
find.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation.errors import UserError

NOT_YET = -1
# How far above its mean, in standard deviations, chance may get.
STRAYS = 5.0


class Readiness(NamedTuple):
    """Records how stable the graph is.

    Attributes:
      overlap: float32 [], share of kept neighbours, averaged over about an epoch.
      since: int32 [], the step from which the graph counts as ready, or NOT_YET.
    """

    overlap: Any
    since: Any


def init_readiness() -> Readiness:
    """Returns the record of a graph that is not ready."""
    return Readiness(jnp.float32(0), jnp.int32(NOT_YET))


def update_readiness(
    readiness: Readiness,
    overlap: jax.Array,
    step: jax.Array,
    *,
    threshold: float,
    steps_per_epoch: int,
) -> Readiness:
    """Adds one step to the record; a graph that has been ready once stays ready.

    Args:
      readiness: the record before the step.
      overlap: float32 [] in [0, 1], share of the neighbours of this step's images that
        were in their rows of the graph.
      step: int32 [], from 0.
      threshold: share at which the graph is ready; see `threshold_of`.
      steps_per_epoch: number of steps in which a step's weight in the mean falls to 1/e.

    Returns:
      The record after the step. `since` becomes `step` + 1 as soon as the mean reaches
      `threshold`.
    """
    new = readiness.overlap + (overlap - readiness.overlap) / steps_per_epoch
    starts = (readiness.since == NOT_YET) & (new >= threshold)
    return Readiness(new, jnp.where(starts, step + 1, readiness.since))


def is_ready(readiness: Readiness) -> jax.Array:
    """Returns bool [], whether the graph is ready."""
    return readiness.since != NOT_YET


def check_threshold(start_overlap: float) -> None:
    """Raises UserError unless `start_overlap` lies strictly between 0 and 1."""
    if not 0 < start_overlap < 1:
        raise UserError(f"method.start_overlap={start_overlap}: set it between 0 and 1")


def threshold_of(
    start_overlap: float, *, num_examples: int, num_neighbors: int
) -> float:
    """Computes the share of kept neighbours at which a graph is ready.

    Random neighbours keep k / (N - 1) on average, and the mean over an epoch, of at least
    N k / 2 neighbours, varies around that. In a small data set chance alone would reach
    `start_overlap`. So `start_overlap`, or `STRAYS` standard deviations if that is more,
    is added to the share that chance keeps.

    Args:
      start_overlap: share beyond chance, between 0 and 1.
      num_examples: N.
      num_neighbors: k.

    Returns:
      A share between 0 and 1.

    Raises:
      UserError: the data set is too small to tell any overlap from chance.
    """
    chance = num_neighbors / (num_examples - 1)
    # If a batch is just above half of the images, an epoch visits only that half.
    visited = num_examples * num_neighbors / 2
    spread = (chance * (1 - chance) / visited) ** 0.5
    threshold = chance + max(start_overlap, STRAYS * spread)
    if threshold >= 1:
        raise UserError(
            "method.start='auto' cannot tell a stable graph from chance: with "
            f"method.num_neighbors={num_neighbors} of {num_examples} images, random "
            f"neighbours keep {chance:.0%}; set method.start='epoch', or lower "
            "method.start_overlap and method.num_neighbors"
        )
    return threshold
