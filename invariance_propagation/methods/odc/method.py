"""Online Deep Clustering as the trainer sees it, in the order of one iteration.

Clusters and network learn together: each image is classified as its cluster, and each
visit moves the image to the nearest cluster. Steps are numbered as in the docs page:

  (1)  loss: cross-entropy of an image's logits with its label from before the step, images
       of cluster c weighted by n_c^-1/2
  (2)  bank row  f_i <- unit( m f_i + (1 - m) unit(z_i) ), z_i the embedding
  (3)  label     y_i <- the cluster c with the largest  c . f_i
  (4)  the optimiser's step, which the trainer takes
  (5)  every few steps, each centroid becomes the mean of its rows
  (6)  clusters with too few images are dissolved, and large ones split into their places

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
from invariance_propagation.core.bank import normalize, update_bank
from invariance_propagation.core.kmeans import kmeans
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
)
from invariance_propagation.methods.clusters import cluster_notes, size_metrics
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.methods.odc.network import Network
from invariance_propagation.methods.odc.options import Options
from invariance_propagation.methods.odc.small_clusters import (
    Clusters,
    all_centroids,
    deal_with_small,
    sizes_of,
)
from invariance_propagation.settings import keywords_of

SEED_OF_KMEANS = 0x0DC


class Memory(NamedTuple):
    """Holds what the method remembers about the N training images.

    Attributes:
      bank: float32 [N, d], one embedding per image; sharded.
      clusters: labels, sizes and centroids; replicated.
    """

    bank: Any
    clusters: Any


class Classified(NamedTuple):
    """Holds the network's outputs for b images.

    Attributes:
      embedding: float32 [b, d], not normalised, none of its numbers negative.
      logits: float32 [b, K].
    """

    embedding: jax.Array
    logits: jax.Array


def forward(encoder: Network, batch: Batch, *, train: bool) -> Classified:
    """Embeds and classifies the one view; dropout is on in training."""
    keys = batch.keys if train else None
    embedding = encoder(batch.views["view"][0], train=train, keys=keys).embedding
    return Classified(embedding, encoder.classify(embedding))


def loss(
    outputs: Classified,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes (1), float32 [b], and the new labels of (3)."""
    del moment
    clusters, axis_name = memory.clusters, problem.axis_name
    labels = clusters.labels[batch.indices]
    # 1e-5 as in the released code; only a cluster without images would need it.
    sizes = clusters.sizes[labels].astype(jnp.float32) + 1e-5
    weights = sizes**-options.balance
    # The mean over the batch of all devices is then the weighted mean.
    weights /= parallel.pmean(weights.mean(), axis_name)
    cross = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
    embedding = lax.stop_gradient(outputs.embedding)
    new = nearest_clusters(embedding, batch.indices, memory, options, axis_name)
    metrics = {
        "label_changes": (new != labels).mean(dtype=jnp.float32),
        "similarity": mean_similarity(embedding, axis_name=axis_name),
        **size_metrics(clusters.sizes),
    }
    return weights * cross, Aux(metrics, new)


def nearest_clusters(
    embedding: jax.Array,
    indices: jax.Array,
    memory: Memory,
    options: Options,
    axis_name: str | None,
) -> jax.Array:
    """Computes (2) and (3) for this device's images; returns labels, int32 [b]."""
    everyone = parallel.all_gather(indices, axis_name)
    rows = parallel.local_rows(everyone, len(memory.bank), axis_name)
    old = memory.bank.at[rows].get(mode="fill", fill_value=0.0)
    old = parallel.psum_scatter(old, axis_name)
    kept = options.bank_momentum
    moved = normalize(kept * old + (1 - kept) * normalize(embedding))
    centroids = memory.clusters.centroids
    scores = jnp.matmul(moved, centroids.T, precision="highest")
    return jnp.argmax(scores, axis=1).astype(jnp.int32)


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
    """Writes the batch's rows and labels; then (5) and (6)."""
    del variables
    axis_name = problem.axis_name
    bank = update_bank(
        memory.bank,
        batch.indices,
        outputs.embedding,
        momentum=options.bank_momentum,
        axis_name=axis_name,
    )
    clusters = relabel(memory.clusters, batch.indices, aux.found, axis_name)
    clusters = lax.cond(
        (moment.step + 1) % options.centroid_every == 0,
        lambda x: all_centroids(x, bank, axis_name=axis_name),
        lambda x: x,
        clusters,
    )
    clusters = deal_with_small(
        clusters,
        bank,
        min_size=options.min_size,
        most=options.splits_per_step,
        axis_name=axis_name,
    )
    return Memory(bank, clusters)


