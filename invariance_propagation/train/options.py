"""Holds the options of training, and checks their values."""

from typing import NamedTuple

from invariance_propagation.core.options import check_temperature
from invariance_propagation.errors import UserError


class TrainOptions(NamedTuple):
    """Holds the section `train`; configs/default.py says what each key means."""

    epochs: int
    batch_size: int
    evaluate_every: int
    checkpoint_every: int
    keep_checkpoints: int
    gather_checkpoints: bool
    log_every: int
    tensorboard: bool
    num_threads: int
    num_workers: int
    stop_after_steps: int
    stop_after_hours: float
    start_over: bool


class KnnOptions(NamedTuple):
    """Holds the section `knn`: K and sigma of the weighted kNN monitor."""

    num_neighbors: int
    temperature: float
    embed_anew: bool


def check_options(options: TrainOptions, knn: KnnOptions) -> None:
    """Raises UserError for the first option that is out of its range."""
    for name in (
        "epochs",
        "batch_size",
        "checkpoint_every",
        "log_every",
        "num_threads",
    ):
        if getattr(options, name) < 1:
            raise UserError(f"train.{name}={getattr(options, name)}: set it above 0")
    if options.evaluate_every < 0:
        raise UserError(
            f"train.evaluate_every={options.evaluate_every}: set it above 0, or to 0 "
            "for no kNN between the first step and the last"
        )
    if options.num_workers < 0:
        raise UserError(
            f"train.num_workers={options.num_workers}: set it above 0, or to 0 for "
            "threads only"
        )
    if options.keep_checkpoints < 1:
        raise UserError(
            f"train.keep_checkpoints={options.keep_checkpoints}: keep at least 1"
        )
    for name in ("stop_after_steps", "stop_after_hours"):
        if getattr(options, name) < 0:
            raise UserError(
                f"train.{name}={getattr(options, name)}: set it above 0, or to 0 to "
                "train to the end"
            )
    check_temperature("knn.temperature", knn.temperature)


def check_batch(options: TrainOptions, num_examples: int) -> None:
    """Raises UserError for a batch that is larger than the training set."""
    if options.batch_size > num_examples:
        raise UserError(
            f"train.batch_size={options.batch_size}, but there are {num_examples} "
            f"training images: set it to at most {num_examples}"
        )
