"""Finds the point where a run begins or continues: its step, its state and its facts."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError
from invariance_propagation.files.paths import reason
from invariance_propagation.phases import phase
from invariance_propagation.store.checkpoint import Checkpoints, NoneWhole
from invariance_propagation.store.claim import move_aside
from invariance_propagation.store.damage import unreadable
from invariance_propagation.store.rows import (
    SHARE,
    MissingRows,
    fill_rows,
    folder_of,
    in_files,
    leave_out,
)
from invariance_propagation.train import messages
from invariance_propagation.train.averages import Window
from invariance_propagation.train.resume.identity import same_images
from invariance_propagation.train.resume.match import carry_over, stored_shapes
from invariance_propagation.train.resume.saver import put, sharded_names
from invariance_propagation.train.resume.start import Start
from invariance_propagation.train.resume.workdir import MOVED, START_OVER, Workdir
from invariance_propagation.train.run import Run, init_state, state_shapes
from invariance_propagation.train.step import TrainState


class Point(NamedTuple):
    """Holds where a run begins or continues.

    Attributes:
      step: the number of steps taken.
      state: on the devices.
      window: metrics since the last row.
      facts: what the next checkpoint notes about the run, without the window.
      is_new: whether no checkpoint holds this point yet.
    """

    step: int
    state: TrainState
    window: Window
    facts: dict[str, Any]
    is_new: bool


def first_point(
    run: Run, place: Workdir, start: Start | None, facts: dict[str, Any]
) -> Point:
    """Restores the newest checkpoint that is whole, or makes the initial state.

    Args:
      run: the run.
      place: its workdir, which has been prepared.
      start: the weights of a new run; None for random ones.
      facts: what checkpoints are to note about the run.

    Raises:
      UserError: a checkpoint of other images that cannot be matched.
      TrainingError: no checkpoint is whole, or none can be read now.
    """
    # Traces the network, which a new run does not need.
    shapes = cache(partial(state_shapes, run))
    with phase("reading the checkpoint", messages.say):
        found = _find(run, place.checkpoints, shapes, facts)
    if found is None:
        if start is not None:
            facts = facts | {"started_from": start.facts}
        with phase("making the network and the method's memory", messages.say):
            state = init_state(run, start and start[:2])
            jax.block_until_ready(state)
        return Point(0, state, Window(), facts, is_new=True)
    step, arrays, saved = found
    folder = place.checkpoints.workdir
    arrays, noted = carry_over(run, arrays, shapes(), facts, saved, folder)
    facts = facts | noted
    if "started_from" in saved:  # those weights may be gone by now
        facts = facts | {"started_from": saved["started_from"]}
    return Point(step, put(run, arrays), Window(**saved["window"]), facts, is_new=False)


def _find(
    run: Run, checkpoints: Checkpoints, shapes: Callable[[], Any], facts: dict[str, Any]
) -> tuple[int, Any, dict[str, Any]] | None:
    """Reads the newest checkpoint that every process finds whole.

    Returns:
      Step, state as `put` takes it, and facts; None if there is no checkpoint.
    """

    def whole(saved: Mapping[str, Any]) -> bool:
        """Returns whether every process needs all rows, as for matching images."""
        return run.gathers or not same_images(saved, facts, run)

    damaged: dict[int, str] = {}
    while True:
        restored = processes.from_first(
            partial(_restore, rows=whole, start_over=run.options.start_over),
            checkpoints,
            lambda saved: stored_shapes(shapes(), facts, run, saved),
            damaged,
        )
        if restored is None:
            return None
        step, leaves, saved = restored
        absent = set() if whole(saved) else in_files(saved["arrays"])
        tree = jax.tree.structure(leave_out(absent, shapes()))
        state = jax.tree.unflatten(tree, leaves)
        if absent:
            state, why = _own_rows(run, checkpoints, shapes(), state, saved)
            if why:
                damaged[step] = why
                continue
        processes.from_first(checkpoints.settle, step, damaged)
        return step, state, saved


def _own_rows(
    run: Run, checkpoints: Checkpoints, shapes: Any, state: Any, saved: dict[str, Any]
) -> tuple[Any, str]:
    """Adds the rows of this process to a state.

    Returns:
      The state; and, if the rows of any process are damaged, why they are.

    Raises:
      TrainingError: a machine cannot read them now.
    """
    folder, arrays = folder_of(checkpoints.folder, saved["step"]), saved["arrays"]
    own = run.runner.own_rows(run.num_examples)
    wanted = dict.fromkeys(sharded_names(run.spec, shapes), own)
    own_report = Report()
    try:
        state = fill_rows(state, folder, arrays, wanted)
    except MissingRows as error:
        own_report = Report(str(error), is_missing=True)
    except (OSError, MemoryError) as error:
        own_report = Report(trouble=reason(error))
    except Exception as error:
        own_report = Report(reason(error))
    reports = [Report(*report) for report in processes.from_each(own_report)]
    for process, report in enumerate(reports):
        if report.trouble:
            raise unreadable(f"process {process}: {folder}", report.trouble)
        if report.is_missing and not reports[0].is_missing:
            processes.from_first(_check_all_there, process, folder, arrays)
    wrong = (
        f"process {process}: {report.damage}"
        for process, report in enumerate(reports)
        if report.damage
    )
    return state, next(wrong, "")


class Report(NamedTuple):
    """Tells how a process fared with its rows; empty if all is well.

    Attributes:
      damage: why they are damaged.
      is_missing: whether a file is not there.
      trouble: why the machine cannot read them now.
    """

    damage: str = ""
    is_missing: bool = False
    trouble: str = ""


def _check_all_there(process: int, folder: Path, arrays: Mapping[str, Any]) -> None:
    """Raises TrainingError if process 0 sees files that another process misses."""
    pieces = (piece for name in in_files(arrays) for piece in arrays[name]["rows"])
    if all((folder / piece["file"]).exists() for piece in pieces):
        raise TrainingError(
            f"process {process} does not see all files of {folder}, which process 0 "
            f"sees; nothing was moved: {SHARE}"
        )


def _restore(
    checkpoints: Checkpoints,
    shapes: Callable[[Any], Any],
    damaged: dict[int, str],
    *,
    rows: Callable[[Any], bool],
    start_over: bool,
) -> tuple[int, list[np.ndarray], dict[str, Any]] | None:
    """Reads step, leaves of the state and facts of the newest whole checkpoint."""
    try:
        restored = checkpoints.find(shapes, damaged, rows=rows)
    except NoneWhole as error:
        if not start_over:
            raise TrainingError(
                f"{error}; nothing was moved: put a whole one there, or add "
                f"{START_OVER}, which moves what is left of the run aside and begins at "
                "step 0"
            ) from error
        checkpoints.close()
        aside = move_aside(checkpoints.workdir, MOVED)
        messages.say(
            f"{error}; what is left of the run now lies in {aside}; beginning at step 0"
        )
        return None
    if restored is None:
        return None
    if start_over:
        messages.say(f"{START_OVER} changes nothing: the run in this workdir continues")
    step, state, facts = restored
    return step, jax.tree.leaves(state), facts