def relabel(
    clusters: Clusters, indices: jax.Array, new: jax.Array, axis_name: str | None
) -> Clusters:
    """Writes the new labels of this device's images, int32 [b], and counts again."""
    indices, new = (parallel.all_gather(x, axis_name) for x in (indices, new))
    old = clusters.labels[indices]
    return clusters._replace(
        labels=clusters.labels.at[indices].set(new, unique_indices=True),
        sizes=clusters.sizes.at[old].add(-1).at[new].add(1),
    )


def init_memory(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Makes room for the memory, which `begin` fills."""
    del key, variables
    count, dim = problem.num_examples, problem.encoder.dim
    labels = jnp.zeros(count, jnp.int32)
    return Memory(
        bank=jnp.zeros((count, dim), jnp.float32),
        clusters=Clusters(
            labels,
            sizes_of(labels, options.num_clusters),
            jnp.zeros((options.num_clusters, dim), jnp.float32),
        ),
    )


def begin(memory: Memory, embed: Callable[[], Any], *, options: Options) -> Memory:
    """Clusters the embeddings of the untrained network by k-means."""
    rows = np.asarray(normalize(jnp.asarray(embed().embedding, jnp.float32)))
    count = len(memory.clusters.sizes)
    key = jax.random.key(SEED_OF_KMEANS)
    labels, centroids = kmeans(rows, count, key=key, num_rounds=options.kmeans_rounds)
    sizes = np.bincount(labels, minlength=count).astype(np.int32)
    return Memory(rows, Clusters(labels, sizes, centroids))


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Images that were there keep their rows and labels; new ones start from their
    embeddings, in the nearest cluster.
    """
    kept, clusters = rows >= 0, memory.clusters
    bank = np.empty((len(rows), memory.bank.shape[1]), np.float32)
    labels = np.empty(len(rows), np.int32)
    bank[kept], labels[kept] = (x[rows[kept]] for x in (memory.bank, clusters.labels))
    bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
    labels[~kept] = np.argmax(bank[~kept] @ clusters.centroids.T, axis=1)
    sizes = np.bincount(labels, minlength=len(clusters.sizes)).astype(np.int32)
    return Memory(bank, clusters._replace(labels=labels, sizes=sizes))


def clusters_of(memory: Any) -> np.ndarray:
    """Returns the cluster of each image, from the memory or its arrays by name."""
    if isinstance(memory, Memory):
        return memory.clusters.labels
    return memory["clusters"]["labels"]


@keywords_of(Options)
def odc(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the encoder and the device axis. Of the encoder, its backbone and the
        size of the embedding count; the head is ODC's own.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised
    Representation Learning", CVPR 2020, arXiv 2006.10645; the released code is
    open-mmlab/OpenSelfSup at commit 1db69ec.
    """
    checked = Options(**options).checked(problem.num_examples)
    bound = {"options": checked, "problem": problem}
    return Method(
        encoder=Network(
            problem.encoder.backbone,
            num_clusters=checked.num_clusters,
            hidden=checked.hidden,
            dim=problem.encoder.dim,
            dropout_rate=checked.dropout,
            axis_name=problem.axis_name,
        ),
        forward=forward,
        init_memory=partial(init_memory, **bound),
        memory_spec=Memory(parallel.SHARDED, parallel.REPLICATED),
        begin=partial(begin, options=checked),
        loss=partial(loss, **bound),
        update=partial(update, **bound),
        match=match,
        param_groups=lambda params: {
            name: "classifier" if name == "classifier" else "rest" for name in params
        },
        requires=Requires(fewest_examples=checked.num_clusters * checked.min_size),
        notes=cluster_notes(
            clusters_of,
            about=f"{checked.num_clusters:,} clusters",
            rows="bank",
        ),
    )
