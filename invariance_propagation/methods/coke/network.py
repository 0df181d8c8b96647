"""The network of CoKe: a backbone, a projection, and a prediction from it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from invariance_propagation.core.bank import normalize
from invariance_propagation.methods.base import Problem
from invariance_propagation.models.encoder import Outputs
from invariance_propagation.models.norm import BatchNorm, norm_group_of

# torch.nn.Linear draws weights evenly from +- 1 / sqrt(inputs).
UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Encoded(NamedTuple):
    """Holds what the network finds in v views of b images; rows have unit length.

    Attributes:
      projections: float32 [v, b, d], p; these are clustered.
      predictions: float32 [v, b, d], q; for the loss alone.
    """

    projections: jax.Array
    predictions: jax.Array


class Layer(nn.Module):
    """Applies Linear, without a bias that BatchNorm would cancel, then BatchNorm."""

    width: int
    norm_group: int
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps float [b, c] to [b, width]."""
        x = nn.Dense(self.width, use_bias=False, dtype=self.dtype, kernel_init=UNIFORM)(
            x
        )
        return BatchNorm(not train, self.norm_group, self.axis_name, dtype=self.dtype)(
            x
        )


class CokeEncoder(nn.Module):
    """Puts the projection and the prediction of CoKe on a backbone.

    As in the authors' code (idstcv/CoKe, coke/builder_double_view.py:23-28), the
    projection is Linear, BatchNorm, ReLU, twice, then Linear, BatchNorm; the prediction
    from it is Linear, BatchNorm, ReLU, Linear.

    Attributes:
      backbone: module called as `backbone(images, train=...)` that returns [b, F].
      hidden: width of the hidden layers.
      dim: d, of projections and predictions.
      norm_group: images over which BatchNorm takes statistics; see `BatchNorm`.
      axis_name: the device axis, or None for one device.
      dtype: dtype of the computation; parameters and results are float32.
    """

    backbone: nn.Module
    hidden: int
    dim: int
    norm_group: int = 0
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Makes the layers of both heads."""
        norm = self.norm_group, self.axis_name, self.dtype
        self.project1 = Layer(self.hidden, *norm)
        self.project2 = Layer(self.hidden, *norm)
        self.project3 = Layer(self.dim, *norm)
        self.predict1 = Layer(self.hidden, *norm)
        self.predict2 = nn.Dense(self.dim, dtype=self.dtype, kernel_init=UNIFORM)

    def __call__(self, images: jax.Array, *, train: bool) -> Outputs:
        """Embeds float [b, H, W, C] images; the embedding is the projection."""
        features = self.backbone(images, train=train).astype(jnp.float32)
        return Outputs(features, _unit(self._project(features, train)))

    def encode(self, views: Sequence[jax.Array], *, train: bool) -> Encoded:
        """Encodes v views, float [b, H, W, C], one after another.

        Each view has BatchNorm's statistics of its own, as in the authors' code.
        """
        found = [self._encode_one(view, train) for view in views]
        return Encoded(*(jnp.stack(x) for x in zip(*found, strict=True)))

    def _encode_one(self, view: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        projection = self._project(self.backbone(view, train=train), train)
        hidden = nn.relu(self.predict1(projection, train=train))
        return _unit(projection), _unit(self.predict2(hidden))

    def _project(self, features: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(self.project1(features, train=train))
        x = nn.relu(self.project2(x, train=train))
        return self.project3(x, train=train)


def make_network(problem: Problem) -> CokeEncoder:
    """Makes the network on the run's backbone, with the config's widths."""
    given = problem.encoder
    return CokeEncoder(
        backbone=given.backbone,
        hidden=given.hidden,
        dim=given.dim,
        norm_group=norm_group_of(given.backbone),
        axis_name=problem.axis_name,
        dtype=given.dtype,
    )


def _unit(x: jax.Array) -> jax.Array:
    return normalize(x.astype(jnp.float32))
