"""CoKe with two views, or two large ones and several small ones.

Read `loss_two_views` first, then `update`; `clustering` has the equations. Labels are
decoupled from the clustering: the loss uses the label that an image got in its last epoch,
and the centres of that epoch's end, while this epoch makes new ones.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.methods.base import Aux, Batch, Moment, Problem
from invariance_propagation.methods.clusters import size_metrics
from invariance_propagation.methods.coke import clustering, losses
from invariance_propagation.methods.coke.clustering import Clusters
from invariance_propagation.methods.coke.memory import (
    Found,
    Memory,
    Outputs,
    known_or_new,
)
from invariance_propagation.methods.coke.options import Options
from invariance_propagation.methods.measures import mean_similarity


def assign(
    features: jax.Array, centers: Sequence[jax.Array], heads: Sequence[Clusters]
) -> jax.Array:
    """Returns the labels, int32 [b, H], of float32 [b, d] features in all clusterings."""
    pairs = zip(centers, heads, strict=True)
    found = [clustering.assign(features, c, head.duals) for c, head in pairs]
    return jnp.stack(found, axis=1)


def metrics_of(
    outputs: Outputs, batch: Batch, memory: Memory, found: Found, *, problem: Problem
) -> dict[str, jax.Array]:
    """Measures how the first clustering moves, and whether embeddings collapse."""
    before = memory.labels[batch.indices, 0]
    changed = (before >= 0) & (before != found.labels[:, 0])
    first = outputs.large.projections[0]
    return {
        "label_changes": changed.mean(dtype=jnp.float32),
        "similarity": mean_similarity(first, axis_name=problem.axis_name),
        **size_metrics(memory.heads[0].sizes),
    }


def loss_two_views(
    outputs: Outputs,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b]; both views are clustered as one."""
    del moment
    # The mean of two views varies less than one of them does. It is not normalised.
    features = lax.stop_gradient(outputs.large.projections.mean(axis=0))
    new = assign(features, [x.moving for x in memory.heads], memory.heads)  # (1)
    per_image = losses.two_views(
        outputs.large,
        memory.heads,
        known_or_new(memory, batch, new),
        temperature=options.temperature,
        hard_weight=options.hard_weight,
    )
    found = Found(features, new)
    metrics = metrics_of(outputs, batch, memory, found, problem=problem)
    return per_image, Aux(metrics, found)


def loss_multi_crop(
    outputs: Outputs,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Adds the loss of small views, which are not clustered, to that of two large ones."""
    large, aux = loss_two_views(
        outputs, batch, memory, moment, options=options, problem=problem
    )
    small = losses.small_views(
        outputs.small,
        outputs.large,
        memory.heads,
        known_or_new(memory, batch, aux.found.labels),
        temperature=options.temperature,
        hard_weight=options.hard_weight,
    )
    weight = options.large_weight
    return weight * large + (1 - weight) * small, aux


def update(
    memory: Memory,
    outputs: Outputs,
    batch: Batch,
    aux: Aux,
    variables: Any,
    moment: Moment,
    *,
    problem: Problem,
    step: Callable[..., Clusters],
) -> Memory:
    """Moves duals and centres by `step`, and writes the new labels over the old ones.

    Every device does this with the whole batch, so that all keep the same memory.
    """
    del outputs, variables, moment
    indices, features, labels = (
        parallel.all_gather(x, problem.axis_name) for x in (batch.indices, *aux.found)
    )
    before = memory.labels[indices]
    heads = tuple(
        step(head, features, labels[:, i], before[:, i])  # (2), (3)
        for i, head in enumerate(memory.heads)
    )
    labels = memory.labels.at[indices].set(labels)
    return memory._replace(labels=labels, heads=heads)


def refresh(memory: Memory, moment: Moment) -> Memory:
    """Ends an epoch."""
    del moment
    return memory._replace(heads=tuple(map(clustering.end_epoch, memory.heads)))
