"""The objective of Invariance Propagation: embed, walk, look up, two losses.

The equations stand in the order of the paper (Wang et al. 2020, arXiv 2010.11694). Their
numbers are this project's; comments elsewhere cite them. v is the unit embedding of
anchor i, b_j is row j of the bank, and e_j = exp(v . b_j / tau).

  (1)  N(i)     images that at most l hops along the graph reach from i, without i
  (2)  N_M(i)   the M images with the largest e_j: the background
  (3)  L_ins  = -log( e_i / sum of e_j over N_M(i) and i )
  (4)  N_h(i)   the P images of N(i) with the smallest e_j: the hard positives
  (5)  N_neg(i) N_M(i) without N(i) and i: the negatives
  (6)  L_inv  = -log( sum of e_j over N_h(i) / sum of e_j over N_h(i) and N_neg(i) )
  (7)  L      = mean over i of L_ins + lambda w(t) L_inv
  (8)  b_i   <- unit( m b_i + (1 - m) v ), after the loss
  (9)  row i of the graph <- the k images other than i with the largest e_j

`core.graph` walks (1) and writes (9). `core.search` finds (2) and the neighbours for (9).
`core.losses` computes (3) to (6), and `core.bank` (8). This module joins (1) to (6);
`methods.invariance_propagation.method` adds (7) to (9).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.arguments import check_ids, check_vectors, integer
from invariance_propagation.core.bank import normalize
from invariance_propagation.core.graph import distinct, propagate, propagate_sharded
from invariance_propagation.core.losses import Logits, paper_losses, released_losses
from invariance_propagation.core.options import LossOptions
from invariance_propagation.core.search import Reading, Search, read_bank


class Losses(NamedTuple):
    """Holds the two losses of each anchor, and its neighbours.

    An embedding with NaN has losses of NaN and no neighbours: their ids are 2^31 - 1,
    which `update_graph` refuses outside of `jit`.

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
    num_examples: int | None = None,
    axis_name: str | None = None,
) -> Losses:
    """Computes the losses of Invariance Propagation, and each anchor's new neighbours.

    With `axis_name`, `embeddings` and `indices` are those of this device and `bank`
    holds this device's rows. The function gathers what it needs from other devices and
    returns the results of this device's anchors.

    Args:
      embeddings: float [b, d], normalised here. Only they receive a gradient.
      indices: int [b], the anchors' ids, all different over all devices.
      bank: float32 [N, d], or this device's rows [Np / D, d].
      graph: int32 [N, k]; or, with `num_examples`, this device's rows [Np / D, k].
      num_hops: l, at least 1.
      num_hard: P, at least 1. If an anchor has fewer positives, all are used.
      background_size: M, from 1 to N. Rows tied at the M-th place share the places that
        are left, so the result depends neither on their order nor on the devices.
      temperature: tau, above 0.
      form: 'paper' (sets) or 'released' (the authors' code); see `losses`.
      positives: 'hard', or 'easy' for the most similar instead of the least.
      selection: how the background is searched, 'exact' or 'approx'; see
        `search.Search`.
      precision: of the products with the bank, 'highest', 'high' or 'bfloat16'; see
        `search.Search`. The losses are float32 in any case.
      num_examples: N, if the graph is sharded as the bank is; None if it is whole.
      axis_name: the device axis, or None for one device.

    Returns:
      Losses, computed with log-sums: finite in float32 at tau = 0.07.

    Raises:
      ValueError: an argument is out of its range; M > N; k + 1 > N; an id is not in
        [0, N) or occurs twice among `indices` (checked only outside of `jit`, where ids
        are known); bank and graph differ in length; a dtype or shape is wrong.

    Source: Wang et al. 2020, arXiv 2010.11694; objective.py of
      WangFeng18/InvariancePropagation.
    """
    is_sharded = num_examples is not None
    num_examples = integer("num_examples", num_examples) if is_sharded else len(graph)
    num_neighbors = _check_arrays(
        embeddings, indices, bank, graph, num_examples, is_sharded, axis_name
    )
    options = LossOptions(
        num_hops=num_hops,
        num_hard=num_hard,
        background_size=background_size,
        temperature=temperature,
        form=form,
        positives=positives,
        selection=selection,
        precision=precision,
    ).checked(num_examples=num_examples, num_neighbors=num_neighbors)
    indices, graph = (jnp.asarray(x, jnp.int32) for x in (indices, graph))
    bank = jnp.asarray(bank, jnp.float32)
    anchors = normalize(jnp.asarray(embeddings, jnp.float32))  # v, [b, d]
    all_indices = parallel.all_gather(indices, axis_name)

    # (1): the slots hold N(i) with repeats; `first` marks each image once. [B, slots]
    walk = partial(propagate_sharded, axis_name=axis_name) if is_sharded else propagate
    walked = walk(graph, all_indices, num_hops=options.num_hops)
    first = distinct(walked, all_indices)

    # (2) and (9): each device compares all B anchors with its rows of the bank, once.
    seen = read_bank(
        parallel.all_gather(anchors, axis_name),
        lax.stop_gradient(bank),
        all_indices,
        walked,
        first,
        _search(options, num_examples, num_neighbors, axis_name),
    )
    logits, first = _of_this_device(
        seen, first, len(indices), options.temperature, axis_name
    )
    # (3) to (6)
    if options.form == "paper":
        instance, propagation = paper_losses(
            logits, first, options.num_hard, options.positives
        )
    else:
        instance, propagation = released_losses(
            logits, first, options.background_size, options.num_hard, options.positives
        )
    return Losses(instance, propagation, seen.neighbors)


