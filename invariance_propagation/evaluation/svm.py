"""Linear SVMs on frozen features, one per class, scored by average precision.

The protocol of Goyal et al. 2019 (arXiv 1905.01235) for VOC07, as OpenSelfSup has it.
Low-shot SVMs have a fixed cost: there, the best of all costs is found by the labels of
the test, which is not done here.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from invariance_propagation.evaluation.subsets import shuffled

COSTS = (*(0.5**i for i in range(19, 3, -1)), 1.0, 10.0, 100.0)
LOW_SHOT_COST = 1.0
LOW_SHOT = (1, 2, 4, 8, 16, 32, 64, 96)
DRAWS = 5
FOLDS = 3
MAX_ITERATIONS = 2000
IGNORED = -1


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Labels int [n] -> targets int8 [n, C]: 1 for the class, 0 for all others."""
    return (labels[:, None] == np.arange(num_classes)).astype(np.int8)


def mean_average_precision(
    features: np.ndarray,
    targets: np.ndarray,
    queries: np.ndarray,
    query_targets: np.ndarray,
    *,
    costs: Sequence[float] = COSTS,
) -> float:
    """mAP of one SVM per class.

    Args:
      features: float [n, F], normalised here.
      targets: int [n, C], 1 positive, 0 negative, -1 to leave out for this class.
      queries: float [q, F], normalised here.
      query_targets: int [q, C], likewise.
      costs: of several, each class takes the one of the best average precision in
        three folds of `features`.

    Returns:
      In [0, 1], over the classes that both sides have positives of, and `features` a
      negative.
    """
    features, queries = _normalize(features), _normalize(queries)

    def score(c: int) -> float:
        train, test = targets[:, c] != IGNORED, query_targets[:, c] != IGNORED
        x, y = features[train], targets[train, c]
        svm = _fit(x, y, _choose_cost(x, y, costs))
        return _precision(svm, queries[test], query_targets[test, c])

    defined = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
    defined &= (query_targets == 1).any(axis=0)
    # Imported here, and below: it takes a second, and others need it not.
    from sklearn.exceptions import ConvergenceWarning

    # liblinear releases Python's lock.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # The protocol stops there, with a large cost often before the optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(np.mean(list(pool.map(score, np.flatnonzero(defined)))))


def draw_positives(targets: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """`count` positives of each class, which are negatives of the others.

    Args:
      targets: int [n, C], as for `mean_average_precision`.
      count: per class; all of one that has fewer.
      seed: fixes the draw.

    Returns:
      int [m], indices in ascending order.
    """
    order = shuffled(len(targets), seed=seed)
    columns = targets[order].T
    chosen = [order[column == 1][:count] for column in columns]
    return np.unique(np.concatenate(chosen))


def _choose_cost(x: np.ndarray, y: np.ndarray, costs: Sequence[float]) -> float:
    if len(costs) == 1:
        return costs[0]
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(y.sum()), int((1 - y).sum()))
    if folds < 2:
        return LOW_SHOT_COST
    parts = list(StratifiedKFold(folds).split(x, y))
    means = [
        np.mean([_precision(_fit(x[a], y[a], cost), x[b], y[b]) for a, b in parts])
        for cost in costs
    ]
    return costs[int(np.argmax(means))]


def _fit(x: np.ndarray, y: np.ndarray, cost: float):
    from sklearn.svm import LinearSVC

    svm = LinearSVC(
        C=cost,
        class_weight={1: 2, 0: 1},
        loss="squared_hinge",
        dual="auto",
        tol=1e-4,
        max_iter=MAX_ITERATIONS,
        random_state=0,
    )
    return svm.fit(x, y)


def _precision(svm, x: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(y, svm.decision_function(x)))


def _normalize(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
