"""Prepares a workdir: finds out what is in it, and claims it for this run."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from invariance_propagation import settings, signals
from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.store.checkpoint import (
    DAMAGED,
    FOLDER,
    Checkpoints,
    steps_in,
)
from invariance_propagation.store.claim import (
    check_place,
    claim,
    enter,
    move_aside,
    traces_in,
)
from invariance_propagation.store.damage import check_noted
from invariance_propagation.store.lock import FILE, Lock, is_marked
from invariance_propagation.train import messages, monitor
from invariance_propagation.train.build import build
from invariance_propagation.train.journal import METRICS_FILE
from invariance_propagation.train.resume.identity import (
    Difference,
    check_same_run,
    steps_per_epoch_of,
)
from invariance_propagation.train.resume.schedule import check_horizon, how_to_train_on
from invariance_propagation.train.resume.start import Start, start_of
from invariance_propagation.train.run import Run

START_OVER = "--config.train.start_over=True"
PARAMETERS_FILE = "parameters.txt"
FILES = (METRICS_FILE, monitor.SUMMARY_FILE, PARAMETERS_FILE)
# Any of these shows that a run has been in a workdir.
TRACES = (FOLDER, DAMAGED, METRICS_FILE, monitor.SUMMARY_FILE)
MOVED = (FOLDER, DAMAGED, *FILES)


class Workdir(NamedTuple):
    """Holds what a run keeps open in its folder."""

    folder: Path
    checkpoints: Checkpoints
    lock: Lock


@contextlib.contextmanager
def opened(folder: Path, *, keep: int) -> Iterator[Workdir]:
    """Opens a workdir; at the end closes its checkpoints and releases its lock.

    Writes nothing and takes no lock yet.

    Args:
      folder: the workdir, absolute.
      keep: how many checkpoints stay.
    """
    checkpoints = Checkpoints(folder, keep=keep)
    lock = Lock(folder)
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.undone_at_end(lock.release))
        stack.callback(lock.release)
        stack.callback(checkpoints.close)
        yield Workdir(folder, checkpoints, lock)


def check_workdir(folder: Path) -> None:
    """Checks that a run can write into a workdir, before the data is read.

    A run that is finished writes nothing, so its folder may be read-only.

    Raises:
      UserError: nothing can be written there.
    """
    if not _has_finished(folder):
        check_place(folder)


def with_noted_steps(run: Run, config: ConfigDict, checkpoints: Checkpoints) -> Run:
    """Returns the run with as many steps per epoch as when it began.

    Raises:
      UserError: the run cannot be built with them.
      TrainingError: the checkpoint's facts are not complete.
    """

    def look() -> int:
        facts = checkpoints.facts()
        if facts is not None:
            check_noted(facts, checkpoints.folder)
        return steps_per_epoch_of(facts, run)

    per_epoch = processes.from_first(look)
    if per_epoch == run.steps_per_epoch:
        return run
    again = partial(build, dataset=run.dataset, steps_per_epoch=per_epoch)
    return processes.everywhere(again, config)


def prepare(
    place: Workdir, run: Run, config: ConfigDict, facts: dict[str, Any]
) -> tuple[dict[str, Any] | None, Start | None]:
    """Claims a workdir for a run, unless the run in it is finished.

    Args:
      place: the workdir.
      run: the run.
      config: its config.
      facts: `identity_of` the run, and its config.

    Returns:
      The summary of a finished run, else None; and the weights that a new run starts
      from, if the config names any.

    Raises:
      UserError: the workdir holds another run, or traces of a run without a
        checkpoint; or it cannot be written.
    """
    folder, saved = place.folder, place.checkpoints.facts()
    difference = check_same_run(saved, facts, run, folder)
    if saved is not None:
        _check_changes(saved, facts, run, folder)
        summary = _finished_summary(saved, run, folder, difference)
        if summary is not None:
            return summary, None
    left = _traces(folder) if saved is None else []
    if left and not run.options.start_over:
        why = next(
            (f" (step {n}: {x})" for n, x in place.checkpoints.unread.items()), ""
        )
        raise UserError(
            f"{folder} has {', '.join(left)} of a run, but no checkpoint that can be "
            f"read{why}: put its checkpoints back into {folder / FOLDER}, or add "
            f"{START_OVER}, which moves what is left of the run aside and begins at "
            "step 0"
        )
    begins = saved is None or run.options.start_over
    start = start_of(config) if begins else None
    if not place.lock.held:
        enter(folder, place.lock)
        if _step_of(place.checkpoints.facts()) != _step_of(saved):
            # Another run has just ended here.
            return prepare(place, run, config, facts)
    if left:
        aside = move_aside(folder, MOVED)
        print(f"what is left of a run now lies in {aside}; beginning at step 0")
    claim(folder, FILES)
    return None, start


def _has_finished(folder: Path) -> bool:
    """Returns whether the newest checkpoint is the one that the summary is of."""
    try:
        summary, steps = monitor.read_summary(folder), steps_in(folder)
    except (OSError, TrainingError):
        return False  # whoever needs the folder says what is wrong with it
    return bool(summary and steps) and summary.get("steps") == steps[0]


def _check_changes(
    saved: dict[str, Any], facts: dict[str, Any], run: Run, folder: Path
) -> None:
    """Says which settings have changed, and refuses a jump of the learning rate."""
    before, now = settings.by_new_names(saved["config"]), facts["config"]
    finished = saved["step"] >= run.total_steps
    if saved["step"] > run.total_steps:
        raise UserError(
            f"{folder} holds a checkpoint of step {saved['step']:,}, and this config "
            f"ends at {run.total_steps:,} (train.epochs={run.options.epochs}, before "
            f"{before['train']['epochs']}): set it back, or choose another --workdir"
        )
    messages.changed_settings(before, now, finished=finished)
    if finished:
        return
    change = check_horizon(
        before,
        now,
        step=saved["step"],
        steps_per_epoch=run.steps_per_epoch,
        folder=folder,
    )
    if change:
        print(change)


def _finished_summary(
    saved: dict[str, Any], run: Run, folder: Path, difference: Difference | None
) -> dict[str, Any] | None:
    """Repeats the summary of a finished run; None if the run has more to do.

    A run that was killed before its summary continues, to make it.
    """
    summary = monitor.read_summary(folder)
    if summary is None or summary.get("steps") != saved["step"]:
        return None
    if saved["step"] < run.total_steps:
        return None
    advice = how_to_train_on(settings.by_new_names(saved["config"]), folder)
    if difference is not None:
        advice += (
            "; its images have changed since, and its summary is of the earlier ones"
        )
    return monitor.repeat_summary(summary, folder, run.method.notes, advice)


def _traces(folder: Path) -> list[str]:
    """Returns what shows that a run with checkpoints has been in a workdir."""
    return traces_in(folder, TRACES) + ([FILE] if is_marked(folder) else [])


def _step_of(facts: dict[str, Any] | None) -> int | None:
    return facts and facts["step"]
