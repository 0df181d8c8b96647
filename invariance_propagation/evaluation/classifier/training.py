"""Trains and scores a linear classifier of a subject, frozen or fine-tuned.

Frozen: `probe`. The backbone stays as it is, and only the classifier learns.
Fine-tuned: `finetune`. The backbone learns too, at a rate of its own.
Both run `fit.make_fit`. A compiled program serves every subject with the same network.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
import tqdm
from flax import linen as nn

from invariance_propagation.data.dataset import Split
from invariance_propagation.data.load.feed import (
    Facts,
    Feed,
    Input,
    Threads,
    ViewGroup,
    from_host,
    resident,
)
from invariance_propagation.data.load.making import crops_on_host
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.data.views.augment import per_image_keys
from invariance_propagation.evaluation.bench import Bench
from invariance_propagation.evaluation.classifier.fit import (
    Extract,
    FitState,
    frozen_features,
    learnt_features,
    make_fit,
)
from invariance_propagation.evaluation.classifier.head import (
    Head,
    accuracies,
    apply_head,
)
from invariance_propagation.evaluation.recipes import Finetune, Linear
from invariance_propagation.evaluation.subjects import (
    Measure,
    Scores,
    ScoresOf,
    Subject,
    embedder,
)
from invariance_propagation.optimizer import make_optimizer

MOMENTUM = 0.9


def probe(
    bench: Bench, options: Linear, *, scores_of: ScoresOf = accuracies
) -> Measure:
    """Makes a measure that trains a classifier on the frozen features of a subject.

    Args:
      bench: the images to learn from and to test on.
      options: of the classifier. Without augmentation features are computed once.
      scores_of: (logits [n, C], labels [n]) of the test -> scores.
    """
    train, held_out = bench.dataset.train, bench.dataset.held_out
    head = Head(bench.num_classes, options.std, options.scaled)
    fit = _make_training(
        bench, options, len(train.labels), head, frozen_features, _optimizers_of_probe
    )

    def measure(subject: Subject, seed: int) -> Scores:
        queries = subject.queries()
        if options.crop_scale or options.flip:
            network, images = subject, train.images
        else:
            network, images = _precomputed(subject), subject.features()
        frozen = {"params": network.params, "batch_stats": network.batch_stats}
        num_features = queries.shape[1]
        state = fit(network, images, train.labels, seed, num_features, frozen=frozen)
        logits = apply_head(head, state.params["head"], queries)
        yield from scores_of(logits, held_out.labels)

    return measure


def finetune(
    bench: Bench,
    options: Finetune,
    train_of: Callable[[int], Split],
    *,
    scores_of: ScoresOf = accuracies,
) -> Measure:
    """Makes a measure that trains a subject's backbone together with a classifier.

    Args:
      bench: the images to test on.
      options: of the training.
      train_of: seed -> the images to learn from; as many for every seed.
      scores_of: as for `probe`.
    """
    held_out = bench.dataset.held_out
    head = Head(bench.num_classes, options.std)
    num_examples = len(train_of(0).labels)
    fit = _make_training(
        bench, options, num_examples, head, learnt_features, optimizers
    )

    def measure(subject: Subject, seed: int) -> Scores:
        train, num_features = train_of(seed), subject.queries().shape[1]
        first = {"params": subject.params, "batch_stats": subject.batch_stats}
        state = fit(subject, train.images, train.labels, seed, num_features, **first)
        embed = embedder(bench, subject.backbone)
        learnt = state.params["backbone"], state.batch_stats
        logits = apply_head(head, state.params["head"], embed(*learnt, held_out.images))
        yield from scores_of(logits, held_out.labels)

    return measure


def _make_training(
    bench: Bench,
    options: Linear | Finetune,
    num_examples: int,
    head: Head,
    extract: Callable[[nn.Module], Extract],
    optimizers: Callable[[Any, int], dict[str, optax.GradientTransformation]],
) -> Callable[..., FitState]:
    """Returns a function that fits a classifier, and compiles once for each network."""
    batch_size, steps, total = count_steps(options, num_examples)
    programs: dict[tuple, Callable[..., FitState]] = {}

    def fit(
        subject: Subject,
        images: np.ndarray | Pictures,
        labels: np.ndarray,
        seed: int,
        num_features: int,
        **variables: dict,
    ) -> FitState:
        given = input_of(bench, images, options, seed=seed, batch_size=batch_size)
        key = subject.backbone, num_features
        if key not in programs:
            view, spec = make_view(given, steps)
            programs[key] = make_fit(
                bench.runner,
                extract(subject.backbone),
                view=view,
                head=head,
                num_features=num_features,
                optimizers=optimizers(options, steps),
                spec=spec,
                batch_size=batch_size,
            )
        batches = bar(given.feed(start=0, stop=total), total, subject)
        return programs[key](batches, labels=labels, seed=seed, **variables)

    return fit


class Precomputed(nn.Module):
    """Stands in for a backbone whose features are computed already: returns its input."""

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        del train
        return features


def _precomputed(subject: Subject) -> Subject:
    return subject._replace(backbone=Precomputed(), params={}, batch_stats={})


def input_of(
    bench: Bench,
    images: np.ndarray | Pictures,
    options: Linear | Finetune,
    *,
    seed: int,
    batch_size: int,
) -> Input:
    """Chooses how a training step gets its images.

    Args:
      bench: says what a view looks like and which devices there are.
      images: uint8 [N, H, W, C], pictures, or features float32 [N, F], which are not
        augmented.
      options: how to augment images.
      seed: decides order and augmentation.
      batch_size: images in a step.
    """
    chances = {
        "size": bench.view.size,
        "crop_scale": options.crop_scale,
        "crop_ratio": (3 / 4, 4 / 3),
        "flip": options.flip,
        "jitter": (),
        "jitter_probability": 0.0,
        "grayscale": 0.0,
        "blur": 0.0,
        "mean": bench.view.mean,
        "std": bench.view.std,
    }
    facts = Facts(seed, batch_size, len(images) // batch_size)
    where = {"runner": bench.runner, "facts": facts}
    groups = {"view": ViewGroup(1, chances)}
    if isinstance(images, Pictures):
        threads = Threads(bench.num_threads)
        return from_host(images, groups, divide=crops_on_host, threads=threads, **where)
    return resident(images, groups if images.ndim == 4 else {}, **where)


def make_view(given: Input, steps_per_epoch: int) -> tuple[Callable, Any]:
    """Returns what makes the views of a step, and how its images are spread.

    The first is a function (seed, images, indices, step) -> views float32
    [b, size, size, C] on a device, or the features [b, F] where there are no views.
    """
    pick, views = given.pick, given.views  # `feed` holds all images

    def view(seed, images, indices, step):
        picked = pick(images, indices)
        keys = per_image_keys(seed, step // steps_per_epoch, indices)
        made = views(keys, picked)
        return made["view"][0] if made else picked

    return view, given.spec


def count_steps(options: Linear | Finetune, num_examples: int) -> tuple[int, int, int]:
    """Returns the images of a step, the steps of an epoch, and all steps.

    A step takes all images if they are fewer than a batch. The number of devices does
    not matter: a batch that they cannot share evenly is padded.
    """
    size = min(options.batch_size, num_examples)
    steps = num_examples // size
    return size, steps, steps * options.epochs


def sgd(
    options: Linear | Finetune, learning_rate: float, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Makes SGD with momentum whose rate falls at the milestones of `options`."""
    _, optimizer = make_optimizer(
        learning_rate=learning_rate,
        momentum=MOMENTUM,
        weight_decay=getattr(options, "weight_decay", 0.0),
        schedule="steps",
        milestones=options.milestones,
        decay=options.decay,
        warmup_epochs=0,
        epochs=options.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    return optimizer


def optimizers(
    options: Finetune, steps_per_epoch: int
) -> dict[str, optax.GradientTransformation]:
    """Makes SGD for 'backbone' and 'head', each with its rate and milestones."""
    head = options._replace(milestones=options.head_milestones)
    return {
        "backbone": sgd(options, options.learning_rate, steps_per_epoch),
        "head": sgd(head, options.head_rate, steps_per_epoch),
    }


def _optimizers_of_probe(
    options: Linear, steps_per_epoch: int
) -> dict[str, optax.GradientTransformation]:
    return {"head": sgd(options, options.learning_rate, steps_per_epoch)}


def bar(feed: Feed, total: int, subject: Subject) -> Iterator:
    """Yields indices and images of each step, with a progress bar on a terminal."""
    steps = tqdm.tqdm(
        feed, total=total, desc=subject.name, unit="step", disable=None, leave=False
    )
    for indices, images, _ in steps:
        yield indices, images
