"""Invariance Propagation (Wang, Liu, Guo, Sun; NeurIPS 2020, arXiv 2010.11694).

The losses are in `objective`; here they are bound to a memory and a schedule.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation import auto, parallel
from invariance_propagation.bank import init_bank, normalize, update_bank
from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import Aux, Batch, Method
from invariance_propagation.objective import check_ranges, invp_losses
from invariance_propagation.propagation import init_graph, match_graph, update_graph
from invariance_propagation.purity import hop_purity
from invariance_propagation.readiness import (
    Readiness,
    check_threshold,
    init_readiness,
    is_ready,
    threshold_of,
    update_readiness,
)
from invariance_propagation.search import buffer_bytes

BANK_STARTS = ("uniform", "embeddings")
RAMPS = ("binary", "gaussian")
STARTS = ("epoch", "auto")


class Memory(NamedTuple):
    """bank float32 [N, d], sharded; graph int32 [N, k], replicated."""

    bank: Any
    graph: Any


class WatchedMemory(NamedTuple):
    """Where propagation starts by itself; `readiness` is replicated."""

    bank: Any
    graph: Any
    readiness: Any


class Found(NamedTuple):
    """neighbors int32 [b, k]; overlap float32 [], over this device's images."""

    neighbors: jax.Array
    overlap: jax.Array


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
    num_examples: int,
    embedding_dim: int,
    steps_per_epoch: int,
    axis_name: str | None,
) -> Method:
    """Binds the hyper-parameters into a `Method`.

    Args:
      num_neighbors: k.
      bank_momentum: m in [0, 1].
      bank_start: 'uniform' (released) or 'embeddings' (one forward pass).
      propagation_weight: lambda; 0 leaves instance discrimination.
      start: of the propagation term, 'epoch' [paper] or 'auto': by `readiness`.
      start_epoch: for 'epoch': T, the first one, from 0, in which the term is on.
      start_overlap: for 'auto': the share of neighbours kept between visits, beyond
        what random ones would be.
      ramp: 'binary', or 'gaussian' to grow up to T, see `ramp_up`.
      background_size: M, or 'auto'.
      num_examples: N.
      embedding_dim: d.
      steps_per_epoch: N // B.
      Others: as in `invp_losses`.

    Raises:
      UserError: a value out of its range.
    """
    background_size = auto.background_size(background_size, num_examples=num_examples)
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
    if propagation_weight < 0:
        raise UserError(
            f"propagation_weight={propagation_weight}: set it to 0 or above"
        )
    if start_epoch < 0:
        raise UserError(f"start_epoch={start_epoch}: set it to 0 or above")
    if bank_start not in BANK_STARTS:
        raise UserError(
            f"bank_start={bank_start!r}: choose one of {', '.join(BANK_STARTS)}"
        )
    if ramp not in RAMPS:
        raise UserError(f"ramp={ramp!r}: choose one of {', '.join(RAMPS)}")
    if start not in STARTS:
        raise UserError(f"start={start!r}: choose one of {', '.join(STARTS)}")
    if start == "auto" and ramp != "binary":
        raise UserError(f"ramp={ramp!r} leads up to start_epoch: set start='epoch'")
    check_threshold(start_overlap)
    by_itself = start == "auto" and propagation_weight > 0
    sizes = {"num_examples": num_examples, "num_neighbors": num_neighbors}
    threshold = threshold_of(start_overlap, **sizes) if by_itself else 1.0

    def init_memory(key, embeddings=None):
        if embeddings is None:
            bank = init_bank(key, num_examples, embedding_dim)
        else:
            bank = normalize(jnp.asarray(embeddings, jnp.float32))
        memory = Memory(bank, init_graph(num_examples, num_neighbors))
        return WatchedMemory(*memory, init_readiness()) if by_itself else memory

    def loss(outputs, batch: Batch, memory, step) -> tuple[jax.Array, Aux]:
        losses = invp_losses(
            outputs.embedding,
            batch.indices,
            memory.bank,
            memory.graph,
            axis_name=axis_name,
            **options,
        )
        if by_itself:
            share = jnp.where(is_ready(memory.readiness), 1.0, 0.0)
        else:
            epoch = step // steps_per_epoch
            share = ramp_up(epoch, start_epoch=start_epoch, ramp=ramp)
        weight = propagation_weight * share
        old = memory.graph[batch.indices]
        again = jnp.any(losses.neighbors[:, :, None] == old[:, None, :], axis=2)
        overlap = again.mean(dtype=jnp.float32)
        metrics = {
            "instance": losses.instance.mean(),
            "propagation": losses.propagation.mean(),
            "propagation_weight": weight,
            "neighbor_overlap": overlap,
        }
        per_image = losses.instance + weight * losses.propagation
        return per_image, Aux(metrics, Found(losses.neighbors, overlap))

    def update_memory(memory, outputs, batch: Batch, aux: Aux, step):
        graph = update_graph(
            memory.graph, batch.indices, aux.found.neighbors, axis_name=axis_name
        )
        bank = update_bank(
            memory.bank,
            batch.indices,
            outputs.embedding,
            momentum=bank_momentum,
            axis_name=axis_name,
        )
        memory = memory._replace(bank=bank, graph=graph)
        if by_itself:
            readiness = update_readiness(
                memory.readiness,
                parallel.pmean(aux.found.overlap, axis_name),
                step,
                threshold=threshold,
                steps_per_epoch=steps_per_epoch,
            )
            memory = memory._replace(readiness=readiness)
        return memory

    def match_memory(memory, rows: np.ndarray, embeddings: np.ndarray):
        """Rows of the bank stay as they are, new ones are as of bank_start='embeddings'.

        Of the graph see `match_graph`. Whether the graph is ready does not change.
        """
        kept = rows >= 0
        bank = np.empty((len(rows), embedding_dim), np.float32)
        bank[kept] = memory.bank[rows[kept]]
        bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
        return memory._replace(bank=bank, graph=match_graph(memory.graph, rows))

    memory_spec = Memory(parallel.SHARDED, parallel.REPLICATED)
    if by_itself:
        readiness_spec = Readiness(parallel.REPLICATED, parallel.REPLICATED)
        memory_spec = WatchedMemory(*memory_spec, readiness_spec)

    return Method(
        init_memory=init_memory,
        memory_spec=memory_spec,
        needs_embeddings=bank_start == "embeddings",
        loss=loss,
        update_memory=update_memory,
        match_memory=match_memory,
        purity=lambda memory, labels, indices: hop_purity(
            memory.graph, labels, indices, num_hops=num_hops
        ),
        buffers=lambda batch_size, num_devices: {
            "similarities": buffer_bytes(batch_size, -(-num_examples // num_devices))
        },
        about=f"a background of M = {background_size:,} images",
        start_epoch=None if by_itself or not propagation_weight else start_epoch,
        fewest_examples=max(background_size, num_neighbors + 1),
    )


def ramp_up(epoch: jax.Array, *, start_epoch: int, ramp: str) -> jax.Array:
    """How much of lambda is on: float32 in [0, 1].

    'binary' is 0 before `start_epoch` and 1 from there on; 'gaussian' grows as
    exp(-5 (1 - (epoch + 1) / T)^2) and is 1 from epoch T - 1 on. `epoch` counts from 0;
    the released code, of which both are (objective.py, lines 15-21), counts from 1.
    """
    if ramp == "binary":
        return jnp.where(epoch >= start_epoch, 1.0, 0.0)
    done = 1.0 if start_epoch == 0 else jnp.minimum((epoch + 1) / start_epoch, 1.0)
    return jnp.exp(-5.0 * jnp.square(1.0 - done))
