"""The network of Online Deep Clustering: backbone, neck and classifier."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation.models import Outputs
from invariance_propagation.models.dropout import dropout
from invariance_propagation.models.norm import BatchNorm

# Kaiming's normal for the neck, and a normal of 0.01 for the classifier, as released.
_KAIMING = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_SMALL = nn.initializers.normal(0.01)


class Classified(NamedTuple):
    """Holds what a training step sees of b images.

    Attributes:
      embedding: float32 [b, d], the neck's output, none of it negative.
      logits: float32 [b, C], scores of the clusters.
    """

    embedding: jax.Array
    logits: jax.Array


class Neck(nn.Module):
    """Linear, BatchNorm without parameters, ReLU, dropout, Linear, ReLU.

    Attributes:
      hidden: width of the first layer.
      dim: d, of the second.
      rate: of the dropout.
      norm_momentum: weight of the old running statistics.
      norm_group: images over which BatchNorm takes its statistics; 0 for the whole batch.
      axis_name: the device axis, or None for one device.
      dtype: dtype of the products; parameters and results are float32.
    """

    hidden: int
    dim: int
    rate: float
    norm_momentum: float
    norm_group: int
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, features: jax.Array, keys: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Maps float [b, F] to float32 [b, d]; without keys nothing is dropped."""
        x = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=_KAIMING)(features)
        x = BatchNorm(
            not train,
            group_size=self.norm_group,
            axis_name=self.axis_name,
            momentum=self.norm_momentum,
            affine=False,
        )(x)
        x = nn.relu(x)
        if keys is not None:
            x = dropout(x, keys, rate=self.rate)
        x = nn.Dense(self.dim, dtype=self.dtype, kernel_init=_KAIMING)(x)
        return nn.relu(x.astype(jnp.float32))


class Network(nn.Module):
    """Puts a neck on a backbone, and a classifier of clusters on the neck.

    Attributes:
      backbone: module called as `backbone(images, train=...)` that returns [b, F].
      neck: turns features into embeddings.
      num_clusters: C.
    """

    backbone: nn.Module
    neck: Neck
    num_clusters: int

    def setup(self) -> None:
        self.classifier = nn.Dense(
            self.num_clusters, dtype=self.neck.dtype, kernel_init=_SMALL
        )

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Embeds images, float [b, H, W, C], without dropout."""
        features = self.backbone(images, train=train).astype(jnp.float32)
        return Outputs(features, self.neck(features, None, train=train))

    def classify(
        self, images: jax.Array, keys: jax.Array, *, train: bool
    ) -> Classified:
        """Embeds and classifies images; typed keys [b] choose what is dropped."""
        features = self.backbone(images, train=train).astype(jnp.float32)
        embedding = self.neck(features, keys if train else None, train=train)
        return Classified(embedding, self.classifier(embedding).astype(jnp.float32))