def _check_arrays(
    embeddings: jax.Array,
    indices: jax.Array,
    bank: jax.Array,
    graph: jax.Array,
    num_examples: int,
    is_sharded: bool,
    axis_name: str | None,
) -> int:
    """Checks dtypes, shapes and ids; returns k."""
    check_ids("graph", graph, ndim=2, below=num_examples)
    check_ids("indices", indices, ndim=1, below=num_examples, unique=True)
    alone = axis_name is None and not is_sharded
    rows = -(-num_examples // parallel.axis_size(axis_name))
    if axis_name is not None:  # padding, rows beyond N, may make it more
        rows = max(rows, len(bank))
    check_vectors("bank", bank, like=(None if alone else rows, None))
    if (alone or is_sharded) and len(graph) != len(bank):
        advice = "both have one for each image" if alone else "shard both alike"
        raise ValueError(
            f"graph has {len(graph)} rows and bank has {len(bank)}: {advice}"
        )
    check_vectors("embeddings", embeddings, like=(len(indices), np.shape(bank)[1]))
    return np.shape(graph)[1]


def _search(
    options: LossOptions, num_examples: int, num_neighbors: int, axis_name: str | None
) -> Search:
    return Search(
        num_examples=num_examples,
        num_neighbors=num_neighbors,
        background_size=options.background_size,
        temperature=options.temperature,
        selection=options.selection,
        precision=options.precision,
        axis_name=axis_name,
    )


def _of_this_device(
    seen: Reading,
    first: jax.Array,
    count: int,
    temperature: float,
    axis_name: str | None,
) -> tuple[Logits, jax.Array]:
    """Adds up what all devices saw of this device's anchors.

    Args:
      seen: what this device's rows of the bank tell about all B anchors.
      first: bool [B, slots].
      count: b, the anchors of this device.
      temperature: tau.
      axis_name: the device axis, or None for one device.

    Returns:
      The logits of the b anchors, and their bool [b, slots] of `first`.
    """
    anchor = parallel.psum_scatter(seen.anchor, axis_name)
    slots = parallel.psum_scatter(seen.slots, axis_name)
    first, threshold = jax.tree.map(
        lambda x: lax.stop_gradient(parallel.local_slice(x, count, axis_name)),
        (first, seen.threshold),
    )
    logits = Logits(
        anchor=anchor / temperature,
        slots=slots / temperature,
        anchor_in_set=threshold.weights(anchor[:, None])[:, 0],
        slots_in_set=threshold.weights(slots),
        log_rest=_log_sum_over_devices(seen.log_rest, axis_name),
    )
    return logits, first


def _log_sum_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Combines each device's log-sums [B] into this device's [b]; -inf where empty."""
    if axis_name is None:
        return x
    largest = parallel.pmax(lax.stop_gradient(x), axis_name)
    largest = jnp.where(largest == -jnp.inf, 0.0, largest)
    total = parallel.psum_scatter(jnp.exp(x - largest), axis_name)
    largest = parallel.local_slice(largest, total.shape[0], axis_name)
    empty = total <= 0
    return jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1.0, total)) + largest)
