"""Invariance Propagation as the trainer sees it, in the paper's order.

Read `loss` first, then `update`. The numbers in comments are those of the equations at
the top of `core.objective`, which computes both losses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation import parallel
from invariance_propagation.core.bank import init_bank, normalize, update_bank
from invariance_propagation.core.graph import init_graph, match_graph, update_graph
from invariance_propagation.core.objective import invp_losses
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
)
from invariance_propagation.methods.invariance_propagation.notes import make_notes
from invariance_propagation.methods.invariance_propagation.options import Options
from invariance_propagation.methods.invariance_propagation.readiness import (
    Readiness,
    init_readiness,
)
from invariance_propagation.methods.invariance_propagation.schedule import (
    watch,
    weight_of,
)
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.settings import keywords_of


class Memory(NamedTuple):
    """Holds what the method remembers about the N training images.

    Attributes:
      bank: float32 [N, d], one embedding per image; sharded.
      graph: int32 [N, k], nearest neighbours in the bank; see `Options.graph`.
      readiness: how stable the graph is, with start='auto'; None otherwise.
    """

    bank: Any
    graph: Any
    readiness: Any = None


class ForUpdate(NamedTuple):
    """Holds what `loss` hands to `update`.

    Attributes:
      neighbors: int32 [b, k], the anchors' new neighbours.
      overlap: float32 [], share of them that were neighbours before, on this device.
    """

    neighbors: jax.Array
    overlap: jax.Array


def init_memory(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Makes a random bank, and a graph without edges."""
    del variables
    return Memory(
        bank=init_bank(key, problem.num_examples, problem.encoder.dim),
        graph=init_graph(problem.num_examples, options.num_neighbors),
        readiness=init_readiness() if options.starts_by_itself else None,
    )


def loss(
    outputs: Any,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b], from the memory before the step."""
    losses = invp_losses(  # (1) to (6), and the neighbours of (9)
        outputs.embedding,
        batch.indices,
        memory.bank,
        memory.graph,
        num_examples=problem.num_examples if options.shards_graph else None,
        axis_name=problem.axis_name,
        **options.losses._asdict(),
    )
    weight = weight_of(options, memory.readiness, moment)  # lambda * w(t)
    before = earlier_neighbors(memory, batch, options=options, problem=problem)
    overlap = kept_neighbors(losses.neighbors, before)
    metrics = {
        "instance": losses.instance.mean(),
        "propagation": losses.propagation.mean(),
        "propagation_weight": weight,
        "neighbor_overlap": overlap,
        "similarity": mean_similarity(outputs.embedding, axis_name=problem.axis_name),
    }
    per_image = losses.instance + weight * losses.propagation  # (7)
    return per_image, Aux(metrics, ForUpdate(losses.neighbors, overlap))


def update(
    memory: Memory,
    outputs: Any,
    batch: Batch,
    aux: Aux,
    variables: Any,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> Memory:
    """Writes the batch's rows of bank and graph, after the loss has read the old ones."""
    del variables
    write = parallel.put_rows if options.shards_graph else update_graph
    return Memory(
        bank=update_bank(  # (8)
            memory.bank,
            batch.indices,
            outputs.embedding,
            momentum=options.bank_momentum,
            axis_name=problem.axis_name,
        ),
        graph=write(  # (9)
            memory.graph,
            batch.indices,
            aux.found.neighbors,
            axis_name=problem.axis_name,
        ),
        readiness=watch(
            memory.readiness,
            aux.found.overlap,
            moment,
            options=options,
            problem=problem,
        ),
    )


def earlier_neighbors(
    memory: Memory, batch: Batch, *, options: Options, problem: Problem
) -> jax.Array:
    """Looks up the neighbours that the anchors had before the step, int32 [b, k]."""
    if not options.shards_graph:
        return memory.graph[batch.indices]
    return parallel.take_own_rows(memory.graph, batch.indices, problem.axis_name)


def kept_neighbors(neighbors: jax.Array, before: jax.Array) -> jax.Array:
    """Measures the share of new neighbours, int32 [b, k], that were in `before` already."""
    kept = jnp.any(neighbors[:, :, None] == before[:, None, :], axis=2)
    return kept.mean(dtype=jnp.float32)


def bank_from_embeddings(memory: Memory, embed: Callable[[], Any]) -> Memory:
    """Starts the bank from the embeddings of the untrained network."""
    return memory._replace(bank=np.asarray(normalize(embed().embedding)))


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Images that were there keep their rows of the bank; new ones start from their
    embeddings. `match_graph` says what happens to the graph. Whether the graph is ready
    does not change.
    """
    kept = rows >= 0
    bank = np.empty((len(rows), memory.bank.shape[1]), np.float32)
    bank[kept] = memory.bank[rows[kept]]
    bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
    return memory._replace(bank=bank, graph=match_graph(memory.graph, rows))


@keywords_of(Options)
def invariance_propagation(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the encoder and the device axis.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Wang, Liu, Guo, Sun: "Unsupervised Representation Learning by Invariance
    Propagation", NeurIPS 2020, arXiv 2010.11694.
    """
    checked = Options(**options).checked(problem.num_examples)
    bound = {"options": checked, "problem": problem}
    everywhere = parallel.REPLICATED
    return Method(
        encoder=problem.encoder,
        init_memory=partial(init_memory, **bound),
        memory_spec=Memory(
            bank=parallel.SHARDED,
            graph=parallel.SHARDED if checked.shards_graph else everywhere,
            readiness=(
                Readiness(everywhere, everywhere) if checked.starts_by_itself else None
            ),
        ),
        begin=bank_from_embeddings if checked.bank_start == "embeddings" else None,
        loss=partial(loss, **bound),
        update=partial(update, **bound),
        match=match,
        requires=Requires(
            fewest_examples=max(checked.background_size, checked.num_neighbors + 1)
        ),
        notes=make_notes(checked, num_examples=problem.num_examples),
    )
