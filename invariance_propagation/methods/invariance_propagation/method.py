"""The method as the trainer sees it: the losses of `objective` over a bank and a graph."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation import parallel
from invariance_propagation.core.bank import init_bank, normalize, update_bank
from invariance_propagation.core.graph import init_graph, match_graph, update_graph
from invariance_propagation.core.objective import check_ranges, invp_losses
from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
)
from invariance_propagation.methods.invariance_propagation.notes import make_notes
from invariance_propagation.methods.invariance_propagation.schedule import make_schedule
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.settings import is_auto

MOST_BACKGROUND = 4096  # the paper's M
BANK_STARTS = ("uniform", "embeddings")


class Memory(NamedTuple):
    """What is remembered of the N images.

    Attributes:
      bank: float32 [N, d], one embedding per image; sharded.
      graph: int32 [N, k], nearest neighbours in the bank; replicated.
      readiness: of start='auto'; None otherwise.
    """

    bank: Any
    graph: Any
    readiness: Any = None


class Found(NamedTuple):
    """neighbors int32 [b, k]; overlap float32 [], over this device's images."""

    neighbors: jax.Array
    overlap: jax.Array


def background_size_for(value: int | str, *, num_examples: int) -> int:
    """Returns M: for 'auto', the largest power of two up to N / 2 and 4096.

    Raises:
      UserError: it is neither a whole number nor 'auto'.
    """
    if is_auto(value, "method.background_size"):
        return min(MOST_BACKGROUND, 1 << max(0, (num_examples // 2).bit_length() - 1))
    return value


def invariance_propagation(
    *,
    num_hops: int,
    num_hard: int,
    background_size: int | str,
    temperature: float,
    form: str,
    positives: str,
    selection: str,
    precision: str,
    num_neighbors: int,
    bank_momentum: float,
    bank_start: str,
    propagation_weight: float,
    start: str,
    start_epoch: int,
    start_overlap: float,
    ramp: str,
    problem: Problem,
) -> Method:
    """Binds the options of Invariance Propagation.

    Args:
      num_neighbors: k.
      bank_momentum: m in [0, 1].
      bank_start: 'uniform' (released) or 'embeddings' (one forward pass).
      background_size: M, or 'auto'.
      propagation_weight, start, start_epoch, start_overlap, ramp: see `make_schedule`.
      problem: N, the encoder, and the device axis.
      Others: as in `invp_losses`.

    Raises:
      UserError: a value out of its range.

    Source: Wang, Liu, Guo, Sun: "Unsupervised Representation Learning by Invariance
    Propagation", NeurIPS 2020, arXiv 2010.11694.
    """
    num_examples, axis_name = problem.num_examples, problem.axis_name
    background_size = background_size_for(background_size, num_examples=num_examples)
    options = {
        "num_hops": num_hops,
        "num_hard": num_hard,
        "background_size": background_size,
        "temperature": temperature,
        "form": form,
        "positives": positives,
        "selection": selection,
        "precision": precision,
    }
    check_ranges(num_examples=num_examples, num_neighbors=num_neighbors, **options)
    if not 0 <= bank_momentum <= 1:
        raise UserError(f"bank_momentum={bank_momentum}: set it in [0, 1]")
    if bank_start not in BANK_STARTS:
        raise UserError(
            f"bank_start={bank_start!r}: choose one of {', '.join(BANK_STARTS)}"
        )
    schedule = make_schedule(
        problem,
        num_neighbors=num_neighbors,
        propagation_weight=propagation_weight,
        start=start,
        start_epoch=start_epoch,
        start_overlap=start_overlap,
        ramp=ramp,
    )

    def init_memory(key: jax.Array, variables: Any) -> Memory:
        del variables
        bank = init_bank(key, num_examples, problem.encoder.dim)
        return Memory(bank, init_graph(num_examples, num_neighbors), schedule.init())

    def loss(
        outputs: Any, batch: Batch, memory: Memory, moment: Moment
    ) -> tuple[jax.Array, Aux]:
        losses = invp_losses(
            outputs.embedding,
            batch.indices,
            memory.bank,
            memory.graph,
            axis_name=axis_name,
            **options,
        )
        weight = schedule.weight(memory.readiness, moment)
        known = memory.graph[batch.indices]
        again = jnp.any(losses.neighbors[:, :, None] == known[:, None, :], axis=2)
        overlap = again.mean(dtype=jnp.float32)
        metrics = {
            "instance": losses.instance.mean(),
            "propagation": losses.propagation.mean(),
            "propagation_weight": weight,
            "neighbor_overlap": overlap,
            "similarity": mean_similarity(outputs.embedding, axis_name=axis_name),
        }
        # L = L_ins + lambda L_inv
        per_image = losses.instance + weight * losses.propagation
        return per_image, Aux(metrics, Found(losses.neighbors, overlap))

    def update(
        memory: Memory,
        outputs: Any,
        batch: Batch,
        aux: Aux,
        variables: Any,
        moment: Moment,
    ) -> Memory:
        del variables
        neighbors, overlap = aux.found
        return Memory(
            bank=update_bank(
                memory.bank,
                batch.indices,
                outputs.embedding,
                momentum=bank_momentum,
                axis_name=axis_name,
            ),
            graph=update_graph(
                memory.graph, batch.indices, neighbors, axis_name=axis_name
            ),
            readiness=schedule.update(memory.readiness, overlap, moment),
        )

    def begin(memory: Memory, embed: Any) -> Memory:
        """Starts the bank from the embeddings of the untrained network."""
        return memory._replace(bank=np.asarray(normalize(embed().embedding)))

    def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
        """Keeps rows of the bank; new ones are as of bank_start='embeddings'.

        Of the graph see `match_graph`. Whether the graph is ready does not change.
        """
        kept = rows >= 0
        bank = np.empty((len(rows), problem.encoder.dim), np.float32)
        bank[kept] = memory.bank[rows[kept]]
        bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
        return memory._replace(bank=bank, graph=match_graph(memory.graph, rows))

    return Method(
        encoder=problem.encoder,
        init_memory=init_memory,
        memory_spec=Memory(parallel.SHARDED, parallel.REPLICATED, schedule.spec),
        begin=begin if bank_start == "embeddings" else None,
        loss=loss,
        update=update,
        match=match,
        requires=Requires(fewest_examples=max(background_size, num_neighbors + 1)),
        notes=make_notes(
            num_examples=num_examples,
            num_neighbors=num_neighbors,
            starts=start_epoch if start == "epoch" and propagation_weight else None,
            **options,
        ),
    )
