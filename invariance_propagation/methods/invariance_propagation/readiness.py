"""When a graph is good enough to propagate over, judged without labels.

Not in the paper, which starts at an epoch that is set beforehand. A graph whose rows
are another at each visit leads to arbitrary images; so what is watched is the share of
its neighbours that an image finds again, beyond what it would find by chance.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation.errors import UserError

NOT_YET = -1
# Standard deviations by which chance alone may be above its mean.
STRAYS = 5.0


class Readiness(NamedTuple):
    """overlap float32 [], mean of about an epoch; since int32 [], a step or NOT_YET."""

    overlap: Any
    since: Any


def init_readiness() -> Readiness:
    return Readiness(jnp.float32(0), jnp.int32(NOT_YET))


def update_readiness(
    readiness: Readiness,
    overlap: jax.Array,
    step: jax.Array,
    *,
    threshold: float,
    steps_per_epoch: int,
) -> Readiness:
    """Takes in one step; a graph that has been ready once remains so.

    Args:
      readiness: as it was.
      overlap: float32 [], share of the neighbours of this step's images that were in
        their rows of the graph, in [0, 1].
      step: int32 [], from 0.
      threshold: share from which on the graph is ready, see `threshold_of`.
      steps_per_epoch: the weights of the mean fall to 1/e in so many steps.

    Returns:
      `since` is the step after the first whose mean reached `threshold`.
    """
    new = readiness.overlap + (overlap - readiness.overlap) / steps_per_epoch
    starts = (readiness.since == NOT_YET) & (new >= threshold)
    return Readiness(new, jnp.where(starts, step + 1, readiness.since))


def is_ready(readiness: Readiness) -> jax.Array:
    """bool []."""
    return readiness.since != NOT_YET


def check_threshold(start_overlap: float) -> None:
    """Raises UserError unless it is a share that can be reached and missed."""
    if not 0 < start_overlap < 1:
        raise UserError(f"start_overlap={start_overlap}: set it between 0 and 1")


def threshold_of(
    start_overlap: float, *, num_examples: int, num_neighbors: int
) -> float:
    """Computes the share of kept neighbours from which on a graph is ready.

    Random neighbours keep k / (N - 1) on average, and the mean over an epoch, of N k / 2
    neighbours or more, strays around that. In a small set that alone would reach
    `start_overlap`, so it comes on top, and is at least `STRAYS` standard deviations.

    Args:
      start_overlap: share beyond chance, as `check_threshold` has it.
      num_examples: N.
      num_neighbors: k.

    Returns:
      A share between 0 and 1.

    Raises:
      UserError: the set is so small that no overlap is beyond chance.
    """
    chance = num_neighbors / (num_examples - 1)
    # A batch just above half of the images leaves almost half of them out of an epoch.
    looked_at = num_examples * num_neighbors / 2
    spread = (chance * (1 - chance) / looked_at) ** 0.5
    threshold = chance + max(start_overlap, STRAYS * spread)
    if threshold >= 1:
        raise UserError(
            f"start='auto' cannot tell what is kept from chance: random neighbours keep "
            f"{chance:.0%} with num_neighbors={num_neighbors} of {num_examples} images; "
            "set start='epoch', or start_overlap and num_neighbors lower"
        )
    return threshold
