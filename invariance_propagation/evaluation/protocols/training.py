"""What a classifier's training is made of: images, views, steps and their optimiser."""

from collections.abc import Callable, Iterator
from typing import Any

import optax
import tqdm

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
from invariance_propagation.evaluation.bench import Bench, Subject
from invariance_propagation.optimizer import make_optimizer

MOMENTUM = 0.9


def input_of(
    bench: Bench, split: Split, options: Any, *, seed: int, batch_size: int
) -> Input:
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
    groups = {"view": ViewGroup(1, chances)}
    facts = Facts(seed, batch_size, len(split.images) // batch_size)
    own = {"runner": bench.runner, "facts": facts}
    if isinstance(split.images, Pictures):
        threads = Threads(bench.num_threads)
        return from_host(
            split.images, groups, divide=crops_on_host, threads=threads, **own
        )
    return resident(split.images, groups, **own)


def make_view(given: Input, steps_per_epoch: int) -> tuple[Callable, Any]:
    """(seed, images, indices, step) -> views, on a device; where the images lie."""

    def view(seed, images, indices, step):
        keys = per_image_keys(seed, step // steps_per_epoch, indices)
        return given.views(keys, given.pick(images, indices))["view"][0]

    return view, given.spec


def count_steps(options: Any, num_examples: int) -> tuple[int, int, int]:
    """Counts images of a step, steps of an epoch, and steps in all.

    A step takes all images if they are fewer than a batch. The devices have no say:
    what they cannot share evenly is padded.
    """
    size = min(options.batch_size, num_examples)
    steps = num_examples // size
    return size, steps, steps * options.epochs


def sgd(
    options: Any, learning_rate: float, steps_per_epoch: int
) -> optax.GradientTransformation:
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
    options: Any, steps_per_epoch: int
) -> dict[str, optax.GradientTransformation]:
    """SGD of 'backbone' and 'head', each with its rate and its milestones."""
    head = options._replace(milestones=options.head_milestones)
    return {
        "backbone": sgd(options, options.learning_rate, steps_per_epoch),
        "head": sgd(head, options.head_rate, steps_per_epoch),
    }


def bar(feed: Feed, total: int, subject: Subject) -> Iterator:
    """Yields indices and images of each step, with a progress bar."""
    steps = tqdm.tqdm(
        feed, total=total, desc=subject.name, unit="step", disable=None, leave=False
    )
    for indices, images, _ in steps:
        yield indices, images
