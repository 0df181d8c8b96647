"""The encoder: a backbone, and a head that embeds its features."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation.errors import UserError, check_choice
from invariance_propagation.models.resnet import ResNet
from invariance_propagation.parallel import AXIS

HEADS = ("linear", "mlp")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Outputs(NamedTuple):
    """Holds an encoder's results for b images.

    Attributes:
      features: float32 [b, F], the backbone's output, for evaluation and transfer.
      embedding: float32 [b, dim], the head's output, not normalised.
    """

    features: jax.Array
    embedding: jax.Array


class Encoder(nn.Module):
    """Puts a linear or a two-layer head on a backbone.

    As in the authors' code (WangFeng18/InvariancePropagation), the head has no
    BatchNorm, and the embedding is not normalised: the losses do that. Dense layers
    start from Xavier uniform with bias 0.

    Attributes:
      backbone: module called as `backbone(images, train=...)` that returns [b, F].
      head: 'linear' (one Dense) or 'mlp' (Dense, ReLU, Dense).
      hidden: width of the hidden layer of 'mlp'; ignored by 'linear'. The authors' code
        uses 2048 for ImageNet networks and 512 for CIFAR networks.
      dim: size of the embedding.
      dtype: dtype in which the head computes; parameters and results are float32.
    """

    backbone: nn.Module
    head: str
    hidden: int = 2048
    dim: int = 128
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        check_choice("head", self.head, HEADS)
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Embeds images.

        Args:
          images: float [b, H, W, C], as the backbone expects them.
          train: passed on to the backbone.

        Returns:
          Outputs(features float32 [b, F], embedding float32 [b, dim]).
        """
        dense = functools.partial(
            nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform()
        )
        features = self.backbone(images, train=train).astype(jnp.float32)
        x = features
        if self.head == "mlp":
            x = nn.relu(dense(self.hidden, name="head_hidden")(x))
        embedding = dense(self.dim, name="head_output")(x)
        return Outputs(features, embedding.astype(jnp.float32))


class Headless(nn.Module):
    """Wraps a backbone as an encoder; the embedding is a placeholder, one feature."""

    backbone: nn.Module

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Returns the features of float [b, H, W, C] images."""
        features = self.backbone(images, train=train)
        return Outputs(features, features[:, :1])


def make_encoder(
    *,
    depth: int,
    stem: str,
    width: int,
    head: str,
    hidden: int,
    dim: int,
    norm_group: int | None,
    dtype: str,
) -> Encoder:
    """Makes the encoder from the config's section `encoder`.

    Its BatchNorm takes statistics along the device axis.

    Raises:
      UserError: an option is out of its range.
    """
    check_choice("encoder.dtype", dtype, DTYPES)
    for name, value in (("width", width), ("hidden", hidden), ("dim", dim)):
        if value < 1:
            raise UserError(f"encoder.{name}={value}: set it to 1 or above")
    norm = {"norm_axis_name": AXIS, "norm_group": norm_group or 0}
    try:
        backbone = ResNet(depth, stem, width, dtype=DTYPES[dtype], **norm)
        return Encoder(backbone, head, hidden, dim, DTYPES[dtype])
    except ValueError as error:
        raise UserError(f"encoder.{error}") from error
