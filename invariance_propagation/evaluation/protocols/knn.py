"""The protocol `knn`: weighted k-nearest-neighbour classification.

Wu et al. 2018, arXiv 1805.01978. The monitor of a run measures by the same functions.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from invariance_propagation.core.bank import normalize, safe_scale
from invariance_propagation.core.options import check_temperature
from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import Bench
from invariance_propagation.evaluation.meaning import check_finite, remarks_on_votes
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
)
from invariance_propagation.evaluation.recipes import set_name
from invariance_propagation.evaluation.subjects import Measure, Scores, Subject
from invariance_propagation.settings import AUTO, is_auto

VERSION = 1
QUERIES_AT_ONCE = 256
MOST_VOTES = 200  # the paper's K
VOTING_SHARE = 0.15  # of a class: 200 of the 1,281 images of an ImageNet class
# The authors' code has K = 200 for these data sets.
RELEASED = ("imagenet", "imagenet2012", "cifar10", "cifar100", "svhn", "svhn_cropped")


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
    """Classifies each query by a vote of the features nearest to it.

    A vote weighs exp(similarity / temperature).

    Args:
      features: float [n, d], normalised here. The longest may be up to 10^50 times as
        long as the shortest.
      labels: int [n], in [0, num_classes).
      queries: float [q, d], normalised here.
      num_neighbors: K, from 1 to n.
      temperature: sigma.
      num_classes: number of classes.

    Returns:
      int32 [q], the class with most votes; of equal ones the lower. Features with NaN or
      infinity do not vote. A query with NaN or infinity gets -1, and so do all queries
      if no feature is finite.
    """
    features = jnp.asarray(features, jnp.float32)
    queries = normalize(jnp.asarray(queries, jnp.float32))
    labels = jnp.asarray(labels)
    # Normalised features would be a copy of up to 10 GB. Instead the queries are scaled
    # by half of the exponent, so that no product overflows or vanishes, and each
    # similarity by the rest. All these factors are powers of two: nothing is rounded.
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
    """Raises UserError if K is not in [1, num_examples]."""
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
    """Returns the share of queries that `knn_predict` classifies correctly, in [0, 1].

    Args are those of `knn_predict`, and:
      query_labels: int [q].

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
    """Returns K: for 'auto', 15 % of the mean size of a class and at most 200.

    Args:
      value: the setting.
      num_examples: training images.
      num_classes: None without labels, where no vote takes place and any K will do.

    Raises:
      UserError: `value` is neither a whole number nor 'auto'.
    """
    if is_auto(value, "knn.num_neighbors"):
        share = VOTING_SHARE * num_examples / (num_classes or num_examples)
        return min(MOST_VOTES, max(1, round(share)))
    return value


def measure_knn(bench: Bench, *, num_neighbors: int, temperature: float) -> Measure:
    """Makes a measure: kNN accuracy on the held-out images, by the backbone's features."""
    train, held_out = bench.dataset.train, bench.dataset.held_out

    def measure(subject: Subject, seed: int) -> Scores:
        del seed
        accuracy = knn_accuracy(
            subject.features(),
            train.labels,
            subject.queries(),
            held_out.labels,
            num_neighbors=num_neighbors,
            temperature=temperature,
        )
        yield "top1", accuracy

    return measure


def jobs(request: Request) -> Iterator[list[Job]]:
    """Measures the bench of the section `data`; checks K and the temperature."""
    bench, section = request.bench(), request.sections["knn"]
    labels = bench.dataset.train.labels
    value, temperature = section["num_neighbors"], section["temperature"]
    if value is None:
        value = MOST_VOTES if set_name(request.data["name"]) in RELEASED else AUTO
    num_neighbors = neighbors_for(
        value, num_examples=len(labels), num_classes=bench.num_classes
    )
    check_neighbors(num_neighbors, len(labels))
    check_temperature("knn.temperature", temperature)
    options = {"num_neighbors": num_neighbors, "temperature": temperature}
    settings = make_settings(bench, options, remarks_on_votes(num_neighbors, labels))
    job = Job("knn", VERSION, settings, bench, measure_knn(bench, **options))
    note = _note_on_monitor(request, bench, num_neighbors)
    yield [job._replace(by_chance=False, note=note)]


def _note_on_monitor(request: Request, bench: Bench, num_neighbors: int) -> str:
    """Says if the run measures its own kNN accuracy with another K."""
    value = neighbors_for(
        request.trained_with.get("knn", {}).get("num_neighbors", num_neighbors),
        num_examples=len(bench.dataset.train.labels),
        num_classes=bench.num_classes,
    )
    if value == num_neighbors:
        return ""
    return (
        f"K = {num_neighbors} here, but the run's own kNN, in its summary and curves, "
        f"has K = {value}: to compare, set --config.knn.num_neighbors={value}"
    )


KNN = Protocol(jobs, sections=("knn",), usual=lambda bench: True)
