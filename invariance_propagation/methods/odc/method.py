"""Online Deep Clustering as the trainer sees it, in the order of the released code.

Each image has a row in a bank and a label, the cluster it is in. A step

  (1) classifies the batch into the clusters that its images are in;
  (2) moves the batch's rows of the bank towards the new embeddings;
  (3) puts the batch into the clusters whose centroids fit the new rows best;
  (4) every `refresh_every` steps makes all centroids the means of their clusters;
  (5) replaces small clusters by halves of the largest ones.

Read `loss` first, then `update`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.bank import normalize, read_rows, update_bank
from invariance_propagation.core.kmeans import best_dots, kmeans, means_of
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
    part_of,
)
from invariance_propagation.methods.clusters import cluster_notes, size_metrics
from invariance_propagation.methods.odc.network import (
    Classified,
    Neck,
    Network,
    forward,
)
from invariance_propagation.methods.odc.options import Options
from invariance_propagation.methods.odc.upkeep import (
    Clusters,
    fill_empty,
    local_labels,
    replace_small,
)
from invariance_propagation.parallel import REPLICATED, SHARDED
from invariance_propagation.settings import keywords_of


class Memory(NamedTuple):
    """Holds what the method remembers about the N training images.

    Attributes:
      bank: float32 [N, d], one embedding of unit length per image; sharded.
      clusters: which image is in which cluster, and the clusters' centroids; replicated.
    """

    bank: Any
    clusters: Clusters


def init_memory(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Makes the memory in its shapes; `begin` and `settle` fill it."""
    del key, variables
    count, dim = options.num_clusters, problem.encoder.dim
    return Memory(
        bank=jnp.zeros((problem.num_examples, dim), jnp.float32),
        clusters=Clusters(
            labels=jnp.zeros(problem.num_examples, jnp.int32),
            sizes=jnp.zeros(count, jnp.int32),
            centroids=jnp.zeros((count, dim), jnp.float32),
        ),
    )


def begin(memory: Memory, embed: Callable[[], Any]) -> Memory:
    """Starts the bank from the embeddings of the untrained network."""
    return memory._replace(bank=np.asarray(normalize(embed().embedding)))


def settle(
    memory: Memory, key: jax.Array, *, options: Options, problem: Problem
) -> Memory:
    """Clusters the bank by k-means, from random rows; leaves no cluster empty."""
    bank, axis_name = memory.bank, problem.axis_name
    start = jax.random.choice(
        key, problem.num_examples, (options.num_clusters,), replace=False
    )
    labels, centroids, sizes = kmeans(
        bank,
        read_rows(bank, start.astype(jnp.int32), axis_name=axis_name),
        num_examples=problem.num_examples,
        num_iterations=options.kmeans_iterations,
        axis_name=axis_name,
    )
    labels = parallel.all_gather(labels, axis_name)[: problem.num_examples]
    clusters = fill_empty(
        Clusters(labels, sizes, centroids),
        bank,
        num_iterations=options.split_iterations,
        axis_name=axis_name,
    )
    return Memory(bank, clusters)


def loss(
    outputs: Classified,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b], from the memory before the step."""
    del moment
    labels = memory.clusters.labels[batch.indices]
    sizes = memory.clusters.sizes[labels].astype(jnp.float32)
    weights = (1 / (sizes + 1e-5)) ** options.balance
    # (1) Over all devices, a mean with weights: divided by the sum of the weights.
    weights /= parallel.pmean(weights.mean(), problem.axis_name)
    cross = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
    new = new_labels(outputs, batch, memory, options=options, problem=problem)
    metrics = {
        "label_changes": (new != labels).mean(dtype=jnp.float32),
        **size_metrics(memory.clusters.sizes),
    }
    return weights * cross, Aux(metrics, new)


def new_labels(
    outputs: Classified,
    batch: Batch,
    memory: Memory,
    *,
    options: Options,
    problem: Problem,
) -> jax.Array:
    """Finds the clusters that fit the batch's rows of the bank after this step, int32 [b]."""
    axis_name = problem.axis_name
    everyone = parallel.all_gather(batch.indices, axis_name)
    old = read_rows(memory.bank, everyone, axis_name=axis_name)
    old = parallel.local_slice(old, len(batch.indices), axis_name)
    m, new = options.bank_momentum, lax.stop_gradient(outputs.embedding)
    row = normalize(m * old + (1 - m) * normalize(new))
    return best_dots(row, memory.clusters.centroids)


