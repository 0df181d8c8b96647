"""What a bench measures of a subject: (subject, seed) -> pairs (name, share).

What is compiled for one subject serves all of the same network.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from flax import linen as nn

from invariance_propagation.data.dataset import Split
from invariance_propagation.data.load.feed import Facts, Input, resident
from invariance_propagation.evaluation.bench import Bench, Subject, embedder
from invariance_propagation.evaluation.protocols import svm
from invariance_propagation.evaluation.protocols.classifier import (
    Head,
    accuracies,
    apply_head,
)
from invariance_propagation.evaluation.protocols.finetune import make_finetune
from invariance_propagation.evaluation.protocols.knn import knn_accuracy
from invariance_propagation.evaluation.protocols.linear import make_probe
from invariance_propagation.evaluation.protocols.training import (
    bar,
    count_steps,
    input_of,
    make_view,
    optimizers,
    sgd,
)
from invariance_propagation.evaluation.recipes import Finetune, Linear
from invariance_propagation.evaluation.subsets import draw_share, write_list

SHARES = (0.01, 0.1)  # of the labels
Scores = Iterator[tuple[str, float]]
Measure = Callable[[Subject, int], Scores]
ScoresOf = Callable[[np.ndarray, np.ndarray], Scores]  # of logits and labels


def knn(bench: Bench, *, num_neighbors: int, temperature: float) -> Measure:
    """Weighted kNN by features: a cosine, and votes of the training images."""
    train, held_out = bench.dataset.train, bench.dataset.held_out

    def measure(subject: Subject, seed: int) -> Scores:
        del seed
        features, queries = subject.features(), subject.queries()
        own = {"num_neighbors": num_neighbors, "temperature": temperature}
        yield (
            "top1",
            knn_accuracy(features, train.labels, queries, held_out.labels, **own),
        )

    return measure


def linear(
    bench: Bench, options: Linear, *, scores_of: ScoresOf = accuracies
) -> Measure:
    """A linear classifier on frozen features of augmented training images.

    Where nothing is augmented, features are computed once.
    """
    if options.crop_scale or options.flip:
        return _linear_of_views(bench, options, scores_of)
    train, runner = bench.dataset.train, bench.runner
    batch_size, steps, total = count_steps(options, len(train.labels))
    optimizer = sgd(options, options.learning_rate, steps)
    head = Head(bench.num_classes, options.std, options.scaled)

    def given_of(features: np.ndarray, seed: int) -> Input:
        facts = Facts(seed, batch_size, len(features) // batch_size)
        return resident(features, {}, runner=runner, facts=facts)

    @functools.cache
    def probe(num_features: int) -> Callable:
        given = given_of(np.zeros((batch_size, num_features), np.float32), 0)
        return make_probe(
            runner,
            lambda _, features, indices, step: given.pick(features, indices),
            head=head,
            num_features=num_features,
            optimizer=optimizer,
            spec=given.spec,
            batch_size=batch_size,
        )

    def measure(subject: Subject, seed: int) -> Scores:
        features, queries = subject.features(), subject.queries()
        feed = given_of(features, seed).feed(start=0, stop=total)
        train_head = probe(features.shape[1])
        params = train_head(bar(feed, total, subject), (), train.labels, seed)
        logits = apply_head(head, params, queries)
        yield from scores_of(logits, bench.dataset.held_out.labels)

    return measure


def _linear_of_views(bench: Bench, options: Linear, scores_of: ScoresOf) -> Measure:
    train, runner = bench.dataset.train, bench.runner
    batch_size, steps, total = count_steps(options, len(train.labels))
    optimizer = sgd(options, options.learning_rate, steps)
    head = Head(bench.num_classes, options.std, options.scaled)

    def given_of(seed: int) -> Input:
        return input_of(bench, train, options, seed=seed, batch_size=batch_size)

    @functools.cache
    def probe(backbone: nn.Module, num_features: int) -> Callable:
        view, spec = make_view(given_of(0), steps)

        def look(variables, images, indices, step):
            seed, params, batch_stats = variables
            views = view(seed, images, indices, step)
            variables = {"params": params, "batch_stats": batch_stats}
            return backbone.apply(variables, views, train=False)

        return make_probe(
            runner,
            look,
            head=head,
            num_features=num_features,
            optimizer=optimizer,
            spec=spec,
            batch_size=batch_size,
        )

    def measure(subject: Subject, seed: int) -> Scores:
        queries = subject.queries()
        feed = given_of(seed).feed(start=0, stop=total)
        train_head = probe(subject.backbone, queries.shape[1])
        variables = (np.int32(seed), subject.params, subject.batch_stats)
        params = train_head(bar(feed, total, subject), variables, train.labels, seed)
        logits = apply_head(head, params, queries)
        yield from scores_of(logits, bench.dataset.held_out.labels)

    return measure


def finetune(
    bench: Bench,
    options: Finetune,
    train_of: Callable[[int], Split],
    *,
    scores_of: ScoresOf = accuracies,
) -> Measure:
    """Backbone and classifier learn from the labels of `train_of(seed)`.

    There are as many of them for each seed.
    """
    runner, held_out = bench.runner, bench.dataset.held_out
    batch_size, steps, total = count_steps(options, len(train_of(0).labels))
    head = Head(bench.num_classes, options.std)

    def given_of(seed: int) -> Input:
        train = train_of(seed)
        return input_of(bench, train, options, seed=seed, batch_size=batch_size)

    @functools.cache
    def tuner(backbone: nn.Module, num_features: int) -> Callable:
        view, spec = make_view(given_of(0), steps)
        return make_finetune(
            runner,
            backbone,
            view,
            head=head,
            num_features=num_features,
            optimizers=optimizers(options, steps),
            spec=spec,
            batch_size=batch_size,
        )

    def measure(subject: Subject, seed: int) -> Scores:
        queries = subject.queries()
        tune = tuner(subject.backbone, queries.shape[1])
        feed = given_of(seed).feed(start=0, stop=total)
        start, labels = (subject.params, subject.batch_stats), train_of(seed).labels
        state = tune(bar(feed, total, subject), *start, labels, seed)
        embed = embedder(bench, subject.backbone)
        learnt = state.params["backbone"], state.batch_stats
        logits = apply_head(head, state.params["head"], embed(*learnt, held_out.images))
        yield from scores_of(logits, held_out.labels)

    return measure


def semi(
    bench: Bench,
    options: Finetune,
    subset: Callable[[float, int], Split],
    shares: Sequence[float],
) -> Measure:
    """Fine-tuning on some of the labels: `subset(share, seed)`."""
    measures = {
        share: finetune(bench, options, partial(subset, share)) for share in shares
    }

    def measure(subject: Subject, seed: int) -> Scores:
        for share, of_share in measures.items():
            for score, value in of_share(subject, seed):
                yield f"{score}, {share:.0%}", value

    return measure


def few_labels(bench: Bench, folder: Path) -> Callable[[float, int], Split]:
    """(share, seed) -> the images that keep their labels, which `folder` notes."""
    train = bench.dataset.train

    @functools.cache
    def subset(share: float, seed: int) -> Split:
        rows = draw_share(train.labels, share, seed=seed)
        name = f"{bench.dataset.name}-{100 * share:g}pct-seed{seed}"
        write_list(rows, train.ids, folder, name)
        return train.take(rows)

    return subset


def svm_of_classes(bench: Bench) -> Measure:
    """One SVM per class, by all labels and by a few per class."""
    train, held_out = bench.dataset.train, bench.dataset.held_out
    targets, query_targets = (
        svm.one_hot(x.labels, bench.num_classes) for x in (train, held_out)
    )
    return svm_of_targets(targets, query_targets, few=svm.few_images)


def svm_of_targets(
    targets: np.ndarray,
    query_targets: np.ndarray,
    *,
    few: Callable[..., np.ndarray] = svm.few_of_each,
) -> Measure:
    """One SVM per class, by all labels and by a few; low-shot scores are means of draws.

    Args:
      targets, query_targets: int [n, C], 1 positive, 0 negative, -1 for what is hard to
        tell. As in the code of Goyal et al. the latter is a negative for the SVMs of
        all labels; it is left out of the low-shot draws and of the test.
      few: draws the low-shot targets.
    """
    of_all = np.where(targets == svm.IGNORED, 0, targets)

    def measure(subject: Subject, seed: int) -> Scores:
        features, queries = subject.features(), subject.queries()
        yield (
            "mAP",
            svm.mean_average_precision(features, of_all, queries, query_targets),
        )
        for count in svm.LOW_SHOT:
            draws = []
            for draw in range(svm.DRAWS):
                drawn = few(targets, count, seed=svm.DRAWS * seed + draw)
                given = (features, drawn, queries, query_targets)
                cost = (svm.LOW_SHOT_COST,)
                draws.append(svm.mean_average_precision(*given, costs=cost))
            yield f"{count} a class", float(np.mean(draws))

    return measure
