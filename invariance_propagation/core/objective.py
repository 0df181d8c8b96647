"""The objective: embed, look up, propagate, two losses. This is the method."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.arguments import (
    check_ids,
    check_vectors,
    integer,
    real,
)
from invariance_propagation.core.bank import normalize
from invariance_propagation.core.graph import distinct, propagate
from invariance_propagation.core.losses import (
    FORMS,
    POSITIVES,
    Logits,
    paper_losses,
    released_losses,
)
from invariance_propagation.core.search import PRECISIONS, SELECTIONS, Search, read_bank
from invariance_propagation.errors import UserError


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
    selection: str = "exact",
    precision: str = "highest",
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
      selection: of the background, 'exact' or 'approx'; see `search.Search`.
      precision: of the products with the bank, 'highest', 'high' or 'bfloat16';
        likewise. The losses are float32 throughout.
      axis_name: the device axis, or None for one device.

    Returns:
      Losses, in log-space throughout: finite at tau = 0.07 in float32.

    Raises:
      ValueError: an argument out of its range; M > N; k + 1 > N; an id that is not in
        [0, N) or one twice among `indices`, where ids are known (not inside of `jit`);
        a bank of another length than the graph; another dtype or shape.

    Source: Wang et al. 2020, arXiv 2010.11694; objective.py of
      WangFeng18/InvariancePropagation.
    """
    check_ids("graph", graph, ndim=2, below=len(graph))
    check_ids("indices", indices, ndim=1, below=len(graph), unique=True)
    count, num_examples, num_neighbors = len(indices), *np.shape(graph)
    rows = -(-num_examples // parallel.axis_size(axis_name))
    check_vectors("bank", bank, like=(rows, None))
    check_vectors("embeddings", embeddings, like=(count, np.shape(bank)[1]))
    check_ranges(
        num_hops=num_hops,
        num_hard=num_hard,
        background_size=background_size,
        temperature=temperature,
        form=form,
        positives=positives,
        selection=selection,
        precision=precision,
        num_examples=num_examples,
        num_neighbors=num_neighbors,
    )
    num_hops, num_hard = int(num_hops), int(num_hard)
    background_size, temperature = int(background_size), float(temperature)
    indices, graph = (jnp.asarray(x, jnp.int32) for x in (indices, graph))
    bank = jnp.asarray(bank, jnp.float32)
    anchors = normalize(jnp.asarray(embeddings, jnp.float32))
    all_indices = parallel.all_gather(indices, axis_name)
    walked = propagate(graph, all_indices, num_hops=num_hops)
    first = distinct(walked, all_indices)

    search = Search(
        num_examples,
        num_neighbors,
        background_size,
        temperature,
        selection,
        precision,
        axis_name,
    )
    seen = read_bank(
        parallel.all_gather(anchors, axis_name),
        lax.stop_gradient(bank),
        all_indices,
        walked,
        first,
        search,
    )
    anchor = parallel.own_sum(seen.anchor, axis_name)
    slots = parallel.own_sum(seen.slots, axis_name)
    first, threshold = jax.tree.map(
        lambda x: lax.stop_gradient(parallel.own_rows(x, count, axis_name)),
        (first, seen.threshold),
    )
    logits = Logits(
        anchor / temperature,
        slots / temperature,
        threshold.weights(anchor[:, None])[:, 0],
        threshold.weights(slots),
        _log_sum_over_devices(seen.log_rest, axis_name),
    )
    if form == "paper":
        instance, propagation = paper_losses(logits, first, num_hard, positives)
    else:
        instance, propagation = released_losses(
            logits, first, background_size, num_hard, positives
        )
    return Losses(instance, propagation, seen.neighbors)


def check_ranges(
    *,
    num_hops: int,
    num_hard: int,
    background_size: int,
    temperature: float,
    form: str,
    positives: str,
    selection: str,
    precision: str,
    num_examples: int,
    num_neighbors: int,
) -> None:
    """Raises UserError, a ValueError, for what `invp_losses` cannot work with."""
    integer("num_hops", num_hops)
    integer("num_hard", num_hard)
    integer("num_neighbors", num_neighbors)
    integer("background_size", background_size)
    if background_size > num_examples:
        raise UserError(
            f"background_size={background_size}, but the bank holds {num_examples} "
            f"images: set it from 1 to {num_examples}"
        )
    if num_neighbors + 1 > num_examples:
        raise UserError(
            f"num_neighbors={num_neighbors}, but the bank holds {num_examples} "
            f"images: set it to at most {num_examples - 1}"
        )
    if not real("temperature", temperature) > 0:
        raise UserError(f"temperature={temperature}: set it above 0, e.g. to 0.2")
    for name, value, known in (
        ("form", form, FORMS),
        ("positives", positives, POSITIVES),
        ("selection", selection, SELECTIONS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise UserError(f"{name}={value!r}: choose one of {', '.join(known)}")


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
