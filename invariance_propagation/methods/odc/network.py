"""The network of ODC: a backbone, a neck that embeds its features, and a classifier."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from invariance_propagation.models.dropout import dropout
from invariance_propagation.models.encoder import Outputs
from invariance_propagation.models.norm import BatchNorm, norm_group_of

# Weight of the old running statistics of the neck [code].
NORM_MOMENTUM = 0.999


class Network(nn.Module):
    """Puts ODC's neck and its classifier on a backbone.

    The neck is Dense, BatchNorm without scale and bias, ReLU, dropout, Dense, ReLU.

    Attributes:
      backbone: module called as `backbone(images, train=...)` that returns [b, F].
      num_clusters: K, outputs of the classifier.
      hidden: width of the neck's hidden layer.
      dim: size of the embedding.
      dropout_rate: for training.
      axis_name: the device axis, or None for one device.
    """

    backbone: nn.Module
    num_clusters: int
    hidden: int
    dim: int
    dropout_rate: float
    axis_name: str | None

    def setup(self) -> None:
        self.neck_hidden = nn.Dense(self.hidden, kernel_init=_normal)
        self.neck_output = nn.Dense(self.dim, kernel_init=_normal)
        self.classifier = nn.Dense(self.num_clusters, kernel_init=_normal)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, keys: jax.Array | None = None
    ) -> Outputs:
        """Embeds images.

        Args:
          images: float [b, H, W, C].
          train: passed on to the backbone and to BatchNorm.
          keys: typed keys [b] for dropout; None for no dropout.

        Returns:
          Outputs(features float32 [b, F], embedding float32 [b, dim]).
        """
        features = self.backbone(images, train=train).astype(jnp.float32)
        norm = BatchNorm(
            not train,
            norm_group_of(self.backbone),
            self.axis_name,
            momentum=NORM_MOMENTUM,
            affine=False,
            name="neck_norm",
        )
        x = nn.relu(norm(self.neck_hidden(features)))
        if keys is not None:
            x = dropout(x, keys, rate=self.dropout_rate)
        return Outputs(features, nn.relu(self.neck_output(x)))

    def classify(self, embedding: jax.Array) -> jax.Array:
        """Returns the logits of all clusters, float32 [b, K]."""
        return self.classifier(embedding)


def _normal(key: jax.Array, shape: tuple, dtype: jnp.dtype) -> jax.Array:
    return 0.01 * jax.random.normal(key, shape, dtype)
