"""Linear SVMs on frozen features, one per class, scored by average precision.

The protocol of Goyal et al. 2019 (arXiv 1905.01235) for VOC07, in their released code
(fair_self_supervision_benchmark, tools/svm) and in OpenSelfSup: the test is scored by
interpolated average precision, the folds that choose a cost by scikit-learn's area.
One departure: their code finds the best cost of low-shot SVMs by the labels of the
test; here low-shot SVMs have a fixed cost.
"""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.subsets import shuffled

COSTS = (*(0.5**i for i in range(19, 3, -1)), 1.0, 10.0, 100.0)
MOST_IMAGES = 100_000  # of which an SVM takes minutes a class
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

    Raises:
      UserError: there is no such class.
    """
    features, queries = _unit_rows(features), _unit_rows(queries)

    def score(c: int) -> float:
        train, test = targets[:, c] != IGNORED, query_targets[:, c] != IGNORED
        # A copy for each class would not fit where features are many.
        x = features if train.all() else features[train]
        y = targets[train, c]
        svm = _fit(x, y, _choose_cost(x, y, costs))
        scores = svm.decision_function(queries[test])
        return interpolated_precision(scores, query_targets[test, c])

    defined = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
    defined &= (query_targets == 1).any(axis=0)
    if not defined.any():
        raise UserError(
            "an SVM needs images of two classes to learn from, and of one of them to "
            "test: leave svm out of --config.protocols"
        )
    # Imported here, and below: it takes a second, and others need it not.
    from sklearn.exceptions import ConvergenceWarning

    # liblinear releases Python's lock.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # The protocol stops there, with a large cost often before the optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(np.mean(list(pool.map(score, np.flatnonzero(defined)))))


def interpolated_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Averages, over the positives, the best precision at their recall or a larger one.

    This is the area below the monotone envelope of the curve of precision over recall,
    as VOC has it since 2010. Equal scores are one point of the curve, so that the
    order of the images does not matter.

    Args:
      scores: float [q], larger for what is more likely a positive.
      targets: int [q], 1 positive, 0 negative; at least one is positive.

    Returns:
      In (0, 1].
    """
    from sklearn.metrics import precision_recall_curve

    # Recall falls along the curve, from 1 at the lowest threshold to 0.
    precision, recall, _ = precision_recall_curve(targets, scores)
    envelope = np.maximum.accumulate(precision[:-1])
    return float(envelope @ -np.diff(recall))


def few_images(targets: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """`count` images of each class, all of which serve every class; for one class each.

    Args:
      targets: int [n, C], as for `mean_average_precision`.
      count: per class; all of one that has fewer.
      seed: fixes the draw.

    Returns:
      int8 [n, C]: the same of the images that are drawn, -1 of the others.
    """
    order = shuffled(len(targets), seed=seed)
    columns = targets[order].T
    rows = np.concatenate([order[column == 1][:count] for column in columns])
    few = np.full_like(targets, IGNORED, np.int8)
    few[rows] = targets[rows]
    return few


def few_of_each(targets: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """For each class on its own `count` positives and (C - 1) `count` negatives.

    So Goyal et al. draw where an image may be of several classes; arguments and result
    are as of `few_images`.
    """
    order = shuffled(len(targets), seed=seed)
    few = np.full_like(targets, IGNORED, np.int8)
    for c, column in enumerate(targets[order].T):
        for value, most in ((1, count), (0, count * (targets.shape[1] - 1))):
            few[order[column == value][:most], c] = value
    return few


def _choose_cost(x: np.ndarray, y: np.ndarray, costs: Sequence[float]) -> float:
    if len(costs) == 1:
        return costs[0]
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(y.sum()), int((1 - y).sum()))
    if folds < 2:
        return LOW_SHOT_COST
    from sklearn.metrics import average_precision_score

    parts = list(StratifiedKFold(folds).split(x, y))

    def area(cost: float, learn: np.ndarray, test: np.ndarray) -> float:
        scores = _fit(x[learn], y[learn], cost).decision_function(x[test])
        return average_precision_score(y[test], scores)

    means = [np.mean([area(cost, *part) for part in parts]) for cost in costs]
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


def _unit_rows(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    x = x / np.maximum(np.abs(x).max(axis=1, keepdims=True), np.finfo(float).tiny)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
