"""CoKe as the trainer sees it: streaming k-means whose labels train the network.

Read `loss_two_views` first, then `update`; `clustering` has the equations. Labels are
decoupled from the clustering: the loss uses the label that an image got in its last epoch,
and the centres of that epoch's end, while this epoch makes new ones.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.bank import normalize
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
)
from invariance_propagation.methods.clusters import size_metrics
from invariance_propagation.methods.coke import averages, clustering, losses
from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Clusters
from invariance_propagation.methods.coke.network import Encoded, make_network
from invariance_propagation.methods.coke.notes import make_notes
from invariance_propagation.methods.coke.options import Options
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.settings import keywords_of


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
    sizes, count = options.num_clusters, problem.num_examples
    heads = tuple(
        clustering.init_clusters(k, size, problem.encoder.dim)
        for k, size in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
    )
    labels = jnp.full((count, len(sizes)), -1, jnp.int32)
    if options.views != "one":
        return Memory(labels, heads)
    return Memory(
        labels, heads, averages.init_slots(count, len(sizes), options.num_slots)
    )


def forward(encoder: Any, batch: Batch, *, train: bool) -> Outputs:
    """Encodes every view, large ones first."""
    groups = ("view", "first", "second")
    large = [x for name in groups for x in batch.views.get(name, ())]
    small = batch.views.get("small")
    return Outputs(
        encoder.encode(large, train=train),
        None if small is None else encoder.encode(small, train=train),
    )


def assign(
    features: jax.Array, centers: Sequence[jax.Array], heads: Sequence[Clusters]
) -> jax.Array:
    """Returns the labels, int32 [b, H], of float32 [b, d] features in all clusterings."""
    pairs = zip(centers, heads, strict=True)
    found = [clustering.assign(features, c, head.duals) for c, head in pairs]
    return jnp.stack(found, axis=1)


def known_or_new(memory: Memory, batch: Batch, new: jax.Array) -> jax.Array:
    """Returns the labels to train on: those of the last visit; at the first, the new."""
    known = memory.labels[batch.indices]
    return jnp.where(known < 0, new, known)


def result(
    per_image: jax.Array,
    outputs: Outputs,
    batch: Batch,
    memory: Memory,
    found: Found,
    *,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Adds the metrics to the losses."""
    changed = memory.labels[batch.indices, 0] != found.labels[:, 0]
    similarity = mean_similarity(
        outputs.large.projections[0], axis_name=problem.axis_name
    )
    metrics = {
        "label_changes": changed.mean(dtype=jnp.float32),
        "similarity": similarity,
        **size_metrics(memory.heads[0].sizes),
    }
    return per_image, Aux(metrics, found)


