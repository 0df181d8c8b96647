"""The network of Online Deep Clustering: a backbone, a neck, and a classifier."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from invariance_propagation.methods.base import Batch
from invariance_propagation.models import Outputs
from invariance_propagation.models.dropout import dropout
from invariance_propagation.models.norm import BatchNorm

# As the released code draws them (necks.py:16, cls_head.py:28); biases are 0.
NECK_START = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
HEAD_START = nn.initializers.normal(0.01)


class Classified(NamedTuple):
    """Holds the results of a training step for b images.

    Attributes:
      embedding: float32 [b, d], the neck's output, which the bank stores.
      logits: float32 [b, C], one for each cluster.
    """

    embedding: jax.Array
    logits: jax.Array


class Neck(nn.Module):
    """Embeds features: Dense, BatchNorm without scale and bias, ReLU, dropout, Dense, ReLU.

    Attributes:
      hidden: width of the hidden layer.
      dim: d, size of the embedding, which has no negative entry.
      dropout_rate: probability that a hidden unit becomes 0 in training.
      norm_momentum: weight of BatchNorm's old running statistics.
      axis_name: the device axis; BatchNorm's statistics are over the whole batch.
    """

    hidden: int
    dim: int
    dropout_rate: float
    norm_momentum: float
    axis_name: str | None

    @nn.compact
    def __call__(
        self, features: jax.Array, *, train: bool, keys: jax.Array | None = None
    ) -> jax.Array:
        """Embeds float32 [b, F]; `keys`, typed [b], draw the dropout, None: there is none."""
        x = nn.Dense(self.hidden, kernel_init=NECK_START, name="hidden")(features)
        norm = BatchNorm(
            not train,
            axis_name=self.axis_name,
            momentum=self.norm_momentum,
            affine=False,
            name="norm",
        )
        x = nn.relu(norm(x))
        if keys is not None:
            x = dropout(x, keys, rate=self.dropout_rate)
        return nn.relu(nn.Dense(self.dim, kernel_init=NECK_START, name="output")(x))


class Network(nn.Module):
    """Puts a neck on a backbone, and a classifier over clusters on the neck.

    Attributes:
      backbone: module called as `backbone(images, train=...)` that returns [b, F].
      neck: embeds features.
      num_clusters: C.
    """

    backbone: nn.Module
    neck: Neck
    num_clusters: int

    def setup(self) -> None:
        self.head = nn.Dense(self.num_clusters, kernel_init=HEAD_START)

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Embeds float [b, H, W, C] images, without dropout."""
        features = self.backbone(images, train=train).astype(jnp.float32)
        return Outputs(features, self.neck(features, train=train))

    def classify(self, batch: Batch, *, train: bool) -> Classified:
        """Embeds a batch, with dropout in training, and compares it with the clusters."""
        features = self.backbone(batch.views["view"][0], train=train)
        keys = batch.keys if train else None
        embedding = self.neck(features.astype(jnp.float32), train=train, keys=keys)
        return Classified(embedding, self.head(embedding))


def forward(network: Network, batch: Batch, *, train: bool) -> Classified:
    """Classifies the batch's one view; see `Method.forward`."""
    return network.classify(batch, train=train)
