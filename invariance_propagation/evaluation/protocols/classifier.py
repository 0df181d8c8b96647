"""A linear classifier on features: its head, its loss, and how often it is right."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from invariance_propagation.errors import TrainingError

TOP = 5  # scored as well, where there are at least twice as many classes
EPSILON = 1e-5  # of PyTorch's BatchNorm


class Head(nn.Module):
    """Features [b, F] -> logits [b, num_classes]; the layer starts from small normals.

    Attributes:
      num_classes: number of classes.
      std: of the initial kernel; the bias starts from 0.
      scaled: whether each feature has a learnt scale and shift before the layer. The
        released code has a BatchNorm there that it never trains: it divides by
        sqrt(1 + 1e-5), and that is all.
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
    """Computes the mean over logits [b, C] and labels int [b].

    Args:
      weights: float [b], in place of 1 / b each. A row of weight 0 has no part in the
        loss or its gradient, whatever it holds.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if weights is None:
        return loss.mean()
    return jnp.sum(jnp.where(weights > 0, weights * loss, 0))


def accuracies(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[str, float]]:
    """Shares of images, in [0, 1], with their class among the first.

    Args:
      logits: float [n, C].
      labels: int [n].

    Yields:
      ('top1', share), and ('top5', share) where there are at least ten classes. A
      class that is as likely as that of the label counts as less likely if its number
      is larger, as for an argmax.

    Raises:
      TrainingError: logits that are not finite, which are in no order.
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    if not np.isfinite(logits).all():
        raise TrainingError(
            "the classifier's outputs are not finite: try a smaller learning_rate"
        )
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    lower = np.arange(logits.shape[1]) < labels[:, None]
    before = (logits > own) | ((logits == own) & lower)
    rank = before.sum(axis=1)
    yield "top1", float(np.mean(rank == 0))
    if logits.shape[1] >= 2 * TOP:
        yield "top5", float(np.mean(rank < TOP))


def class_accuracies(
    logits: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[str, float]]:
    """As `accuracies`, and then ('per class', share): the mean over classes of theirs.

    It is of those classes that have images.
    """
    yield from accuracies(logits, labels)
    right = np.argmax(logits, axis=1) == labels
    shares = [right[labels == c].mean() for c in np.unique(labels)]
    yield "per class", float(np.mean(shares))


def apply_head(head: Head, params: dict, features: np.ndarray) -> np.ndarray:
    """Logits [n, C] of features [n, F], on the host."""
    weights = jax.tree.map(jnp.asarray, params)
    return np.asarray(head.apply({"params": weights}, jnp.asarray(features)))
