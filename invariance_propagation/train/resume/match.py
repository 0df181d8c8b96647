"""Carries a run over to other images: keeps rows, adds new ones, and says so."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from invariance_propagation.data.changes import GONE
from invariance_propagation.data.load.pictures import Pictures
from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.parallel import REPLICATED
from invariance_propagation.train.resume.identity import (
    Difference,
    check_same_run,
    same_images,
    steps_per_epoch_of,
)
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState


def stored_shapes(
    shapes: TrainState, facts: Mapping[str, Any], run: Run, saved: Mapping[str, Any]
) -> TrainState:
    """Returns the shapes of a checkpoint, whose memory may belong to other images.

    Args:
      shapes: the state of this run, jax.ShapeDtypeStruct.
      facts: `identity_of` this run.
      run: this run.
      saved: the facts of the checkpoint.
    """
    if same_images(saved, facts, run):
        return shapes

    def stored(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        fact = saved["arrays"].get(".memory" + jax.tree_util.keystr(path))
        shape = leaf.shape if fact is None else tuple(fact["shape"])
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return shapes._replace(memory=jax.tree.map_with_path(stored, shapes.memory))


def carry_over(
    run: Run,
    arrays: TrainState,
    shapes: TrainState,
    facts: Mapping[str, Any],
    saved: Mapping[str, Any],
    folder: Path,
) -> tuple[TrainState, dict[str, Any]]:
    """Adapts a checkpoint to this run's images, and says what has changed.

    The checkpoint may be older than the newest one, which is damaged then, and may
    belong to yet other images.

    Args:
      run: this run.
      arrays: the state in the checkpoint, NumPy arrays.
      shapes: the state of this run.
      facts: `identity_of` this run, and its config.
      saved: the facts of the checkpoint.
      folder: its workdir, for messages.

    Returns:
      The state to continue with, and the facts that stay.

    Raises:
      UserError: as `check_same_run`.
      TrainingError: another run has written the checkpoint since this one began.
    """
    untrained = saved.get("untrained", {})
    noted = {name: saved[name] for name in ("data_changes",) if name in saved}
    difference = check_same_run(saved, facts, run, folder)
    if difference is None:
        return arrays, noted | {"untrained": untrained}
    step = saved["step"]
    if steps_per_epoch_of(saved, run) != run.steps_per_epoch:
        raise TrainingError(
            f"another run has ended in {folder} meanwhile: run the same command again"
        )
    if processes.is_first():
        for line in tell(difference, run, step, scored=bool(untrained)):
            print(line, flush=True)
    changes = [*noted.get("data_changes", ()), counts(difference, step)]
    matched = match_state(run, arrays, shapes, difference)
    return matched, {"data_changes": changes, "untrained": {}}


def match_state(
    run: Run, state: TrainState, shapes: TrainState, difference: Difference
) -> TrainState:
    """Fits the memory to this run's images; everything else stays as it is.

    Images with the same content as before keep their part of the memory. The checkpoint's
    network embeds new and changed images as evaluation does. The method's `match` makes
    the memory from both.

    The position of an image decides its place in an epoch and, with seed and epoch, its
    views. From here on both are the same as in a run with the present images.

    Args:
      run: this run.
      state: the state in a checkpoint, NumPy arrays.
      shapes: the state of this run.
      difference: between the images of the checkpoint and those of this run.

    Raises:
      UserError: the memory does not have the shapes that this config needs.
    """
    if difference.train is None or not jax.tree.leaves(state.memory):
        return state
    rows = difference.train.rows
    new = np.flatnonzero(rows == GONE)
    images = run.dataset.train.images
    shown = new if len(new) else np.array([0])  # a pass needs at least one image
    chosen = images.take(shown) if isinstance(images, Pictures) else images[shown]
    network = run.runner.put((state.params, state.batch_stats), (REPLICATED,) * 2)
    embeddings = run.embed(*network, chosen).embedding[: len(new)]
    memory = run.method.match(state.memory, rows, embeddings)
    _check_shapes(memory, shapes.memory)
    return state._replace(memory=memory)


def tell(difference: Difference, run: Run, step: int, *, scored: bool) -> list[str]:
    """Returns lines that say what has changed and how the run continues.

    Args:
      difference: between the images of the checkpoint and the present ones.
      run: this run.
      step: the step of the checkpoint.
      scored: whether kNN of the untrained network was measured on the earlier images.
    """
    lines = []
    if difference.train is not None:
        lines.append(
            f"the training images have changed since step {step:,}: {difference.train}"
        )
        if jax.tree.leaves(run.method.memory_spec):
            lines.append(_about_rows(difference))
        lines.append(_about_steps(run, step))
    if difference.held_out:
        lines.append(
            f"the held-out images have changed since step {step:,}: "
            f"{difference.held_out}; scores before and after cannot be compared"
        )
    if difference.labels:
        lines.append(
            f"the labels have changed since step {step:,}; scores before and after "
            "cannot be compared"
        )
    if scored:
        lines.append(
            "the summary leaves out kNN of the untrained network, which was measured "
            "with the earlier images and labels"
        )
    return lines


def counts(difference: Difference, step: int) -> dict[str, Any]:
    """Returns what checkpoints note about a change, as JSON."""
    known: dict[str, Any] = {"step": step, "held_out": difference.held_out}
    known |= {"labels": True} if difference.labels else {}
    if difference.train is not None:
        kinds = ("added", "removed", "renamed", "changed")
        known |= {kind: len(getattr(difference.train, kind)) for kind in kinds}
    return known


def _about_rows(difference: Difference) -> str:
    rows, changes = difference.train.rows, difference.train
    kept = int(np.sum(rows != GONE))
    return (
        f"rows of the memory: {kept:,} stay as they are, {len(rows) - kept:,} new from "
        f"the network of that step, {len(changes.removed) + len(changes.changed):,} "
        "dropped"
    )


def _about_steps(run: Run, step: int) -> str:
    size, per_epoch = run.options.batch_size, run.steps_per_epoch
    text = (
        f"the run continues at step {step:,}, in epoch {step // per_epoch}, in the order "
        f"of the present images; an epoch stays {per_epoch:,} steps of {size}"
    )
    at_once = run.num_examples // size
    if at_once > per_epoch:
        text += f", for which {per_epoch * size:,} images are drawn anew each epoch"
    elif at_once < per_epoch:
        text += ", in which some images come more than once"
    return text


def _check_shapes(memory: Any, shapes: Any) -> None:
    def check(path: Any, x: np.ndarray, expected: jax.ShapeDtypeStruct) -> None:
        if x.shape != expected.shape:
            raise UserError(
                f"the checkpoint's memory{jax.tree_util.keystr(path)} becomes "
                f"{list(x.shape)}, this config makes it {list(expected.shape)}: run with "
                "the config it was made with, or choose another --workdir"
            )

    jax.tree.map_with_path(check, memory, shapes)