def update(
    memory: Memory,
    outputs: Classified,
    batch: Batch,
    aux: Aux,
    variables: Any,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> Memory:
    """Writes the batch's rows and labels, then looks after the clusters."""
    del variables
    axis_name, (labels, sizes, centroids) = problem.axis_name, memory.clusters
    bank = update_bank(  # (2)
        memory.bank,
        batch.indices,
        outputs.embedding,
        momentum=options.bank_momentum,
        axis_name=axis_name,
    )
    # (3) No image is twice in an epoch, so that none is twice in a batch.
    ids, new = (parallel.all_gather(x, axis_name) for x in (batch.indices, aux.found))
    sizes = sizes.at[labels[ids]].add(-1).at[new].add(1)
    labels = labels.at[ids].set(new)

    def refresh(centroids: jax.Array) -> jax.Array:
        here = local_labels(labels, len(bank), axis_name)
        return means_of(bank, here, centroids, axis_name=axis_name)[0]

    due = (moment.step + 1) % options.refresh_every == 0
    centroids = lax.cond(due, refresh, lambda centroids: centroids, centroids)  # (4)
    clusters = replace_small(  # (5)
        Clusters(labels, sizes, centroids),
        bank,
        min_cluster=options.min_cluster,
        most=options.splits_per_step,
        num_iterations=options.split_iterations,
        axis_name=axis_name,
    )
    return Memory(bank, clusters)


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Images that were there keep their rows and clusters. A new image starts from its
    embedding and joins the cluster whose centroid fits it best.
    """
    kept, before = rows >= 0, memory.clusters
    bank = np.empty((len(rows), memory.bank.shape[1]), np.float32)
    bank[kept] = memory.bank[rows[kept]]
    bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
    labels = np.empty(len(rows), np.int32)
    labels[kept] = before.labels[rows[kept]]
    labels[~kept] = np.argmax(bank[~kept] @ before.centroids.T, axis=1)
    sizes = np.bincount(labels, minlength=len(before.sizes)).astype(np.int32)
    return Memory(bank, Clusters(labels, sizes, before.centroids))


def param_groups(params: dict[str, Any]) -> dict[str, str]:
    """Gives the classifier a group of its own, 'head'; the rest is 'body'."""
    return {name: "head" if name == "head" else "body" for name in params}


@keywords_of(Options)
def odc(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the encoder and the device axis. The neck has the widths of the encoder's
        head.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised
    Representation Learning", CVPR 2020, arXiv 2006.10645.
    """
    checked = Options(**options).checked(problem)
    bound = {"options": checked, "problem": problem}
    neck = Neck(
        problem.encoder.hidden,
        problem.encoder.dim,
        checked.dropout,
        checked.norm_momentum,
        problem.axis_name,
    )
    return Method(
        encoder=Network(problem.encoder.backbone, neck, checked.num_clusters),
        forward=forward,
        init_memory=partial(init_memory, **bound),
        memory_spec=Memory(SHARDED, Clusters(*[REPLICATED] * 3)),
        begin=begin,
        settle=partial(settle, **bound),
        loss=partial(loss, **bound),
        update=partial(update, **bound),
        match=match,
        param_groups=param_groups,
        requires=Requires(fewest_examples=checked.fewest_examples),
        notes=cluster_notes(
            lambda memory: part_of(memory, "clusters.labels"),
            rows="bank",
            about=f"{checked.num_clusters:,} clusters of at least {checked.min_cluster:,} "
            "images",
        ),
    )
