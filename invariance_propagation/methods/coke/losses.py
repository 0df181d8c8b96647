"""The losses of CoKe: one view, two views, and two large with several small ones.

For a clustering with centres c_k, the logits of a unit vector x are <x, c_k> / tau. Every
loss is a cross-entropy of the prediction q or the projection p of a view; p_v and q_v are
those of view v. Losses are averaged over the clusterings.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax

from invariance_propagation.methods.coke.averages import Slots
from invariance_propagation.methods.coke.clustering import Clusters, products
from invariance_propagation.methods.coke.network import Encoded


def one_view(
    view: Encoded,
    heads: Sequence[Clusters],
    targets: Slots,
    *,
    temperature: float,
    prediction_weight: float,
) -> jax.Array:
    """Computes beta CE(q, y) + (1 - beta) CE(p, y), float32 [b].

    Args:
      view: of one view, arrays [1, b, d].
      heads: the H clusterings.
      targets: labels and their weights, [b, H, S].
      temperature: tau.
      prediction_weight: beta.
    """

    def of_head(number: int, clusters: Clusters) -> jax.Array:
        target = Slots(targets.labels[:, number], targets.weights[:, number])
        on_prediction, on_projection = (
            soft_entropy(products(x[0], clusters.fixed) / temperature, target)
            for x in (view.predictions, view.projections)
        )
        return (
            prediction_weight * on_prediction + (1 - prediction_weight) * on_projection
        )

    return mean([of_head(*head) for head in enumerate(heads)])


def two_views(
    views: Encoded,
    heads: Sequence[Clusters],
    labels: jax.Array,
    *,
    temperature: float,
    hard_weight: float,
) -> jax.Array:
    """Computes the mean over both views of

      alpha CE(x, y) + (1 - alpha) CE(x, soft(p of the other view)),  x = q and x = p,

    halved, float32 [b]. soft(p) is the softmax of p's logits, without a gradient.

    Args:
      views: of two views, arrays [2, b, d].
      heads: the H clusterings.
      labels: int32 [b, H], y.
      temperature: tau.
      hard_weight: alpha.
    """

    def of_head(number: int, clusters: Clusters) -> jax.Array:
        predicted, projected = logits_of(views, clusters, temperature)
        others = soft(projected)[::-1]
        both = predicted, projected
        return hard_and_soft(both, labels[:, number], others, hard_weight)

    return mean([of_head(*head) for head in enumerate(heads)])


def small_views(
    small: Encoded,
    large: Encoded,
    heads: Sequence[Clusters],
    labels: jax.Array,
    *,
    temperature: float,
    hard_weight: float,
) -> jax.Array:
    """Computes the mean over small views of

      alpha CE(x, y) + (1 - alpha) CE(x, mean of soft(p) of both large views),

    x = q and x = p, halved, float32 [b].

    Args:
      small: of s small views, arrays [s, b, d].
      large: of two large views, arrays [2, b, d].
      heads, labels, temperature, hard_weight: as for `two_views`.
    """

    def of_head(number: int, clusters: Clusters) -> jax.Array:
        _, projected = logits_of(large, clusters, temperature)
        target = soft(projected).mean(axis=0)
        both = logits_of(small, clusters, temperature)
        return hard_and_soft(both, labels[:, number], target, hard_weight)

    return mean([of_head(*head) for head in enumerate(heads)])


def logits_of(
    views: Encoded, clusters: Clusters, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the logits of predictions and of projections, float32 [v, b, K] each."""
    predicted = products(views.predictions, clusters.fixed) / temperature
    return predicted, products(views.projections, clusters.fixed) / temperature


def hard_and_soft(
    both: Sequence[jax.Array], labels: jax.Array, target: jax.Array, hard_weight: float
) -> jax.Array:
    """Computes alpha CE(x, y) + (1 - alpha) CE(x, target), float32 [b].

    Args:
      both: logits [v, b, K] of predictions and of projections; the result is averaged
        over both, and over views.
      labels: int32 [b], y.
      target: soft labels, [v, b, K] or [b, K].
      hard_weight: alpha.
    """
    losses = [
        hard_weight * cross_entropy(logits, labels)
        + (1 - hard_weight) * optax.softmax_cross_entropy(logits, target)
        for logits in both
    ]
    return mean(losses).mean(axis=0)


def soft(logits: jax.Array) -> jax.Array:
    """Returns soft labels of logits [..., K], through which no gradient flows."""
    return lax.stop_gradient(jax.nn.softmax(logits, axis=-1))


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy [v, b] of logits [v, b, K] with labels, int32 [b]."""
    labels = jnp.broadcast_to(labels, logits.shape[:-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def soft_entropy(logits: jax.Array, target: Slots) -> jax.Array:
    """Returns the cross-entropy [b] of logits [b, K] with weighted labels [b, S]."""
    logs = jax.nn.log_softmax(logits, axis=-1)
    found = jnp.take_along_axis(logs, target.labels, axis=-1)
    return -(target.weights * found).sum(axis=-1)


def mean(losses: Sequence[jax.Array]) -> jax.Array:
    """Averages arrays of one shape."""
    return sum(losses[1:], start=losses[0]) / len(losses)
