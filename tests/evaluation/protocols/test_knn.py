"""Weighted kNN: against loops, scikit-learn, and cases worked out by hand."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.evaluation.protocols import find_protocol
from invariance_propagation.evaluation.protocols.knn import (
    QUERIES_AT_ONCE,
    knn_accuracy,
    knn_predict,
)
from tests.reference import knn as oracle

NUM_CLASSES = 5


class Task(NamedTuple):
    features: np.ndarray  # [n, d] float32, of all lengths
    labels: np.ndarray  # [n] int32
    queries: np.ndarray  # [q, d] float32, of all lengths


def make_task(
    seed: int, *, num_examples: int = 40, num_queries: int = 30, dim: int = 6
) -> Task:
    """Classes that overlap, so that the vote is often close."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(NUM_CLASSES, size=num_examples).astype(np.int32)
    features = rng.normal(size=(num_examples, dim)) + np.eye(NUM_CLASSES, dim)[labels]
    features *= rng.uniform(0.1, 10, size=(num_examples, 1))
    queries = rng.normal(size=(num_queries, dim))
    queries *= rng.uniform(0.1, 10, size=(num_queries, 1))
    return Task(features.astype(np.float32), labels, queries.astype(np.float32))


def assert_most_votes(predicted: np.ndarray, votes: np.ndarray) -> None:
    """`predicted` has the most of [q, C] votes, up to the rounding of float32."""
    predicted = np.asarray(predicted)
    assert predicted.shape == votes.shape[:1]
    assert predicted.dtype == np.int32
    got = np.take_along_axis(votes, predicted[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(got, votes.max(axis=1), rtol=1e-4)


@pytest.mark.parametrize(
    "num_neighbors, temperature", [(1, 0.07), (2, 0.5), (7, 0.07), (39, 100), (40, 0.2)]
)
def test_is_the_oracle(num_neighbors: int, temperature: float) -> None:
    task = make_task(num_neighbors)
    options = dict(
        num_neighbors=num_neighbors, temperature=temperature, num_classes=NUM_CLASSES
    )
    assert_most_votes(knn_predict(*task, **options), oracle.votes(*task, **options))


@pytest.mark.parametrize("num_neighbors, temperature", [(1, 0.07), (8, 0.2), (60, 1.0)])
def test_is_scikit_learns(num_neighbors: int, temperature: float) -> None:
    task = make_task(1, num_examples=200, num_queries=100, dim=12)
    classifier = KNeighborsClassifier(
        num_neighbors,
        metric="cosine",
        # A cosine distance is 1 - similarity; the 1 is a factor of every vote.
        weights=lambda distances: np.exp(-distances / temperature),
    )
    classifier.fit(task.features.astype(np.float64), task.labels)
    shares = classifier.predict_proba(task.queries.astype(np.float64))
    predicted = knn_predict(
        *task,
        num_neighbors=num_neighbors,
        temperature=temperature,
        num_classes=NUM_CLASSES,
    )
    assert_most_votes(predicted, shares)
    truth = np.random.default_rng(2).integers(NUM_CLASSES, size=100)
    accuracy = knn_accuracy(
        *task, truth, num_neighbors=num_neighbors, temperature=temperature
    )
    assert accuracy == pytest.approx(np.mean(np.asarray(predicted) == truth))


@pytest.mark.parametrize("num_queries", [QUERIES_AT_ONCE, 2 * QUERIES_AT_ONCE + 37])
def test_chunks_of_queries_meet_without_a_gap(num_queries: int) -> None:
    task = make_task(3, num_examples=20, num_queries=num_queries, dim=4)
    options = dict(num_neighbors=3, temperature=0.2, num_classes=NUM_CLASSES)
    assert_most_votes(knn_predict(*task, **options), oracle.votes(*task, **options))


def clusters(
    rng: np.random.Generator, labels: np.ndarray, *, spread: float
) -> np.ndarray:
    """Points around orthogonal axes, one axis per class."""
    centers = np.eye(3)[labels]
    return (centers + rng.normal(scale=spread, size=centers.shape)).astype("f")


def test_separated_clusters_are_told_apart() -> None:
    rng = np.random.default_rng(4)
    labels, truth = np.repeat([0, 1], 20), np.repeat([1, 0], 15)
    features = clusters(rng, labels, spread=0.05)
    queries = clusters(rng, truth, spread=0.05)
    for num_neighbors in (5, 40):
        options = dict(num_neighbors=num_neighbors, temperature=0.07)
        assert knn_accuracy(features, labels, queries, truth, **options) == 1.0
        assert knn_accuracy(features, labels, queries, 1 - truth, **options) == 0.0
    # One of 30 labels differs from the rest of its cluster.
    truth[3] = 0
    accuracy = knn_accuracy(features, labels, queries, truth, num_neighbors=5)
    assert isinstance(accuracy, float)
    assert accuracy == pytest.approx(29 / 30)


def test_with_all_neighbors_it_is_a_weighted_majority() -> None:
    # One vote of e(1 / t) for class 1 against three of e(0) for class 0: they are
    # equal at t = 1 / log(3) = 0.910.
    features = np.array([[2, 0], [0, 1], [0, 5], [0, -3]], np.float32)
    labels, query = np.array([1, 0, 0, 0]), np.array([[7, 0]], np.float32)
    for temperature, expected in ((0.90, 1), (0.92, 0), (1e4, 0)):
        predicted = knn_predict(
            features,
            labels,
            query,
            num_neighbors=4,
            temperature=temperature,
            num_classes=2,
        )
        assert predicted.tolist() == [expected], temperature


def test_only_the_nearest_vote() -> None:
    # The angle from the query grows along the row; lengths count for nothing, and
    # the opposite direction is the farthest. The temperature makes votes all but
    # equal, so that only their number counts.
    angles = np.deg2rad([0, 10, 20, 30, 40, 170, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    features *= np.array([[1], [2], [3], [4], [50], [600], [7000]])
    labels = np.array([2, 1, 1, 0, 0, 0, 1])
    expected = {1: 2, 3: 1, 6: 0}
    for num_neighbors, label in expected.items():
        predicted = knn_predict(
            features,
            labels,
            np.array([[3, 0]]),
            num_neighbors=num_neighbors,
            temperature=1e3,
            num_classes=3,
        )
        assert predicted.tolist() == [label], num_neighbors


@pytest.mark.parametrize("labels", [[3, 1], [1, 3]])
def test_of_equal_votes_the_lower_class_wins(labels: list[int]) -> None:
    # Exactly as near: mirror images of each other about the query.
    features = np.array([[1, 1], [1, -1]], np.float32)
    query = np.array([[1, 0]], np.float32)
    predicted = knn_predict(
        features, np.array(labels), query, num_neighbors=2, num_classes=4
    )
    assert predicted.tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-2, 1e-6])
def test_a_small_temperature_does_not_overflow(temperature: float) -> None:
    # e(1 / 0.01) is beyond float32. The nearest row decides then, and it is never of
    # class 0, in which an argmax over NaN would end.
    task = make_task(5)
    labels = np.maximum(task.labels, 1)
    options = dict(num_classes=NUM_CLASSES)
    nearest = knn_predict(
        task.features, labels, task.queries, num_neighbors=1, **options
    )
    assert len(np.unique(nearest)) == NUM_CLASSES - 1
    votes = oracle.votes(
        task.features,
        labels,
        task.queries,
        num_neighbors=40,
        temperature=temperature,
        **options,
    )
    predicted = knn_predict(
        task.features,
        labels,
        task.queries,
        num_neighbors=40,
        temperature=temperature,
        **options,
    )
    assert_most_votes(predicted, votes)
    if temperature == 1e-6:
        np.testing.assert_array_equal(predicted, nearest)


def test_a_row_of_zeros_does_no_harm() -> None:
    # The bank has such rows where it is padded; a ReLU network may yield them too.
    task = make_task(6)
    features = np.concatenate([task.features, np.zeros((1, 6), np.float32)])
    labels = np.append(task.labels, 0).astype(np.int32)
    options = dict(num_neighbors=5, temperature=0.07, num_classes=NUM_CLASSES)
    np.testing.assert_array_equal(
        knn_predict(features, labels, task.queries, **options),
        knn_predict(*task, **options),
    )
    queries = np.zeros((1, 6), np.float32)
    assert 0 <= int(knn_predict(*task._replace(queries=queries), **options)[0]) < 5


@pytest.mark.parametrize("num_neighbors", [-1, 0, 41, 200])
def test_k_out_of_range(num_neighbors: int) -> None:
    task = make_task(7)
    with pytest.raises(UserError) as error:
        knn_accuracy(*task, np.zeros(30, np.int32), num_neighbors=num_neighbors)
    message = str(error.value)
    assert f"knn.num_neighbors={num_neighbors}, " in message
    assert "from 1 to 40" in message


def test_numpy_and_jax_arrays_of_any_number_type() -> None:
    task = make_task(8)
    truth = np.random.default_rng(8).integers(NUM_CLASSES, size=30)
    options = dict(num_neighbors=5, temperature=0.07)
    expected = knn_accuracy(*task, truth, **options)
    assert 0 < expected < 1
    features, labels, queries = task
    for arrays in (
        [jnp.asarray(x) for x in (*task, truth)],
        [features.astype("d"), labels.astype("q"), queries.astype("d"), truth],
        [features, labels.astype(np.uint8), queries, truth.astype(np.uint8)],
    ):
        assert knn_accuracy(*arrays, **options) == expected


def test_whole_numbers_are_no_harm() -> None:
    # Raw pixels would overflow in uint8.
    pixels = np.random.default_rng(9).integers(0, 256, (30, 6)).astype(np.uint8)
    labels = np.arange(30) % 3
    for kind in (np.uint8, np.float32):
        predicted = knn_predict(
            pixels.astype(kind),
            labels,
            pixels[::-1].astype(kind),
            num_neighbors=1,
            num_classes=3,
        )
        np.testing.assert_array_equal(predicted, labels[::-1])


def test_a_class_may_be_on_one_side_alone() -> None:
    # A small data.num_train may miss a class, a small held-out split too.
    rows = np.eye(2, dtype=np.float32)
    for labels, truth in (([0, 1], [0, 4]), ([0, 4], [0, 0])):
        accuracy = knn_accuracy(
            rows, np.array(labels), rows, np.array(truth), num_neighbors=1
        )
        assert accuracy == 0.5


@pytest.mark.parametrize("scale", [1e20, 3e36, 1e-20, 1e-36])
def test_the_scale_of_features_and_queries_does_not_matter(scale: float) -> None:
    task = make_task(11)
    options = dict(num_neighbors=7, temperature=0.07, num_classes=NUM_CLASSES)
    expected = np.asarray(knn_predict(*task, **options))
    assert len(np.unique(expected)) > 2
    for a, b in ((scale, 1), (1, scale), (scale, scale), (scale, 1 / scale)):
        found = knn_predict(
            task.features * np.float32(a),
            task.labels,
            task.queries * np.float32(b),
            **options,
        )
        np.testing.assert_array_equal(found, expected)


def test_one_long_row_leaves_the_others_as_they_are() -> None:
    task = make_task(12)
    options = dict(num_neighbors=7, temperature=0.07, num_classes=NUM_CLASSES)
    features = task.features.copy()
    features[3] *= np.float32(1e30)
    features[4] *= np.float32(1e-30)
    np.testing.assert_array_equal(
        knn_predict(features, task.labels, task.queries, **options),
        knn_predict(*task, **options),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_has_no_vote(value: float) -> None:
    task = make_task(13)
    options = dict(num_neighbors=7, temperature=0.07, num_classes=NUM_CLASSES)
    expected = np.asarray(knn_predict(*task, **options))
    assert len(np.unique(expected)) > 2
    bad = np.ones((2, 6), np.float32)
    bad[:, 2] = value
    features = np.concatenate([task.features[:5], bad, task.features[5:]])
    labels = np.insert(task.labels, 5, [0, 0])
    found = knn_predict(features, labels, task.queries, **options)
    np.testing.assert_array_equal(found, expected)
    queries = task.queries.copy()
    queries[8] = bad[0]
    found = np.asarray(knn_predict(*task._replace(queries=queries), **options))
    assert found[8] == -1
    np.testing.assert_array_equal(np.delete(found, 8), np.delete(expected, 8))
    nothing = knn_predict(
        bad, labels[5:7], task.queries, **options | {"num_neighbors": 2}
    )
    assert (np.asarray(nothing) == -1).all()
    truth = np.zeros(30, np.int32)
    for given in ((features, labels, task.queries), (*task[:2], queries)):
        with pytest.raises(TrainingError, match="NaN or infinite"):
            knn_accuracy(*given, truth, num_neighbors=7)


# The protocol.


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"num_neighbors": 13}, "num_neighbors=13, but there are 12 training"),
        ({"num_neighbors": 0}, "num_neighbors=0"),
        ({"temperature": 0.0}, "temperature=0.0: set it above 0"),
    ],
)
def test_knn_is_checked_before_features_are_computed(
    request_on, changes: dict, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        next(find_protocol("knn").jobs(request_on(12, knn=changes)))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("imagenet", 200),
        ("cifar10", 200),
        ("tfds:cifar100", 200),
        ("tfds:svhn_cropped", 200),
        ("stl10", 9),  # 15 % of 240 / 4
    ],
)
def test_the_papers_sets_have_its_number_of_votes(
    request_on, name: str, expected: int
) -> None:
    ((job,),) = find_protocol("knn").jobs(request_on(240, data={"name": name}))
    assert job.settings["options"]["num_neighbors"] == expected


def test_too_many_votes_are_on_the_card(request_on) -> None:
    ((few,),) = find_protocol("knn").jobs(request_on(12, knn={"num_neighbors": 5}))
    assert "remarks" not in few.settings
    ((many,),) = find_protocol("knn").jobs(request_on(12, knn={"num_neighbors": 12}))
    (remark,) = many.settings["remarks"]
    assert remark.startswith("K = 12, but no class has more than 3 training images")
