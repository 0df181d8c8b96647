"""Invariance Propagation (Wang, Liu, Guo, Sun; NeurIPS 2020, arXiv 2010.11694).

`invp_losses` is the method: embed, look up, propagate, two losses.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.bank import (
    init_bank,
    normalize,
    read_bank,
    update_bank,
)
from invariance_propagation.errors import UserError
from invariance_propagation.losses import (
    FORMS,
    POSITIVES,
    Logits,
    paper_losses,
    released_losses,
)
from invariance_propagation.methods.base import Aux, Batch, Method
from invariance_propagation.propagation import (
    distinct,
    init_graph,
    propagate,
    update_graph,
)
from invariance_propagation.purity import hop_purity

BANK_STARTS = ("uniform", "embeddings")
RAMPS = ("binary", "gaussian")


class Losses(NamedTuple):
    """What one step yields per anchor.

    Attributes:
      instance: float32 [b].
      propagation: float32 [b].
      neighbors: int32 [b, k], the nearest rows of the bank, nearest first.
    """

    instance: jax.Array
    propagation: jax.Array
    neighbors: jax.Array


class Memory(NamedTuple):
    """bank float32 [N, d], sharded; graph int32 [N, k], replicated."""

    bank: Any
    graph: Any


def invp_losses(
    embeddings: jax.Array,
    indices: jax.Array,
    bank: jax.Array,
    graph: jax.Array,
    *,
    num_hops: int = 3,
    num_hard: int = 50,
    background_size: int = 4096,
    temperature: float = 0.2,
    form: str = "paper",
    positives: str = "hard",
    axis_name: str | None = None,
) -> Losses:
    """The losses of Invariance Propagation and each anchor's new neighbours.

    With an axis, `embeddings` and `indices` are this device's and `bank` holds
    this device's rows; gathering happens inside, and results are this device's.

    Args:
      embeddings: float [b, d], normalised here; the gradient flows to them alone.
      indices: int [b], the anchors' ids; no id twice over all devices.
      bank: float32 [N, d], or this device's rows [Np / D, d].
      graph: int32 [N, k].
      num_hops: l, at least 1.
      num_hard: P, at least 1; more than there are positives takes all.
      background_size: M, from 1 to N. Rows tied at the M-th place share what is
        left of it, so that the result depends neither on order nor on devices.
      temperature: tau, above 0.
      form: 'paper' (sets) or 'released' (the authors' code); see `losses`.
      positives: 'hard', or 'easy' for the most similar instead of the least.
      axis_name: the device axis, or None for one device.

    Returns:
      Losses, in log-space throughout: finite at tau = 0.07 in float32.

    Raises:
      ValueError: an argument out of its range; M > N; k + 1 > N.

    Source: Wang et al. 2020, arXiv 2010.11694; objective.py of
      WangFeng18/InvariancePropagation.
    """
    count, num_examples, num_neighbors = len(indices), *graph.shape
    check_ranges(
        num_hops=num_hops,
        num_hard=num_hard,
        background_size=background_size,
        temperature=temperature,
        form=form,
        positives=positives,
        num_examples=num_examples,
        num_neighbors=num_neighbors,
    )
    indices, bank, graph = map(jnp.asarray, (indices, bank, graph))
    anchors = normalize(jnp.asarray(embeddings, jnp.float32))
    all_indices = parallel.all_gather(indices, axis_name)
    walked = propagate(graph, all_indices, num_hops=num_hops)

    seen = read_bank(
        parallel.all_gather(anchors, axis_name),
        lax.stop_gradient(bank),
        all_indices,
        walked,
        form == "paper",
        num_examples,
        num_neighbors,
        background_size,
        temperature,
        axis_name,
    )
    anchor = parallel.own_sum(seen.anchor, axis_name)
    slots = parallel.own_sum(seen.slots, axis_name)
    threshold = jax.tree.map(
        lambda x: lax.stop_gradient(parallel.own_rows(x, count, axis_name)),
        seen.threshold,
    )
    logits = Logits(
        anchor / temperature,
        slots / temperature,
        threshold.weights(anchor[:, None])[:, 0],
        threshold.weights(slots),
        _log_sum_over_devices(seen.log_rest, axis_name),
    )
    if form == "paper":
        own = parallel.own_rows(walked, count, axis_name)
        instance, propagation = paper_losses(
            logits, distinct(own, indices), num_hard, positives
        )
    else:
        instance, propagation = released_losses(
            logits, background_size, num_hard, positives
        )
    return Losses(instance, propagation, seen.neighbors)


def invariance_propagation(
    *,
    num_hops: int,
    num_hard: int,
    background_size: int,
    temperature: float,
    form: str,
    positives: str,
    num_neighbors: int,
    bank_momentum: float,
    bank_start: str,
    propagation_weight: float,
    start_epoch: int,
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
      start_epoch: T, the first epoch, from 0, in which the term is on.
      ramp: 'binary', or 'gaussian' to grow as exp(-5 (1 - epoch / T)^2).
      num_examples: N.
      embedding_dim: d.
      steps_per_epoch: N // B.
      Others: as in `invp_losses`.

    Raises:
      UserError: a value out of its range.
    """
    options = {
        "num_hops": num_hops,
        "num_hard": num_hard,
        "background_size": background_size,
        "temperature": temperature,
        "form": form,
        "positives": positives,
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

    def init_memory(key, embeddings=None) -> Memory:
        if embeddings is None:
            bank = init_bank(key, num_examples, embedding_dim)
        else:
            bank = normalize(jnp.asarray(embeddings, jnp.float32))
        return Memory(bank, init_graph(num_examples, num_neighbors))

    def loss(outputs, batch: Batch, memory: Memory, step) -> tuple[jax.Array, Aux]:
        losses = invp_losses(
            outputs.embedding, batch.indices, *memory, axis_name=axis_name, **options
        )
        weight = propagation_weight * ramp_up(
            step // steps_per_epoch, start_epoch=start_epoch, ramp=ramp
        )
        old = memory.graph[batch.indices]
        again = jnp.any(losses.neighbors[:, :, None] == old[:, None, :], axis=2)
        metrics = {
            "instance": losses.instance.mean(),
            "propagation": losses.propagation.mean(),
            "neighbor_overlap": again.mean(dtype=jnp.float32),
        }
        per_image = losses.instance + weight * losses.propagation
        return per_image, Aux(metrics, losses.neighbors)

    def update_memory(memory: Memory, outputs, batch: Batch, aux: Aux, step) -> Memory:
        del step
        graph = update_graph(
            memory.graph, batch.indices, aux.found, axis_name=axis_name
        )
        bank = update_bank(
            memory.bank,
            batch.indices,
            outputs.embedding,
            momentum=bank_momentum,
            axis_name=axis_name,
        )
        return Memory(bank, graph)

    return Method(
        init_memory=init_memory,
        memory_spec=Memory(parallel.SHARDED, parallel.REPLICATED),
        needs_embeddings=bank_start == "embeddings",
        prepare=lambda key, batch: batch,
        loss=loss,
        update_memory=update_memory,
        purity=lambda memory, labels, indices: hop_purity(
            memory.graph, labels, indices, num_hops=num_hops
        ),
    )


def ramp_up(epoch: jax.Array, *, start_epoch: int, ramp: str) -> jax.Array:
    """How much of lambda is on: float32 in [0, 1].

    'binary' is 0 before `start_epoch` and 1 from there on; 'gaussian' grows as
    exp(-5 (1 - epoch / T)^2) up to 1 at T, as in the released code.
    """
    if ramp == "binary":
        return jnp.where(epoch >= start_epoch, 1.0, 0.0)
    done = 1.0 if start_epoch == 0 else jnp.minimum(epoch / start_epoch, 1.0)
    return jnp.exp(-5.0 * jnp.square(1.0 - done))


def _log_sum_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """[B] log-sums on each device -> our [b] over all devices; -inf where empty."""
    if axis_name is None:
        return x
    largest = parallel.pmax(lax.stop_gradient(x), axis_name)
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)
    total = parallel.own_sum(jnp.exp(x - largest), axis_name)
    largest = parallel.own_rows(largest, total.shape[0], axis_name)
    empty = total <= 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + largest)


