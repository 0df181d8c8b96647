"""Tells people about a run, at its start and along the way."""

from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from invariance_propagation import phases
from invariance_propagation.devices import processes
from invariance_propagation.errors import printable
from invariance_propagation.store.checkpoint import FOLDER
from invariance_propagation.train import monitor
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState

# Above this mean cosine between the embeddings of a batch, the network maps all images to
# about the same point. Untrained networks do so too: the first epochs are not judged.
COLLAPSED = 0.9
FIRST_JUDGED = 10  # epoch, counted from 0
# Keys and sections that do not change what a run learns.
NO_MATTER = {"task", "output", "weights", "parallel", "num_devices", "knn"}
# If these change the images, the digest of the data set changes too.
NO_MATTER |= {"data.outside_links", "data.scan", "data.max_unreadable"}
NO_MATTER |= {"data.on_change", "data.num_examples", "topology"}
NO_MATTER |= {"data.folder", "train.epochs", "train.evaluate_every", "train.log_every"}
NO_MATTER |= {"train.checkpoint_every", "train.keep_checkpoints", "train.tensorboard"}
NO_MATTER |= {"train.gather_checkpoints", "train.num_threads", "train.num_workers"}
NO_MATTER |= {"train.start_over"}
NO_MATTER |= {"train.stop_after_steps", "train.stop_after_hours"}
# `schedule.check_horizon` compares where the schedule ends and starts again.
NO_MATTER |= {"optimizer.restart_epochs", "optimizer.restart_rates"}


def say(text: str) -> None:
    """Prints a line above any progress bar, in the first process only."""
    if processes.is_first():
        phases.say(text)


def data_found(run: Run) -> None:
    """Prints what was found in the data set and what is left out of it."""
    for note in run.dataset.notes:
        say(note)


def run_prepares(run: Run) -> None:
    """Prints the number of images and steps, and the devices."""
    print(
        f"{printable(run.dataset.name)}: {run.num_examples:,} training images; "
        f"{run.total_steps:,} steps of {run.options.batch_size} images "
        f"({run.options.epochs} epochs) on {run.runner.num_devices} "
        f"{jax.default_backend()} device(s)"
        + (f" of {jax.process_count()} processes" if processes.several() else ""),
        flush=True,
    )


def run_starts(run: Run, folder: Path, state: TrainState, step: int) -> None:
    """Prints the network, the method, what is left out, and where the run continues."""
    count = sum(x.size for x in jax.tree.leaves(state.params))
    voters = f"kNN by K = {run.knn.num_neighbors}" if run.has_knn else ""
    known = f"encoder of {count:,} parameters", run.method.notes.about, voters
    print("; ".join(filter(None, known)))
    if not run.has_labels:
        print("no labels: kNN and other scores by labels are left out")
    elif not run.has_voters:
        print(
            "kNN is left out: with knn.embed_anew=False it needs "
            + (
                "the whole memory, which train.gather_checkpoints=False gathers nowhere"
                if run.method.notes.rows
                else "a row for each image in the memory, and this method keeps none"
            )
        )
    for remark in monitor.remarks(run):
        print(f"note: {remark}")
    for warning in run.method.notes.warnings(run.options.epochs):
        print(f"warning: {warning}")
    if step:
        print(f"continuing from step {step:,}: {folder / FOLDER}")


def changed_settings(
    before: dict[str, Any], now: dict[str, Any], *, finished: bool = False
) -> None:
    """Warns about settings that differ from the checkpoint's."""
    old, new = what_trains(before), what_trains(now)
    for name in sorted(old.keys() & new.keys()):
        if old[name] == new[name]:
            continue
        if finished:
            text = (
                f"is finished and used {name} = {old[name]}; setting it to {new[name]} "
                "has no effect"
            )
        else:
            text = f"has {name} = {old[name]} so far, and {new[name]} from here on"
        print(
            f"warning: the run in this workdir {text}; a run with {new[name]} from the "
            "start needs another --workdir"
        )


def what_trains(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings that change what a run learns, by names with dots."""
    return {
        name: value
        for name, value in flatten_dict(config, sep=".").items()
        if name not in NO_MATTER and name.split(".")[0] not in NO_MATTER
    }


def collapse(row: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Returns a warning for the first row in which all embeddings are nearly the same.

    Args:
      row: of metrics.
      before: the row before it.
    """
    if not _collapsed(row) or _collapsed(before):
        return []
    return [
        f"warning: in epoch {row['epoch']} all images have nearly the same embedding "
        f"(mean cosine {row['similarity']:.2f}): the training has collapsed and will "
        "hardly recover; start again in another --workdir with a lower "
        "optimizer.learning_rate or a higher optimizer.warmup_epochs"
    ]


def _collapsed(row: dict[str, Any]) -> bool:
    return (
        row.get("epoch", 0) >= FIRST_JUDGED and row.get("similarity", 0.0) >= COLLAPSED
    )
