"""The protocol `svm`: one linear SVM per class, scored by average precision.

It follows Goyal et al. 2019 (arXiv 1905.01235) for VOC07, as in their released code
(fair_self_supervision_benchmark, tools/svm) and in OpenSelfSup: the test is scored by
interpolated average precision, and the folds that choose a cost by scikit-learn's.
One departure: their code chooses the cost of low-shot SVMs by the labels of the test;
here low-shot SVMs have a fixed cost.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tqdm

from invariance_propagation.errors import UserError
from invariance_propagation.evaluation.bench import Bench
from invariance_propagation.evaluation.features import unit_rows
from invariance_propagation.evaluation.meaning import remarks_on_few
from invariance_propagation.evaluation.protocols.base import (
    Job,
    Protocol,
    Request,
    make_settings,
)
from invariance_propagation.evaluation.protocols.subsets import shuffled
from invariance_propagation.evaluation.subjects import Measure, Scores, Subject

VERSION = 2
COSTS = (*(0.5**i for i in range(19, 3, -1)), 1.0, 10.0, 100.0)
MOST_IMAGES = 100_000  # with more, the SVM of one class takes minutes
LOW_SHOT_COST = 1.0
LOW_SHOT = (1, 2, 4, 8, 16, 32, 64, 96)
DRAWS = 5
FOLDS = 3
MAX_ITERATIONS = 2000
IGNORED = -1


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns targets int8 [n, C] of labels int [n]: 1 for the class, 0 for others."""
    return (labels[:, None] == np.arange(num_classes)).astype(np.int8)


def mean_average_precision(
    features: np.ndarray,
    targets: np.ndarray,
    queries: np.ndarray,
    query_targets: np.ndarray,
    *,
    costs: Sequence[float] = COSTS,
) -> float:
    """Fits an SVM for each class and averages their precision on the queries.

    Args:
      features: float [n, F], normalised here.
      targets: int [n, C], 1 positive, 0 negative, -1 to leave out for this class.
      queries: float [q, F], normalised here.
      query_targets: int [q, C], likewise.
      costs: if there are several, each class takes the one with the best average
        precision in three folds of `features`.

    Returns:
      mAP in [0, 1], over the classes that have a positive in both `targets` and
      `query_targets`, and a negative in `targets`.

    Raises:
      UserError: there is no such class.
    """
    features, queries = unit_rows(features), unit_rows(queries)

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
    # Imported in functions, because it takes a second and only SVMs need it.
    from sklearn.exceptions import ConvergenceWarning

    # Threads help, because liblinear releases Python's lock.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # The protocol limits the iterations, which may end before the optimum.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classes = np.flatnonzero(defined)
        scores = tqdm.tqdm(
            pool.map(score, classes),
            total=len(classes),
            desc="SVMs",
            unit="class",
            disable=None,
            leave=False,
        )
        return float(np.mean(list(scores)))


def interpolated_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Computes VOC's average precision, as defined since 2010.

    It is the area under the curve of precision over recall, where each precision is
    replaced by the best one at the same recall or a larger one. Equal scores are one
    point of the curve, so that the order of the images does not matter.

    Args:
      scores: float [q], larger for images that are more likely positive.
      targets: int [q], 1 positive, 0 negative, with at least one positive.

    Returns:
      In (0, 1].
    """
    from sklearn.metrics import precision_recall_curve

    # Recall falls along the curve, from 1 at the lowest threshold to 0.
    precision, recall, _ = precision_recall_curve(targets, scores)
    envelope = np.maximum.accumulate(precision[:-1])
    return float(envelope @ -np.diff(recall))


def few_images(targets: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Draws `count` images of each class; the SVMs of all classes learn from all of them.

    For images with one class each.

    Args:
      targets: int [n, C], as for `mean_average_precision`.
      count: images per class; a class with fewer gives all.
      seed: decides the draw.

    Returns:
      int8 [n, C], the targets of the images that were drawn, and -1 for all others.
    """
    order = shuffled(len(targets), seed=seed)
    columns = targets[order].T
    rows = np.concatenate([order[column == 1][:count] for column in columns])
    few = np.full_like(targets, IGNORED, np.int8)
    few[rows] = targets[rows]
    return few


def few_of_each(targets: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Draws, for each class by itself, `count` positives and (C - 1) `count` negatives.

    Goyal et al. draw this way where an image may have several classes. Arguments and
    result are those of `few_images`.
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


def measure_targets(
    targets: np.ndarray,
    query_targets: np.ndarray,
    *,
    few: Callable[..., np.ndarray] = few_of_each,
) -> Measure:
    """Makes a measure: mAP by all labels, and by a few as a mean over several draws.

    Args:
      targets, query_targets: int [n, C] and [q, C], 1 positive, 0 negative, -1 where it
        is hard to tell. As in the code of Goyal et al., an image that is hard to tell
        is a negative for the SVMs of all labels, and is left out of the low-shot draws
        and of the test.
      few: draws the low-shot targets.
    """
    of_all = np.where(targets == IGNORED, 0, targets)

    def measure(subject: Subject, seed: int) -> Scores:
        features, queries = subject.features(), subject.queries()
        yield (
            "mAP",
            mean_average_precision(features, of_all, queries, query_targets),
        )
        for count in LOW_SHOT:
            draws = []
            for draw in range(DRAWS):
                drawn = few(targets, count, seed=DRAWS * seed + draw)
                parts = (features, drawn, queries, query_targets)
                draws.append(mean_average_precision(*parts, costs=(LOW_SHOT_COST,)))
            yield f"{count} a class", float(np.mean(draws))

    return measure


def settings_of(bench: Bench, targets: np.ndarray) -> dict[str, Any]:
    """Makes what a card says about SVMs of targets int [n, C]."""
    options = {
        "features": "average pool",
        "costs": COSTS,
        "folds": FOLDS,
        "max_iterations": MAX_ITERATIONS,
        "low_shot_cost": LOW_SHOT_COST,
        "low_shot": LOW_SHOT,
        "draws": DRAWS,
        "average_precision": "interpolated",
    }
    return make_settings(bench, options, remarks_on_few(targets, max(LOW_SHOT)))


def is_usual(bench: Bench) -> bool:
    """Tells whether there are few enough images for SVMs to end soon."""
    return len(bench.dataset.train.labels) <= MOST_IMAGES


def jobs(request: Request) -> Iterator[list[Job]]:
    """Fits an SVM for each class of the section `data`."""
    bench = request.bench()
    if not is_usual(bench):
        raise UserError(
            f"an SVM per class of {len(bench.dataset.train.labels):,} images would take "
            "days: leave svm out of --config.protocols, or set data.num_train to at most "
            f"{MOST_IMAGES:,}"
        )
    targets, query_targets = (
        one_hot(split.labels, bench.num_classes)
        for split in (bench.dataset.train, bench.dataset.held_out)
    )
    settings = settings_of(bench, targets)
    measure = measure_targets(targets, query_targets, few=few_images)
    yield [Job("svm", VERSION, settings, bench, measure, by_chance=False)]


SVM = Protocol(jobs, usual=is_usual)
