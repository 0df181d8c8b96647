"""The two losses (3) and (6), computed from similarities without bank or devices.

There are two forms: 'paper' follows the paper's definitions over sets, 'released'
follows the authors' code. Numbers such as (3) are those of the equations at the top of
`core.objective`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

FORMS = ("paper", "released")
POSITIVES = ("hard", "easy")
# The authors' code adds 1e-7 inside its logarithms, which caps a term at 16.1.
LOG_FLOOR = math.log(1e-7)


class Logits(NamedTuple):
    """Holds all that the losses need to know about b anchors.

    A logit is a similarity divided by the temperature.

    Attributes:
      anchor: float32 [b], logit of the anchor's embedding and its row of the bank.
      slots: float32 [b, slots], logit of each slot of the walk.
      anchor_in_set: float32 [b] in [0, 1], how much the anchor counts as a member of
        the background.
      slots_in_set: float32 [b, slots] in [0, 1], the same for each slot.
      log_rest: float32 [b], log of the sum of exp(logit) over the background without
        the anchor and all slots.
    """

    anchor: jax.Array
    slots: jax.Array
    anchor_in_set: jax.Array
    slots_in_set: jax.Array
    log_rest: jax.Array


def paper_losses(
    logits: Logits, distinct: jax.Array, num_hard: int, positives: str
) -> tuple[jax.Array, jax.Array]:
    """Computes the losses as the paper defines them, over sets.

    Without negatives, or without positives, the propagation loss and its gradient are 0.

    Args:
      logits: what is known about b anchors.
      distinct: bool [b, slots], the slots that make up the set of positives N(i).
      num_hard: P.
      positives: 'hard', or 'easy' for the P most similar positives.

    Returns:
      The instance and the propagation loss, float32 [b] each.

    Source: Wang et al. 2020, arXiv 2010.11694.
    """
    # (3): -log(e_i / (e_i + rest)) = log(1 + rest / e_i)
    instance = _softplus(_log_background(logits, distinct) - logits.anchor)

    # (4), (5) and (6): -log(hard / (hard + negatives)) = log(1 + negatives / hard)
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
    """Computes the losses as the authors' code does (with its `exclusive=1`).

    Let T be the background, including the anchor i if it is among the M largest:

      instance    = -log(e_i / sum_T + 1e-7)
      propagation = -log(sum_hard / (sum_T - e_i) + 1e-7)

    Repeated slots count repeatedly, and hard positives need not lie in T, so the
    propagation loss can be negative. It is 0 if sum_T - e_i is 0 (M = 1, anchor in T).

    Args:
      logits: what is known about b anchors.
      distinct: bool [b, slots], the slots that make up the set of positives N(i).
      background_size: M.
      num_hard: P.
      positives: 'hard', or 'easy' for the P most similar slots.

    Returns:
      The instance and the propagation loss, float32 [b] each.

    Source: WangFeng18/InvariancePropagation, objective.py.
    """
    member = jnp.where(logits.anchor_in_set > 0, logits.anchor_in_set, 1.0)
    member = jnp.where(
        logits.anchor_in_set > 0, logits.anchor + jnp.log(member), -jnp.inf
    )
    background = _log_background(logits, distinct)
    instance = -jnp.logaddexp(logits.anchor - _log_add(background, member), LOG_FLOOR)

    # sum_T - e_i = rest - missing * e_i. The rest does not contain e_i, so nothing
    # cancels, as it would if e_i were subtracted from a sum that contains it.
    none = (background_size == 1) & (logits.anchor_in_set > 0)
    rest = jnp.where(none, 0.0, background)
    missing = (1 - logits.anchor_in_set) * jnp.exp(
        jnp.minimum(logits.anchor - rest, 0.0)
    )
    # `missing` is below 1, but float32 may round it up to 1; hence the bound.
    total = rest + jnp.log1p(-jnp.where(none, 0.0, jnp.minimum(missing, 1 - 1e-6)))
    every = jnp.ones(logits.slots.shape, bool)
    chosen = _log_sum_chosen(logits.slots, every, num_hard, positives)
    return instance, jnp.where(none, 0.0, -jnp.logaddexp(chosen - total, LOG_FLOOR))


def log_sum(logits: jax.Array, weights: jax.Array) -> jax.Array:
    """Computes log(sum(weights * exp(logits))) along the last axis; -inf where empty.

    Args:
      logits: float32 [..., n]; -inf counts as absent.
      weights: float32 [..., n], not negative.

    Returns:
      float32 [...]. Where nothing is summed the gradient is 0, not NaN.
    """
    present = (weights > 0) & (logits != -jnp.inf)  # True for NaN, which must show
    largest = jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf, where=present)
    largest = lax.stop_gradient(jnp.where(largest == -jnp.inf, 0.0, largest))
    terms = jnp.exp(jnp.where(present, logits - largest, 0.0))
    total = jnp.sum(jnp.where(present, weights * terms, 0.0), axis=-1)
    empty = total <= 0
    return jnp.where(
        empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + largest[..., 0]
    )


def _log_background(logits: Logits, distinct: jax.Array) -> jax.Array:
    """Computes the log-sum over the background without the anchor."""
    members = log_sum(logits.slots, jnp.where(distinct, logits.slots_in_set, 0.0))
    return _log_add(logits.log_rest, members)


def _log_sum_chosen(
    slots: jax.Array, valid: jax.Array, num_hard: int, positives: str
) -> jax.Array:
    """Computes the log-sum over the P least ('hard') or most similar valid slots (4)."""
    order = {"hard": -slots, "easy": slots}[positives]
    # A NaN must show in the loss, so it is chosen first, whatever its sign.
    order = jnp.where(jnp.isnan(order), jnp.inf, order)
    order = lax.stop_gradient(jnp.where(valid, order, -jnp.inf))
    _, place = lax.top_k(order, min(num_hard, slots.shape[1]))
    chosen = jnp.take_along_axis(slots, place, axis=1)
    kept = jnp.take_along_axis(valid, place, axis=1)
    return log_sum(chosen, kept.astype(slots.dtype))


def _log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes log(exp(a) + exp(b)), with a zero gradient where both are -inf."""
    both = jnp.stack([a, b], axis=-1)
    return log_sum(both, jnp.ones_like(both))


def _softplus(x: jax.Array) -> jax.Array:
    """Computes log(1 + e^x); at x = -inf it is 0 with a zero gradient."""
    nothing = x == -jnp.inf
    return jnp.where(nothing, 0.0, jax.nn.softplus(jnp.where(nothing, 0.0, x)))