def check_ranges(
    *,
    num_hops: int,
    num_hard: int,
    background_size: int,
    temperature: float,
    form: str,
    positives: str,
    num_examples: int,
    num_neighbors: int,
) -> None:
    """Raises UserError, a ValueError, for what `invp_losses` cannot work with."""
    if num_hops < 1:
        raise UserError(f"num_hops={num_hops}: set it to 1 or above")
    if num_hard < 1:
        raise UserError(f"num_hard={num_hard}: set it to 1 or above")
    if num_neighbors < 1:
        raise UserError(f"num_neighbors={num_neighbors}: set it to 1 or above")
    if not 1 <= background_size <= num_examples:
        raise UserError(
            f"background_size={background_size}, but the bank holds {num_examples} "
            f"images: set it from 1 to {num_examples}"
        )
    if num_neighbors + 1 > num_examples:
        raise UserError(
            f"num_neighbors={num_neighbors}, but the bank holds {num_examples} "
            f"images: set it to at most {num_examples - 1}"
        )
    if not temperature > 0:
        raise UserError(f"temperature={temperature}: set it above 0, e.g. to 0.2")
    for name, value, known in (
        ("form", form, FORMS),
        ("positives", positives, POSITIVES),
    ):
        if value not in known:
            raise UserError(f"{name}={value!r}: choose one of {', '.join(known)}")
