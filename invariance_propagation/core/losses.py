"""The two losses, from similarities: pure, without bank or devices.

Both forms take the same view of an anchor. All values are logits, similarity /
temperature, of b anchors:

  anchor       float32 [b], to the anchor's own row of the bank
  slots        float32 [b, slots], to each slot of the propagated row
  in_set       float32 in [0, 1], [b] and [b, slots]: how much the anchor and
               each slot count as members of the background
  log_rest     float32 [b], log-sum over the background without the anchor and
               all slots
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FORMS = ("paper", "released")
POSITIVES = ("hard", "easy")
# Inside the released code's logarithms; it caps a term at 16.1.
LOG_FLOOR = math.log(1e-7)


class Logits(NamedTuple):
    """What the losses see of b anchors; see the module's docstring."""

    anchor: jax.Array
    slots: jax.Array
    anchor_in_set: jax.Array
    slots_in_set: jax.Array
    log_rest: jax.Array


def paper_losses(
    logits: Logits, distinct: jax.Array, num_hard: int, positives: str
) -> tuple[jax.Array, jax.Array]:
    """The losses as the paper defines them, over sets.

    instance = -log(e_a / (e_a + sum of the background without the anchor));
    propagation = -log(sum_hard / (sum_hard + sum_negatives)), where hard are the
    P least similar distinct positives and the negatives are the background
    without positives and anchor. Without negatives, or without positives, the
    propagation loss is 0 and so is its gradient.

    Args:
      logits: of b anchors.
      distinct: bool [b, slots], which slots make up the set of positives.
      num_hard: P.
      positives: 'hard', or 'easy' for the P most similar.

    Returns:
      instance and propagation, float32 [b] each.

    Source: Wang et al. 2020, arXiv 2010.11694.
    """
    instance = _softplus(_log_background(logits, distinct) - logits.anchor)

    chosen = _log_sum_chosen(logits.slots, distinct, num_hard, positives)
    none = (chosen == -jnp.inf) | (logits.log_rest == -jnp.inf)
    gap = jnp.where(none, 0.0, logits.log_rest) - jnp.where(none, 0.0, chosen)
    return instance, jnp.where(none, 0.0, _softplus(gap))


def released_losses(
    logits: Logits,
    distinct: jax.Array,
    background_size: int,
    num_hard: int,
    positives: str,
) -> tuple[jax.Array, jax.Array]:
    """The losses as the released code computes them (`exclusive=1`).

    With T the background, the anchor included if it is among the M largest:
    instance = -log(e_a / sum_T + 1e-7);
    propagation = -log(sum_hard / (sum_T - e_a) + 1e-7), where slots keep their
    repeats and hard ones need not lie in T, so that it can be negative. Where
    sum_T - e_a is 0 (M = 1 and the anchor in T) the propagation loss is 0.

    Args:
      logits: of b anchors.
      distinct: bool [b, slots], which slots make up the set of positives.
      background_size: M.
      num_hard: P.
      positives: 'hard', or 'easy' for the P most similar.

    Returns:
      instance and propagation, float32 [b] each.

    Source: WangFeng18/InvariancePropagation, objective.py.
    """
    own = jnp.where(logits.anchor_in_set > 0, logits.anchor_in_set, 1.0)
    own = jnp.where(logits.anchor_in_set > 0, logits.anchor + jnp.log(own), -jnp.inf)
    background = _log_background(logits, distinct)
    instance = -jnp.logaddexp(logits.anchor - _log_add(background, own), LOG_FLOOR)

    # sum_T - e_a = rest - missing * e_a: nothing is subtracted from a sum that
    # contains it, so nothing cancels.
    none = (background_size == 1) & (logits.anchor_in_set > 0)
    rest = jnp.where(none, 0.0, background)
    missing = (1 - logits.anchor_in_set) * jnp.exp(
        jnp.minimum(logits.anchor - rest, 0.0)
    )
    # Below 1 in real numbers; the bound is for what float32 rounds up to it.
    total = rest + jnp.log1p(-jnp.where(none, 0.0, jnp.minimum(missing, 1 - 1e-6)))
    every = jnp.ones(logits.slots.shape, bool)
    chosen = _log_sum_chosen(logits.slots, every, num_hard, positives)
    return instance, jnp.where(none, 0.0, -jnp.logaddexp(chosen - total, LOG_FLOOR))


def log_sum(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """log(sum(weights * exp(logits))) along the last axis; -inf where empty.

    Args:
      logits: float32 [..., n]; -inf counts as absent.
      weights: float32 [..., n], not negative.

    Returns:
      float32 [...], with a gradient of zero, not NaN, where nothing is summed.
    """
    present = (weights > 0) & (logits != -jnp.inf)  # a NaN is present, and shows
    largest = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf, where=present)
    largest = lax.stop_gradient(jnp.where(largest == -jnp.inf, 0.0, largest))
    terms = jnp.exp(jnp.where(present, logits - largest, 0.0))
    total = jnp.sum(jnp.where(present, weights * terms, 0.0), axis=-1)
    empty = total <= 0
    return jnp.where(
        empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + largest[..., 0]
    )


def _log_background(logits: Logits, distinct: jax.Array) -> jax.Array:
    """Log-sum over the background without the anchor."""
    members = log_sum(logits.slots, jnp.where(distinct, logits.slots_in_set, 0.0))
    return _log_add(logits.log_rest, members)


def _log_sum_chosen(
    slots: jax.Array, valid: jax.Array, num_hard: int, positives: str
) -> jax.Array:
    """Log-sum over the P least ('hard') or most ('easy') similar valid slots."""
    order = {"hard": -slots, "easy": slots}[positives]
    # A NaN is chosen first, whatever its sign: it must show in the loss.
    order = jnp.where(jnp.isnan(order), jnp.inf, order)
    order = lax.stop_gradient(jnp.where(valid, order, -jnp.inf))
    _, place = lax.top_k(order, min(num_hard, slots.shape[1]))
    chosen = jnp.take_along_axis(slots, place, axis=1)
    kept = jnp.take_along_axis(valid, place, axis=1)
    return log_sum(chosen, kept.astype(slots.dtype))


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    both = jnp.stack([a, b], axis=-1)
    return log_sum(both, jnp.ones_like(both))


def _softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x), 0 with a zero gradient at x = -inf."""
    nothing = x == -jnp.inf
    return jnp.where(nothing, 0.0, jax.nn.softplus(jnp.where(nothing, 0.0, x)))
