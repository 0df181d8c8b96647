"""Finds the point where a run begins or continues: its step, its state and its facts."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError
from invariance_propagation.phases import phase
from invariance_propagation.store.checkpoint import Checkpoints, NoneWhole
from invariance_propagation.store.claim import move_aside
from invariance_propagation.train import messages
from invariance_propagation.train.averages import Window
from invariance_propagation.train.resume.match import carry_over, stored_shapes
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
        restored = processes.from_first(
            _restore,
            place.checkpoints,
            lambda saved: stored_shapes(shapes(), facts, run, saved),
            run.options.start_over,
        )
    if restored is None:
        if start is not None:
            facts = facts | {"started_from": start.facts}
        with phase("making the network and the method's memory", messages.say):
            state = init_state(run, start and start[:2])
            jax.block_until_ready(state)
        return Point(0, state, Window(), facts, is_new=True)
    step, leaves, saved = restored
    arrays = jax.tree.unflatten(jax.tree.structure(shapes()), leaves)
    folder = place.checkpoints.workdir
    arrays, noted = carry_over(run, arrays, shapes(), facts, saved, folder)
    facts = facts | noted
    if "started_from" in saved:  # those weights may be gone by now
        facts = facts | {"started_from": saved["started_from"]}
    state = run.runner.put(arrays, run.spec)
    return Point(step, state, Window(**saved["window"]), facts, is_new=False)


def _restore(
    checkpoints: Checkpoints, shapes: Callable[[Any], Any], start_over: bool
) -> tuple[int, list[np.ndarray], dict[str, Any]] | None:
    """Reads step, leaves of the state and facts of the newest whole checkpoint."""
    try:
        restored = checkpoints.restore(shapes)
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
