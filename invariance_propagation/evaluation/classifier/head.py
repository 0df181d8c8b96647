"""Defines a linear classifier of features: its layer, its loss and its accuracy."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from invariance_propagation.errors import TrainingError

TOP = 5  # top-5 accuracy is scored too where there are at least 10 classes
EPSILON = 1e-5  # PyTorch's BatchNorm adds it to the variance


class Head(nn.Module):
    """Maps features float32 [b, F] to logits float32 [b, num_classes].

    Attributes:
      num_classes: number of classes.
      std: standard deviation of the initial kernel; the bias starts at 0.
      scaled: whether each feature has a learnt scale and shift before the layer. The
        authors' code has a BatchNorm there whose statistics stay at their initial
        values, so that it only divides by sqrt(1 + 1e-5).
    """

    num_classes: int
    std: float = 0.01
    scaled: bool = False

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        x = features
        if self.scaled:
            size = x.shape[-1]
            scale = self.param("scale", nn.initializers.ones, (size,), jnp.float32)
            shift = self.param("shift", nn.initializers.zeros, (size,), jnp.float32)
            x = x / np.sqrt(1 + EPSILON) * scale + shift
        start = nn.initializers.normal(self.std)
        return nn.Dense(self.num_classes, kernel_init=start, name="output")(x)


def mean_cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
    """Computes the mean cross-entropy, float32 [].

    Args:
      logits: float32 [b, C].
      labels: int [b].
      weights: float32 [b], used instead of 1 / b. A row of weight 0 changes neither the
        loss nor its gradient, even if it holds NaN.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if weights is None:
        return loss.mean()
    return jnp.sum(jnp.where(weights > 0, weights * loss, 0))


def accuracies(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, float]]:
    """Counts how often the right class is the likeliest, or among the five likeliest.

    Args:
      logits: float [n, C].
      labels: int [n].

    Yields:
      ('top1', share), and ('top5', share) where there are at least ten classes; shares
      are in [0, 1]. Of equal logits the lower class comes first, as in argmax.

    Raises:
      TrainingError: a logit is NaN or infinite.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the classifier's outputs are not finite: try a smaller learning_rate"
        )
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    lower = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > right) | ((logits == right) & lower)
    rank = before.sum(axis=1)
    yield "top1", float(np.mean(rank == 0))
    if logits.shape[1] >= 2 * TOP:
        yield "top5", float(np.mean(rank < TOP))


def class_accuracies(
    logits: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, float]]:
    """Yields the scores of `accuracies`, then ('per class', share).

    The last one is the mean of the accuracies of all classes that have images.
    """
    yield from accuracies(logits, labels)
    right = np.argmax(logits, axis=1) == labels
    shares = [right[labels == c].mean() for c in np.unique(labels)]
    yield "per class", float(np.mean(shares))


def apply_head(head: Head, params: dict, features: np.ndarray) -> np.ndarray:
    """Computes logits float32 [n, C] of features float32 [n, F]; both on the host."""
    weights = jax.tree.map(jnp.asarray, params)
    return np.asarray(head.apply({"params": weights}, jnp.asarray(features)))
