"""The second stage with one view: labels and centres become averages over epochs.

One view of an image is noisy, and so is its label. From an epoch on, an image's target is
the average of its labels since, and the centres of the loss are averages too. In epoch t of
this stage, from 0, what is new weighs f = 1 / (t + 1).

An image keeps S labels with weights instead of K numbers. A label that it does not have yet
takes the place of the lightest one, whose weight goes to the others.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from invariance_propagation.core.bank import normalize
from invariance_propagation.methods.coke.clustering import Clusters


class Slots(NamedTuple):
    """Holds labels with weights, for n images or this device's rows, in H clusterings.

    Attributes:
      labels: int32 [n, H, S].
      weights: float32 [n, H, S], which add up to 1, or all 0 before this stage.
    """

    labels: jax.Array
    weights: jax.Array


def init_slots(num_examples: int, num_heads: int, num_slots: int) -> Slots:
    """Makes slots without labels."""
    shape = (num_examples, num_heads, num_slots)
    return Slots(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32))


def add_label(slots: Slots, new: jax.Array, factor: jax.Array) -> Slots:
    """Averages new labels, int32 [b, H], into slots [b, H, S].

    Args:
      slots: of these images; labels with weight 0 do not count.
      new: the labels.
      factor: float32 [], f, their weight; it is 1 for an image without labels so far.
    """
    same = (slots.labels == new[..., None]) & (slots.weights > 0)
    known = same.any(axis=-1)
    place = jnp.where(known, same.argmax(axis=-1), slots.weights.argmin(axis=-1))
    chosen = jax.nn.one_hot(place, slots.labels.shape[-1], dtype=bool)
    weights = jnp.where(chosen & ~known[..., None], 0.0, slots.weights)
    left = weights.sum(axis=-1, keepdims=True)
    factor = jnp.where(left > 0, factor, 1.0)
    weights = weights * (1 - factor) / jnp.where(left > 0, left, 1.0)
    return Slots(
        jnp.where(chosen, new[..., None], slots.labels),
        weights + jnp.where(chosen, factor, 0.0),
    )


def target_of(slots: Slots, labels: jax.Array, temperature: float) -> Slots:
    """Returns labels and weights to train on, which add up to 1.

    Args:
      slots: of b images, [b, H, S].
      labels: int32 [b, H], for images whose slots are empty.
      temperature: t; a weight w counts exp(w / t).
    """
    filled = slots.weights > 0
    scores = jnp.where(filled, slots.weights / temperature, -jnp.inf)
    first = jnp.arange(scores.shape[-1]) == 0
    empty = ~filled.any(axis=-1, keepdims=True)
    scores = jnp.where(empty & first, 0.0, scores)
    labels = jnp.where(empty, labels[..., None], slots.labels)
    return Slots(labels, jax.nn.softmax(scores, axis=-1))


def end_epoch(clusters: Clusters, factor: jax.Array) -> Clusters:
    """Averages this epoch's centres into those of the loss, with weight f."""
    new = normalize(clusters.moving)
    fixed = normalize((1 - factor) * clusters.fixed + factor * new)
    counts = jnp.zeros_like(clusters.counts)
    return clusters._replace(fixed=fixed, moving=fixed, counts=counts)
