"""Online Deep Clustering as the trainer sees it, in the order of the authors' code.

One step, with the numbers that the comments use:

1. Each image is classified as its cluster; the loss weighs small clusters more.
2. The features of the batch move towards the network's.
3. The images of the batch go to the clusters of the nearest centroids.
4. The optimiser changes the network. (The trainer does it.)
5. Every few steps, the centroids are computed anew from all features.
6. Small clusters are dissolved, and the largest ones split in their place.
7. The weights of the loss follow the sizes of the clusters.

Read `loss` first, which has 1, 2, 3 and 7, then `update`; `repair` has 5 and 6.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from invariance_propagation import parallel
from invariance_propagation.core.bank import normalize, update_bank
from invariance_propagation.core.kmeans import kmeans, kmeans_bytes
from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Method,
    Moment,
    Problem,
    Requires,
    part_of,
)
from invariance_propagation.methods.clusters import (
    cluster_notes,
    size_metrics,
    sizes_of,
)
from invariance_propagation.methods.measures import mean_similarity
from invariance_propagation.methods.odc.network import Classified, Neck, Network
from invariance_propagation.methods.odc.options import Clusters, Memory, Options
from invariance_propagation.methods.odc.repair import (
    nearest_centroid,
    refresh_centroids,
    relabel,
    repair,
)
from invariance_propagation.models.norm import norm_group_of
from invariance_propagation.settings import keywords_of


def init_memory(
    key: jax.Array, variables: Any, *, options: Options, problem: Problem
) -> Memory:
    """Makes room for features and clusters, which `begin` fills in."""
    del key, variables
    count, clusters, dim = (
        problem.num_examples,
        options.num_clusters,
        problem.encoder.dim,
    )
    return Memory(
        bank=jnp.zeros((count, dim), jnp.float32),
        clusters=Clusters(
            labels=jnp.zeros(count, jnp.int32),
            centroids=jnp.zeros((clusters, dim), jnp.float32),
            sizes=jnp.zeros(clusters, jnp.int32),
        ),
    )


def begin(memory: Memory, embed: Callable[[], Any], *, options: Options) -> Memory:
    """Clusters the untrained network's features by k-means.

    Its random start is the same in every run; the features depend on the seed.
    """
    del memory
    bank = np.asarray(normalize(embed().embedding))
    labels, centroids = jax.device_get(
        kmeans(
            jax.random.key(0),
            bank,
            num_clusters=options.num_clusters,
            iterations=options.kmeans_iterations,
        )
    )
    return Memory(bank, Clusters(labels, centroids, sizes_of(labels, len(centroids))))


def forward(encoder: Network, batch: Batch, *, train: bool) -> Classified:
    """Classifies the one view."""
    return encoder.classify(batch.views["view"][0], batch.keys, train=train)


def loss(
    outputs: Classified,
    batch: Batch,
    memory: Memory,
    moment: Moment,
    *,
    options: Options,
    problem: Problem,
) -> tuple[jax.Array, Aux]:
    """Computes the loss of each image, float32 [b], and the batch's next clusters."""
    del moment
    clusters, axis_name = memory.clusters, problem.axis_name
    labels = clusters.labels[batch.indices]
    cross = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)  # 1
    # PyTorch divides by the sum of the weights, here of the whole batch.
    sizes = clusters.sizes[labels].astype(jnp.float32)
    weights = (sizes + 1e-5) ** -options.weight_power  # 7
    weights /= parallel.pmean(weights.mean(), axis_name)

    features = normalize(lax.stop_gradient(outputs.embedding))
    old = parallel.take_own_rows(memory.bank, batch.indices, axis_name)
    m = options.bank_momentum
    moved = normalize(m * old + (1 - m) * features)  # 2
    found = nearest_centroid(moved, clusters.centroids)  # 3
    metrics = {
        "label_changes": (found != labels).mean(dtype=jnp.float32),
        "similarity": mean_similarity(features, axis_name=axis_name),
        **size_metrics(clusters.sizes),
    }
    return weights * cross, Aux(metrics, found)


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
    """Writes the batch into the memory, and keeps the clusters in order."""
    del variables
    axis_name = problem.axis_name
    bank = update_bank(  # 2
        memory.bank,
        batch.indices,
        outputs.embedding,
        momentum=options.bank_momentum,
        axis_name=axis_name,
    )
    ids, labels = (
        parallel.all_gather(x, axis_name) for x in (batch.indices, aux.found)
    )
    clusters = relabel(memory.clusters, ids, labels)  # 3
    # Not in `refresh`, which would come after 6.
    clusters = lax.cond(  # 5
        (moment.step + 1) % options.refresh_every == 0,
        partial(refresh_centroids, bank=bank, axis_name=axis_name),
        lambda clusters: clusters,
        clusters,
    )
    clusters = repair(  # 6
        clusters, bank, step=moment.step, options=options, axis_name=axis_name
    )
    return Memory(bank, clusters)


