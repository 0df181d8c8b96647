"""SVMs: known answers, and an independent form of the protocol by scikit-learn."""

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import Bench
from invariance_propagation.evaluation.protocols import PROTOCOLS, find_protocol, svm
from invariance_propagation.evaluation.protocols.svm import (
    COSTS,
    LOW_SHOT_COST,
    few_images,
    few_of_each,
    interpolated_precision,
    mean_average_precision,
    one_hot,
)
from invariance_propagation.evaluation.subjects import Subject

CLASSES = 3


def make_task(seed: int, *, spread: float, count: int = 60):
    """Features of classes around orthogonal axes, of all lengths; labels."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    x = 3 * np.eye(CLASSES, 8)[labels] + random.normal(scale=spread, size=(count, 8))
    return (x * random.uniform(0.1, 50, (count, 1))).astype(np.float32), labels


def slow_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    """For each positive the best precision at any threshold that still finds it."""
    found = []
    for score in scores[positive]:
        below = [x for x in scores if x <= score]
        found.append(max(positive[scores >= x].mean() for x in below))
    return float(np.mean(found))


def targets_of(labels: np.ndarray) -> np.ndarray:
    return one_hot(labels, CLASSES)


def test_the_costs_are_the_protocols() -> None:
    assert len(COSTS) == 19 and list(COSTS) == sorted(COSTS)
    assert (COSTS[0], COSTS[-4], COSTS[-1]) == (0.5**19, 0.5**4, 100)


def test_separated_classes_are_told_apart() -> None:
    x, labels = make_task(0, spread=0.1)
    queries, truth = make_task(1, spread=0.1)
    targets, query_targets = targets_of(labels), targets_of(truth)
    found = mean_average_precision(x, targets, queries, query_targets)
    assert found == pytest.approx(1.0)


def test_without_information_it_is_the_share_of_positives() -> None:
    """Queries that are all the same are in a tie: precision is that of all of them."""
    x, labels = make_task(0, spread=0.5)
    queries, truth = np.ones((40, 8), np.float32), np.arange(40) % CLASSES
    found = mean_average_precision(
        x, targets_of(labels), queries, targets_of(truth), costs=(1.0,)
    )
    assert found == pytest.approx(np.mean([14 / 40, 13 / 40, 13 / 40]))


@pytest.mark.parametrize(
    ("ranked", "expected"),
    [
        # Precision at the positives is 1, 1/2, 3/5; from each rank on 1, 3/5, 3/5.
        ([1, 0, 0, 1, 1], (1 + 3 / 5 + 3 / 5) / 3),
        # 1/2, 2/3, 3/4, and the best of them lies ahead of all: the area has 0.6389.
        ([0, 1, 1, 1], 3 / 4),
        ([0, 0, 1], 1 / 3),
        ([1, 1, 0, 0], 1.0),
    ],
)
def test_precision_is_interpolated(ranked: list[int], expected: float) -> None:
    scores = -np.arange(len(ranked), dtype=float)
    assert interpolated_precision(scores, np.array(ranked)) == pytest.approx(expected)


def test_precision_is_the_oracle_with_ties_in_any_order() -> None:
    random = np.random.default_rng(3)
    for count in (2, 7, 40):
        for levels in (1, 3, 1000):
            scores = random.integers(levels, size=count) - levels / 2
            positive = random.random(count) < 0.4
            positive[0] = True
            expected = slow_precision(scores, positive)
            order = random.permutation(count)
            for given in (slice(None), order):
                found = interpolated_precision(scores[given], positive[given])
                assert found == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e20, 1e-20])
def test_the_scale_of_the_features_does_not_matter(scale: float) -> None:
    x, labels = make_task(4, spread=1.0)
    queries, truth = make_task(5, spread=1.0)
    targets, query_targets = targets_of(labels), targets_of(truth)
    options = {"costs": (1.0,)}
    found, expected = (
        mean_average_precision(a * x, targets, a * queries, query_targets, **options)
        for a in (np.float32(scale), 1)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert found < 0.99


def test_is_a_grid_search_of_scikit_learn() -> None:
    x, labels = make_task(2, spread=1.6)
    queries, truth = make_task(3, spread=1.6)
    costs = (0.5**12, 0.5**4, 1.0, 100.0)
    expected, chosen = [], set()
    for c in range(CLASSES):
        model = LinearSVC(
            class_weight={1: 2, 0: 1}, dual="auto", max_iter=2000, random_state=0
        )
        search = GridSearchCV(
            model, {"C": costs}, scoring="average_precision", cv=StratifiedKFold(3)
        )
        search.fit(normalize(x.astype(np.float64)), labels == c)
        chosen.add(search.best_params_["C"])
        scores = search.decision_function(normalize(queries.astype(np.float64)))
        expected.append(slow_precision(scores, truth == c))
    found = mean_average_precision(
        x, targets_of(labels), queries, targets_of(truth), costs=costs
    )
    assert found == pytest.approx(np.mean(expected), rel=1e-9)
    assert 0.5 < found < 0.98 and len(chosen) > 1


def test_what_is_ignored_is_as_if_it_were_not_there() -> None:
    x, labels = make_task(4, spread=1.0)
    queries, truth = make_task(5, spread=1.0)
    targets, query_targets = targets_of(labels), targets_of(truth)
    targets[:9, 0], query_targets[:6, 0] = -1, -1
    options = {"costs": (1.0,)}
    found = mean_average_precision(x, targets, queries, query_targets, **options)
    first = mean_average_precision(
        x[9:], targets[9:, :1], queries[6:], query_targets[6:, :1], **options
    )
    others = mean_average_precision(
        x, targets[:, 1:], queries, query_targets[:, 1:], **options
    )
    assert found == pytest.approx((first + 2 * others) / 3)
    assert first != others


@pytest.mark.parametrize("side, value", [(1, 0), (0, 0), (0, 1), (0, -1)])
def test_a_class_without_positives_or_negatives_is_left_out(
    side: int, value: int
) -> None:
    x, labels = make_task(0, spread=0.1)
    queries, truth = make_task(1, spread=0.1)
    targets, query_targets = targets_of(labels), targets_of(truth)
    (targets, query_targets)[side][:, 2] = value
    assert mean_average_precision(x, targets, queries, query_targets) == pytest.approx(
        1.0
    )


def test_one_shot_takes_no_folds() -> None:
    x, labels = make_task(0, spread=0.1)
    few = x, few_images(targets_of(labels), 1, seed=0), x, targets_of(labels)
    fixed = mean_average_precision(*few, costs=(LOW_SHOT_COST,))
    assert mean_average_precision(*few) == fixed == pytest.approx(1.0)


def test_stopping_before_the_optimum_says_nothing(monkeypatch) -> None:
    monkeypatch.setattr(svm, "MAX_ITERATIONS", 1)
    x, labels = make_task(4, spread=1.0)
    targets = targets_of(labels)
    assert 0 < mean_average_precision(x, targets, x, targets, costs=(100.0,)) < 1


def test_drawn_are_so_many_of_each_class() -> None:
    targets = one_hot(np.arange(200) % 4, 4)
    for count in (1, 4, 60):
        few = few_images(targets, count, seed=1)
        drawn = (few != -1).all(axis=1)
        assert ((few == -1).all(axis=1) == ~drawn).all()
        np.testing.assert_array_equal(few[drawn], targets[drawn])
        assert (few[drawn].sum(axis=0) == min(count, 50)).all()
    seeds = {few_images(targets, 4, seed=seed).tobytes() for seed in range(5)}
    assert len(seeds) == 5


def test_drawn_for_each_class_alone_are_as_many_whatever_else_is_shown() -> None:
    random = np.random.default_rng(0)
    targets = (random.random((400, 4)) < [0.5, 0.3, 0.2, 0.01]).astype(np.int8)
    targets[:3, 3], targets[10:20, 0] = 1, -1
    for count in (1, 4, 60):
        few = few_of_each(targets, count, seed=1)
        assert (few[few != -1] == targets[few != -1]).all()
        for value, most in ((1, count), (0, 3 * count)):
            there = (targets == value).sum(axis=0)
            assert ((few == value).sum(axis=0) == np.minimum(most, there)).all()
    assert (few_of_each(targets, 4, seed=0) != few_of_each(targets, 4, seed=1)).any()


def test_without_a_class_to_score_it_says_so() -> None:
    x, labels = make_task(0, spread=0.1)
    alone = one_hot(np.zeros_like(labels), CLASSES)
    with pytest.raises(UserError, match="needs images of two classes"):
        mean_average_precision(x, alone, x, alone)


def test_difficult_images_are_negatives_of_the_svms_of_all_labels(monkeypatch) -> None:
    """As Goyal et al. have them; they are neither drawn for a few nor tested."""
    monkeypatch.setattr(svm, "LOW_SHOT", (2,))
    monkeypatch.setattr(svm, "DRAWS", 1)
    random = np.random.default_rng(0)
    x, queries = random.normal(size=(60, 6)), random.normal(size=(50, 6))
    targets, truth = (
        np.where(y > 0.8, 1, np.where(y > 0.2, -1, 0)).astype(np.int8)
        for y in (x[:, :3] + random.normal(size=(60, 3)), queries[:, :3])
    )
    subject = Subject("given", None, {}, {}, lambda: x, lambda: queries)
    found = dict(svm.measure_targets(targets, truth)(subject, 0))

    def expected(learn: np.ndarray, **costs) -> float:
        return svm.mean_average_precision(x, learn, queries, truth, **costs)

    assert found["mAP"] == expected(np.where(targets == 1, 1, 0))
    assert found["mAP"] != expected(targets)
    few = svm.few_of_each(targets, 2, seed=0)
    assert ((few == -1) | (few == targets)).all()
    assert found["2 a class"] == expected(few, costs=(svm.LOW_SHOT_COST,))


def usual(bench: Bench) -> list[str]:
    return [name for name in PROTOCOLS if find_protocol(name).usual(bench)]


def test_so_many_svms_are_refused_and_not_usual(request_on, monkeypatch) -> None:
    request = request_on(12)
    assert usual(request.bench()) == ["knn", "linear", "semi", "svm"]
    monkeypatch.setattr(svm, "MOST_IMAGES", 11)
    assert usual(request.bench()) == ["knn", "linear", "semi"]
    with pytest.raises(UserError, match="12 images would take days: leave svm out"):
        next(find_protocol("svm").jobs(request))
