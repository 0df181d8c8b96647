"""What CoKe remembers about the N training images, and what a step passes on."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.core.bank import normalize
from invariance_propagation.methods.base import Batch, Problem
from invariance_propagation.methods.clusters import sizes_of
from invariance_propagation.methods.coke import averages, clustering
from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Clusters
from invariance_propagation.methods.coke.network import Encoded
from invariance_propagation.methods.coke.options import Options


class Memory(NamedTuple):
    """Holds what the method remembers.

    Attributes:
      labels: int32 [N, H], each image's cluster in the H clusterings, -1 before its first
        visit; replicated: 4 bytes for an image and clustering.
      heads: the H clusterings; replicated.
      slots: with one view, the labels of the second stage; sharded. () otherwise.
    """

    labels: Any
    heads: tuple[Clusters, ...]
    slots: Any = ()


class Outputs(NamedTuple):
    """Holds the encoded views: one or two large ones, and small ones, None if none."""

    large: Encoded
    small: Encoded | None = None


class Found(NamedTuple):
    """Holds what `loss` hands to `update`.

    Attributes:
      features: float32 [b, d], u, what is clustered.
      labels: int32 [b, H], the new labels.
    """

    features: jax.Array
    labels: jax.Array


def init_memory(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Makes random centres, and images without labels."""
    del variables
    sizes = options.num_clusters
    heads = tuple(
        clustering.init_clusters(k, size, problem.encoder.dim)
        for k, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
    )
    return Memory(jnp.full((problem.num_examples, len(sizes)), -1, jnp.int32), heads)


def init_memory_one_view(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Does what `init_memory` does, with empty slots for the second stage."""
    memory = init_memory(key, variables, options=options, problem=problem)
    slots = averages.init_slots(*memory.labels.shape, options.num_slots)
    return memory._replace(slots=slots)


def known_or_new(memory: Memory, batch: Batch, new: jax.Array) -> jax.Array:
    """Returns the labels to train on, int32 [b, H]: the last visit's, or at the first `new`."""
    known = memory.labels[batch.indices]
    return jnp.where(known < 0, new, known)


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Known images keep their labels, and a new one gets the label of the nearest centre.
    """
    kept = rows >= 0
    features = np.asarray(normalize(jnp.asarray(embeddings, jnp.float32)))
    labels = np.empty((len(rows), len(memory.heads)), np.int32)
    labels[kept] = memory.labels[rows[kept]]
    for i, head in enumerate(memory.heads):
        labels[~kept, i] = clustering.nearest(features, head.fixed)
    heads = tuple(
        head._replace(sizes=sizes_of(labels[:, i], len(head.sizes)))
        for i, head in enumerate(memory.heads)
    )
    slots = [np.zeros((len(rows), *x.shape[1:]), x.dtype) for x in memory.slots]
    for new, old in zip(slots, memory.slots, strict=True):
        new[kept] = old[rows[kept]]
    return Memory(labels, heads, Slots(*slots) if slots else ())
