"""The encoder: a backbone and the head that embeds its features."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation.errors import UserError
from invariance_propagation.models.resnet import ResNet
from invariance_propagation.parallel import AXIS

HEADS = ("linear", "mlp")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Outputs(NamedTuple):
    """What an encoder returns for b images.

    Attributes:
      features: float32 [b, F], the backbone's output, for evaluation and transfer.
      embedding: float32 [b, dim], the head's output, not normalised.
    """

    features: jax.Array
    embedding: jax.Array


class Encoder(nn.Module):
    """A backbone followed by a linear or a two-layer head.

    There is no BatchNorm in the head, and the embedding is not normalised: losses do
    that, as in the reference code (WangFeng18/InvariancePropagation). Dense layers
    start from Xavier uniform with bias 0.

    Attributes:
      backbone: module called as `backbone(images, train=...)`, returning [b, F].
      head: 'linear' (one Dense) or 'mlp' (Dense, ReLU, Dense).
      hidden: width of the hidden layer of 'mlp'; the reference code has 2048 on
        ImageNet networks and 512 on CIFAR networks. 'linear' has no use for it.
      dim: size of the embedding.
      dtype: type of the head's computation; parameters and result are float32.
    """

    backbone: nn.Module
    head: str
    hidden: int = 2048
    dim: int = 128
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        if self.head not in HEADS:
            raise UserError(f"head={self.head!r}: choose one of {', '.join(HEADS)}")
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Embeds images.

        Args:
          images: float [b, H, W, C], as the backbone wants them.
          train: passed to the backbone.

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
    """A backbone as an encoder; its embedding, one feature, is for nobody."""

    backbone: nn.Module

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
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
    """The encoder of the section `encoder`; its BatchNorm knows the device axis."""
    if dtype not in DTYPES:
        raise UserError(f"encoder.dtype={dtype!r}: choose one of {', '.join(DTYPES)}")
    for name, value in (("width", width), ("hidden", hidden), ("dim", dim)):
        if value < 1:
            raise UserError(f"encoder.{name}={value}: set it to 1 or above")
    norm = {"norm_axis_name": AXIS, "norm_group": norm_group or 0}
    try:
        backbone = ResNet(depth, stem, width, dtype=DTYPES[dtype], **norm)
        return Encoder(backbone, head, hidden, dim, DTYPES[dtype])
    except ValueError as error:
        raise UserError(f"encoder: {error}") from error