def loss_one_view(
    outputs: Outputs,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b]; stages differ in centres and target."""
    features = lax.stop_gradient(outputs.large.projections[0])
    averaging = moment.epoch >= options.average_from
    centers = [jnp.where(averaging, x.fixed, x.moving) for x in memory.heads]
    new = assign(features, centers, memory.heads)  # (1)
    targets = averages.target_of(
        averages.read(memory.slots, batch.indices, problem.axis_name),
        known_or_new(memory, batch, new),
        options.slot_temperature,
    )
    per_image = losses.one_view(
        outputs.large,
        memory.heads,
        targets,
        temperature=options.temperature,
        prediction_weight=options.prediction_weight,
    )
    found = Found(features, new)
    return result(per_image, outputs, batch, memory, found, problem=problem)


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
    return result(per_image, outputs, batch, memory, found, problem=problem)


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
    """Moves duals and centres, and writes the new labels over those the loss has read."""
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


def update_one_view(
    memory: Memory,
    outputs: Outputs,
    batch: Batch,
    aux: Aux,
    variables: Any,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> Memory:
    """Does what `update` does, and in the second stage averages the labels too."""
    averaging, factor = second_stage(moment, options)

    def step(clusters: Clusters, *batch: jax.Array) -> Clusters:
        steps = [partial(x.step, options=options.duals) for x in (averages, clustering)]
        return lax.cond(averaging, *steps, clusters, *batch)

    old = averages.read(memory.slots, batch.indices, problem.axis_name)
    new = averages.add_label(old, aux.found.labels, factor)
    new = Slots(*(jnp.where(averaging, x, y) for x, y in zip(new, old, strict=True)))
    moved = update(
        memory,
        outputs,
        batch,
        aux,
        variables,
        moment,
        problem=problem,
        step=step,
    )
    slots = averages.write(memory.slots, batch.indices, new, problem.axis_name)
    return moved._replace(slots=slots)


def second_stage(moment: Moment, options: Options) -> tuple[jax.Array, jax.Array]:
    """Returns whether the second stage has begun, and f = 1 / (t + 1) in its epoch t."""
    after = moment.epoch - options.average_from
    return after >= 0, 1 / jnp.maximum(after + 1, 1).astype(jnp.float32)


def refresh(memory: Memory, moment: Moment) -> Memory:
    """Ends an epoch."""
    del moment
    return memory._replace(heads=tuple(map(clustering.end_epoch, memory.heads)))


def refresh_one_view(memory: Memory, moment: Moment, *, options: Options) -> Memory:
    """Ends an epoch; in the second stage, centres are averaged."""
    averaging, factor = second_stage(moment, options)
    average = partial(averages.end_epoch, factor=factor)
    heads = (
        lax.cond(averaging, average, clustering.end_epoch, head)
        for head in memory.heads
    )
    return memory._replace(heads=tuple(heads))


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Known images keep their labels. A new image gets the label of the nearest centre.
    """
    kept = rows >= 0
    features = np.asarray(normalize(jnp.asarray(embeddings, jnp.float32)))
    labels = np.empty((len(rows), len(memory.heads)), np.int32)
    labels[kept] = memory.labels[rows[kept]]
    for i, head in enumerate(memory.heads):
        labels[~kept, i] = clustering.nearest(features, head.fixed)
    heads = tuple(
        head._replace(sizes=clustering.sizes_of(labels[:, i], len(head.sizes)))
        for i, head in enumerate(memory.heads)
    )
    slots = [np.zeros((len(rows), *x.shape[1:]), x.dtype) for x in memory.slots]
    for new, old in zip(slots, memory.slots, strict=True):
        new[kept] = old[rows[kept]]
    return Memory(labels, heads, Slots(*slots) if slots else ())


@keywords_of(Options)
def coke(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the backbone, widths of the heads, and the device axis.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Qian, Xu, Hu, Li, Jin: "Unsupervised Visual Representation Learning by Online
    Constrained K-Means", CVPR 2022, arXiv 2105.11527.
    """
    checked = Options(**options).checked(problem.num_examples)
    network = make_network(problem)
    bound = {"options": checked, "problem": problem}
    everywhere = parallel.REPLICATED
    several = Method(
        encoder=network,
        forward=forward,
        init_memory=partial(init_memory, **bound),
        memory_spec=Memory(everywhere, everywhere),
        loss=partial(
            loss_two_views if checked.views == "two" else loss_multi_crop, **bound
        ),
        update=partial(
            update,
            problem=problem,
            step=partial(clustering.step, options=checked.duals),
        ),
        refresh=refresh,
        refresh_every=problem.steps_per_epoch,
        match=match,
        requires=Requires(
            views=checked.groups, fewest_examples=max(checked.num_clusters)
        ),
        notes=make_notes(checked),
    )
    if checked.views != "one":
        return several
    return several._replace(
        memory_spec=Memory(everywhere, everywhere, parallel.SHARDED),
        loss=partial(loss_one_view, **bound),
        update=partial(update_one_view, **bound),
        refresh=partial(refresh_one_view, options=checked),
    )
