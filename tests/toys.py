"""Toy versions of the related methods: between them, all that a method may need.

They are not the methods, and learn little. Each is small enough to compile in a second.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from invariance_propagation import parallel
from invariance_propagation.core.bank import normalize, update_bank
from invariance_propagation.methods import (
    Aux,
    Batch,
    Method,
    Moment,
    Notes,
    Problem,
    Requires,
)
from invariance_propagation.models import Outputs
from invariance_propagation.models.dropout import dropout
from invariance_propagation.parallel import REPLICATED, SHARDED, all_gather


class Headed(nn.Module):
    """A backbone, an embedding of it, and one more head that `forward` alone calls."""

    backbone: nn.Module
    dim: int
    outputs: int

    def setup(self) -> None:
        self.neck = nn.Dense(self.dim)
        self.head = nn.Dense(self.outputs)

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        features = self.backbone(images, train=train)
        return Outputs(features, self.neck(features))


# Labels and centroids in memory, a pass over the whole set before step 0, work every few
# steps, dropout, a head with its own momentum.


class Clusters(NamedTuple):
    bank: Any
    labels: Any
    centroids: Any


class Classified(NamedTuple):
    embedding: Any
    logits: Any


def clustering(*, num_clusters: int, every: int, dim: int, problem: Problem) -> Method:
    """ODC, without splits of clusters."""
    count, axis_name = problem.num_examples, problem.axis_name

    def init_memory(key: jax.Array, variables: Any) -> Clusters:
        del key, variables
        bank = jnp.zeros((count, dim), jnp.float32)
        labels = jnp.zeros(count, jnp.int32)
        return Clusters(bank, labels, jnp.zeros((num_clusters, dim), jnp.float32))

    def begin(memory: Clusters, embed: Any) -> Clusters:
        rows = np.asarray(normalize(embed().embedding))
        centroids = rows[:num_clusters]
        for _ in range(4):
            labels = np.argmax(rows @ centroids.T, axis=1)
            sums = [rows[labels == c].sum(axis=0) for c in range(num_clusters)]
            counts = np.bincount(labels, minlength=num_clusters)[:, None]
            centroids = np.stack(sums) / np.maximum(counts, 1)
        return Clusters(rows, labels.astype(np.int32), centroids.astype(np.float32))

    def forward(encoder: Headed, batch: Batch, *, train: bool) -> Classified:
        embedding = encoder(batch.views["view"][0], train=train).embedding
        x = dropout(embedding, batch.keys, rate=0.5) if train else embedding
        return Classified(embedding, encoder.head(x))

    def loss(outputs: Any, batch: Batch, memory: Clusters, moment: Moment) -> tuple:
        del moment
        labels = memory.labels[batch.indices]
        sizes = jnp.bincount(memory.labels, length=num_clusters)
        weights = jax.lax.rsqrt(sizes + 1e-5)[labels]
        mean = parallel.pmean(weights.mean(), axis_name)
        cross = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
        return weights / mean * cross, Aux({"largest": sizes.max() / count})

    def update(
        memory: Clusters,
        outputs: Any,
        batch: Batch,
        aux: Aux,
        variables: Any,
        moment: Any,
    ) -> Clusters:
        del aux, variables, moment
        bank = update_bank(
            memory.bank,
            batch.indices,
            outputs.embedding,
            momentum=0.5,
            axis_name=axis_name,
        )
        new = jnp.argmax(normalize(outputs.embedding) @ memory.centroids.T, axis=1)
        everyone, labels = (all_gather(x, axis_name) for x in (batch.indices, new))
        labels = memory.labels.at[everyone].set(labels.astype(jnp.int32))
        return memory._replace(bank=bank, labels=labels)

    def refresh(memory: Clusters, moment: Moment) -> Clusters:
        del moment
        rows = len(memory.bank)
        ids = parallel.first_row(rows, axis_name) + jnp.arange(rows, dtype=jnp.int32)
        real = (ids < count).astype(jnp.float32)  # the rest pads the last device
        labels = memory.labels[jnp.minimum(ids, count - 1)]
        sums = jax.ops.segment_sum(memory.bank * real[:, None], labels, num_clusters)
        counts = jax.ops.segment_sum(real, labels, num_clusters)
        sums, counts = parallel.psum((sums, counts), axis_name)
        means = sums / jnp.maximum(counts, 1)[:, None]
        kept = jnp.where(counts[:, None] > 0, means, memory.centroids)
        return memory._replace(centroids=kept)

    def match(memory: Clusters, rows: np.ndarray, embeddings: np.ndarray) -> Clusters:
        bank = np.empty((len(rows), dim), np.float32)
        bank[rows >= 0] = memory.bank[rows[rows >= 0]]
        bank[rows < 0] = normalize(embeddings)
        labels = np.argmax(bank @ memory.centroids.T, axis=1).astype(np.int32)
        return memory._replace(bank=bank, labels=labels)

    return Method(
        encoder=Headed(problem.encoder.backbone, dim, num_clusters),
        forward=forward,
        init_memory=init_memory,
        memory_spec=Clusters(SHARDED, REPLICATED, REPLICATED),
        begin=begin,
        loss=loss,
        update=update,
        refresh=refresh,
        refresh_every=every,
        match=match,
        param_groups=lambda params: {
            name: "body" if name == "backbone" else "head" for name in params
        },
        requires=Requires(fewest_examples=num_clusters),
        notes=Notes(rows="bank", about=f"{num_clusters} clusters"),
    )


# A column of the data set, a key encoder that follows the new parameters, a queue.


class Queues(NamedTuple):
    key: Any
    queue: Any


def separating(*, size: int, problem: Problem) -> Method:
    """DIUL with queues of each domain."""
    axis_name, domains = problem.axis_name, problem.categories["domain"]
    dim = problem.encoder.dim
    encoder = Headed(problem.encoder.backbone, dim, domains)

    def init_memory(key: jax.Array, variables: Any) -> Queues:
        queue = normalize(jax.random.normal(key, (domains * size, dim), jnp.float32))
        return Queues(variables, queue.reshape(domains, size, dim))

    def forward(encoder: Headed, batch: Batch, *, train: bool) -> Any:
        features, embedding = encoder(batch.views["query"][0], train=train)
        return embedding, encoder.head(features)

    def loss(outputs: Any, batch: Batch, memory: Queues, moment: Moment) -> tuple:
        del moment
        embedding, logits = outputs
        query, domain = normalize(embedding), batch.columns["domain"]
        keys = encoder.apply(memory.key, batch.views["key"][0], train=False)
        keys = normalize(jax.lax.stop_gradient(keys.embedding))
        own = (query * keys).sum(axis=1, keepdims=True) / 0.3
        others = jnp.einsum("bd,nsd->bns", query, memory.queue) / 0.3
        own = jnp.broadcast_to(own[:, None], (len(query), domains, 1))
        among = jax.nn.logsumexp(jnp.concatenate([own, others], axis=2), axis=2)
        weights = jax.nn.log_softmax(logits)
        loss = -jax.nn.logsumexp(weights + own[..., 0] - among, axis=1)
        loss += optax.softmax_cross_entropy_with_integer_labels(logits, domain)
        return loss, Aux({"own": own.mean()}, keys)

    def update(
        memory: Queues,
        outputs: Any,
        batch: Batch,
        aux: Aux,
        variables: Any,
        moment: Any,
    ) -> Queues:
        del outputs
        keys, domain = (
            all_gather(x, axis_name) for x in (aux.found, batch.columns["domain"])
        )
        places = (moment.step * len(keys) + jnp.arange(len(keys))) % size
        queue = memory.queue.at[domain, places].set(keys)
        moved = jax.tree.map(lambda x, y: 0.9 * x + 0.1 * y, memory.key, variables)
        return Queues(moved, queue)

    return Method(
        encoder=encoder,
        forward=forward,
        init_memory=init_memory,
        memory_spec=REPLICATED,
        loss=loss,
        update=update,
        requires=Requires(views={"query": 1, "key": 1}, columns=("domain",)),
    )


# Clips with boxes, and no memory.


PATCH = 3  # pixels


def tracking(*, frames: int, problem: Problem) -> Method:
    """Catch-the-Patch: says in which box a patch ends that moves from frame to frame."""

    def prepare(batch: Batch, moment: Moment) -> Batch:
        del moment
        images = batch.views["view"][0]

        def clip(key: jax.Array, image: jax.Array) -> tuple[jax.Array, jax.Array]:
            most = min(image.shape[:2]) - PATCH
            first, last = jax.random.randint(key, (2, 2), 0, most + 1)
            way = jnp.arange(frames, dtype=jnp.int32)[:, None] / (frames - 1)
            corners = jnp.round(first + way * (last - first)).astype(jnp.int32)
            patch = jnp.ones((PATCH, PATCH, image.shape[2]), image.dtype)

            def paste(corner: jax.Array) -> jax.Array:
                return jax.lax.dynamic_update_slice(image, patch, (*corner, 0))

            boxes = jnp.concatenate([corners, corners + PATCH], axis=1)
            return jax.vmap(paste)(corners), boxes / len(image)

        clips, boxes = jax.vmap(clip)(batch.keys, images)
        return batch._replace(
            views={"clip": clips[None]}, extra=boxes.astype(jnp.float32)
        )

    def forward(encoder: Headed, batch: Batch, *, train: bool) -> jax.Array:
        clips = batch.views["clip"][0]
        seen = [encoder(clips[:, i], train=train) for i in range(frames)]
        first, last = seen[0].features, seen[-1].features
        return encoder.head(jnp.concatenate([first, last - first], axis=1))

    def loss(outputs: Any, batch: Batch, memory: Any, moment: Moment) -> tuple:
        del memory, moment
        boxes = batch.extra  # [b, frames, 4]
        return optax.huber_loss(outputs, boxes[:, -1]).sum(axis=1), Aux({})

    return Method(
        encoder=Headed(problem.encoder.backbone, 4, 4),
        forward=forward,
        prepare=prepare,
        loss=loss,
    )