def match(memory: Memory, rows: np.ndarray, embeddings: np.ndarray) -> Memory:
    """Carries a memory over to other training images; see `methods.base.Method`.

    Images that were there keep their features and clusters; new ones start from their
    embeddings, in the clusters of the nearest centroids, which stay.
    """
    kept, centroids = rows >= 0, memory.clusters.centroids
    bank = np.empty((len(rows), memory.bank.shape[1]), np.float32)
    bank[kept] = memory.bank[rows[kept]]
    bank[~kept] = normalize(jnp.asarray(embeddings, jnp.float32))
    labels = np.empty(len(rows), np.int32)
    labels[kept] = memory.clusters.labels[rows[kept]]
    if not kept.all():
        labels[~kept] = nearest_centroid(jnp.asarray(bank[~kept]), centroids)
    return Memory(bank, Clusters(labels, centroids, sizes_of(labels, len(centroids))))


def make_network(options: Options, problem: Problem) -> Network:
    """Puts neck and classifier on the config's backbone."""
    encoder = problem.encoder
    neck = Neck(
        hidden=encoder.hidden,
        dim=encoder.dim,
        rate=options.dropout,
        norm_momentum=options.norm_momentum,
        norm_group=norm_group_of(encoder.backbone),
        axis_name=problem.axis_name,
        dtype=encoder.dtype,
    )
    return Network(encoder.backbone, neck, options.num_clusters)


def buffers(
    batch_size: int, num_devices: int, platform: str, *, num_clusters: int
) -> dict[str, int]:
    """Returns the bytes of the loss's largest arrays on each device."""
    del platform
    size = 4 * (batch_size // num_devices) * num_clusters
    return {"logits of the clusters": size, "products with the centroids": size}


@keywords_of(Options)
def odc(*, problem: Problem, **options: Any) -> Method:
    """Makes the method from its options.

    Args:
      problem: N, the encoder and the device axis.
      options: the fields of `Options`, all of them.

    Raises:
      UserError: a value out of its range.

    Source: Zhan, Xie, Liu, Ong, Loy: "Online Deep Clustering for Unsupervised
    Representation Learning", CVPR 2020, arXiv 2006.10645. The order of a step is that
    of open-mmlab/OpenSelfSup.
    """
    checked = Options(**options).checked(
        problem.num_examples, began_with=problem.steps_per_epoch * problem.batch_size
    )
    bound = {"options": checked, "problem": problem}
    count = checked.num_clusters
    return Method(
        encoder=make_network(checked, problem),
        forward=forward,
        init_memory=partial(init_memory, **bound),
        memory_spec=Memory(parallel.SHARDED, Clusters(*[parallel.REPLICATED] * 3)),
        begin=partial(begin, options=checked),
        loss=partial(loss, **bound),
        update=partial(update, **bound),
        match=match,
        param_groups=lambda params: {
            name: "head" if name == "classifier" else "body" for name in params
        },
        requires=Requires(fewest_examples=2 * count * checked.min_cluster),
        notes=cluster_notes(
            lambda memory: part_of(memory, "clusters.labels"),
            about=f"{count:,} clusters",
            buffers=partial(buffers, num_clusters=count),
            begin_bytes=kmeans_bytes(problem.num_examples, problem.encoder.dim, count),
            rows="bank",
        ),
    )
