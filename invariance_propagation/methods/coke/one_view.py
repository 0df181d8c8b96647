"""CoKe with one view, whose second stage averages labels and centres; see `averages`."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation.methods.base import Aux, Batch, Moment, Problem
from invariance_propagation.methods.coke import averages, clustering, losses, several
from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Clusters, add_batch
from invariance_propagation.methods.coke.memory import (
    Found,
    Memory,
    Outputs,
    known_or_new,
)
from invariance_propagation.methods.coke.options import Options
from invariance_propagation.parallel import put_rows, take_own_rows


def second_stage(moment: Moment, options: Options) -> tuple[jax.Array, jax.Array]:
    """Returns whether the second stage has begun, and f = 1 / (t + 1) in its epoch t."""
    after = moment.epoch - options.average_from
    return after >= 0, 1 / jnp.maximum(after + 1, 1).astype(jnp.float32)


def read_slots(memory: Memory, batch: Batch, problem: Problem) -> Slots:
    """Returns the slots of this device's images."""
    axis_name = problem.axis_name
    return Slots(*(take_own_rows(x, batch.indices, axis_name) for x in memory.slots))


def loss(
    outputs: Outputs,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b], by its label or its average label."""
    features = lax.stop_gradient(outputs.large.projections[0])
    averaging, _ = second_stage(moment, options)
    centers = [jnp.where(averaging, x.fixed, x.moving) for x in memory.heads]
    new = several.assign(features, centers, memory.heads)  # (1)
    targets = averages.target_of(
        read_slots(memory, batch, problem),
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
    metrics = several.metrics_of(outputs, batch, memory, found, problem=problem)
    return per_image, Aux(metrics, found)


def update(
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
    """Takes the steps of `several.update`, and averages the labels in the second stage."""
    averaging, factor = second_stage(moment, options)

    def step(clusters: Clusters, *batch: jax.Array) -> Clusters:
        steps = [
            partial(f, options=options.duals) for f in (add_batch, clustering.step)
        ]
        return lax.cond(averaging, *steps, clusters, *batch)

    old = read_slots(memory, batch, problem)
    new = averages.add_label(old, aux.found.labels, factor)
    new = Slots(*(jnp.where(averaging, x, y) for x, y in zip(new, old, strict=True)))
    pairs = zip(memory.slots, new, strict=True)
    axis_name = problem.axis_name
    slots = Slots(*(put_rows(x, batch.indices, y, axis_name) for x, y in pairs))
    moved = several.update(
        memory, outputs, batch, aux, variables, moment, problem=problem, step=step
    )
    return moved._replace(slots=slots)


def refresh(memory: Memory, moment: Moment, *, options: Options) -> Memory:
    """Ends an epoch; in the second stage, centres are averaged."""
    averaging, factor = second_stage(moment, options)
    average = partial(averages.end_epoch, factor=factor)
    heads = (
        lax.cond(averaging, average, clustering.end_epoch, head)
        for head in memory.heads
    )
    return memory._replace(heads=tuple(heads))
