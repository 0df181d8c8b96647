"""Weighted k-nearest-neighbour classification (Wu et al. 2018, arXiv 1805.01978)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation.core.bank import normalize, safe_scale
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.meaning import check_finite
from invariance_propagation.settings import is_auto

QUERIES_AT_ONCE = 256
MOST_VOTES = 200  # the paper's K
VOTING_SHARE = 0.15  # of a class; 200 of ImageNet's 1,281 are as many


@partial(jax.jit, static_argnames=("num_neighbors", "num_classes", "temperature"))
def knn_predict(
    features: jax.Array,
    labels: jax.Array,
    queries: jax.Array,
    *,
    num_neighbors: int = 200,
    temperature: float = 0.07,
    num_classes: int,
) -> jax.Array:
    """Lets each query's nearest features vote with e(similarity / temperature).

    Args:
      features: float [n, d], normalised here.
      labels: int [n], in [0, num_classes).
      queries: float [q, d], normalised here.
      num_neighbors: K, from 1 to n.
      temperature: sigma.
      num_classes: number of classes.

    Returns:
      int32 [q], the class with most votes, the lower one where two are equal. Features
      with NaN or infinity have no vote. A query with one of these is of no class, -1,
      and so is every query where no feature is finite.
    """
    features = jnp.asarray(features, jnp.float32)
    queries = normalize(jnp.asarray(queries, jnp.float32))
    labels = jnp.asarray(labels)
    # Features of unit length would be a copy of what may be 10 GB. Instead the queries
    # take half of the exponent, so that no product overflows or vanishes, and each
    # similarity the rest. All of these factors are powers of two: nothing is rounded.
    safe = safe_scale(features)
    lengths = jnp.linalg.norm(features * safe, axis=1)
    known = jnp.isfinite(lengths)
    _, exponent = jnp.frexp(jnp.min(safe))
    half = jnp.ldexp(jnp.float32(1), exponent // 2)
    rest = jnp.minimum(safe[:, 0] / half, 2.0**126)
    scale = 1 / jnp.where(lengths > 0, lengths, 1)

    def predict(query: jax.Array) -> jax.Array:
        products = jnp.matmul(features, query * half, precision=lax.Precision.HIGHEST)
        similarities = jnp.where(known, products * rest * scale, -jnp.inf)
        similarities, nearest = lax.top_k(similarities, num_neighbors)
        # Relative to the best, so that a small temperature cannot overflow.
        votes = jnp.exp((similarities - similarities.max()) / temperature)
        one_hot = jax.nn.one_hot(labels[nearest], num_classes, dtype=jnp.float32)
        sums = votes @ one_hot
        found = jnp.argmax(sums).astype(jnp.int32)
        return jnp.where(jnp.isnan(sums).any(), -1, found)

    return lax.map(predict, queries, batch_size=QUERIES_AT_ONCE)


def check_neighbors(num_neighbors: int, num_examples: int) -> None:
    """Raises UserError for a K outside [1, n]."""
    if not 1 <= num_neighbors <= num_examples:
        raise UserError(
            f"knn.num_neighbors={num_neighbors}, but there are {num_examples} training "
            f"images: set it from 1 to {num_examples}"
        )


def knn_accuracy(
    features: jax.Array,
    labels: jax.Array,
    queries: jax.Array,
    query_labels: jax.Array,
    *,
    num_neighbors: int = 200,
    temperature: float = 0.07,
) -> float:
    """The share of queries that `knn_predict` gets right, in [0, 1].

    Raises:
      UserError: num_neighbors outside [1, n].
      TrainingError: NaN or infinity among the features or the queries.
    """
    check_neighbors(num_neighbors, len(labels))
    check_finite(features, "training images")
    check_finite(queries, "held-out images")
    num_classes = int(max(labels.max(), query_labels.max())) + 1
    predicted = knn_predict(
        features,
        labels,
        queries,
        num_neighbors=num_neighbors,
        temperature=temperature,
        num_classes=num_classes,
    )
    return float(jnp.mean(predicted == jnp.asarray(query_labels)))


def neighbors_for(
    value: int | str, *, num_examples: int, num_classes: int | None
) -> int:
    """Returns K: for 'auto', 15 % of the mean class and at most 200.

    Without classes nothing votes, and any K will do.

    Raises:
      UserError: it is neither a whole number nor 'auto'.
    """
    if is_auto(value, "knn.num_neighbors"):
        share = VOTING_SHARE * num_examples / (num_classes or num_examples)
        return min(MOST_VOTES, max(1, round(share)))
    return value
