"""Saves a state only after a further step has shown that it is sound.

A step can break the weights and still report a finite loss, because the loss was computed
before the update. So a state waits on the host until the loss of the next step is known.
If no step follows, as at the end of a run, one is taken and its result thrown away.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.devices import processes
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import leaves_of
from invariance_propagation.store.lock import Lock
from invariance_propagation.train.averages import NotFinite, Window
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState


class Waiting(NamedTuple):
    """Holds a state on the host that is to be written, with its facts."""

    step: int
    state: Any
    facts: dict[str, Any]


class Saver:
    """Writes checkpoints of a run, each after a step has been taken from it."""

    def __init__(self, run: Run, checkpoints: Checkpoints, lock: Lock):
        self._run, self._checkpoints, self._lock = run, checkpoints, lock
        self._waiting: Waiting | None = None

    @property
    def holds(self) -> bool:
        """Returns whether a state waits to be written."""
        return self._waiting is not None

    def hold(self, step: int, state: TrainState, facts: dict[str, Any]) -> None:
        """Copies a state to the host, to be written by `write`.

        Args:
          step: the number of steps taken.
          state: on the devices; the next step may donate it.
          facts: as for `Checkpoints.save`.

        Raises:
          NotFinite: the state has NaN or infinity.
        """
        run = self._run
        host_state = run.runner.fetch(state, run.spec, run.num_examples)
        check_finite(step, host_state)
        self._waiting = Waiting(step, host_state, facts)

    def write(self) -> None:
        """Starts to write the waiting state, if there is one.

        Call this once the loss of the next step is known to be finite.

        Raises:
          TrainingError: the state cannot be written, or another run has the workdir.
        """
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            processes.from_first(self._save, *waiting)
            if not processes.is_first():
                self._checkpoints.on_disk = waiting.step

    def _save(self, *waiting: Any) -> None:
        self._lock.check()
        self._checkpoints.save(*waiting)

    def try_and_write(self, state: TrainState, batch: tuple) -> TrainState:
        """Tries the waiting state by one more step, writes it, and waits for the disk.

        Args:
          state: the waiting state, on the devices; donated.
          batch: the arguments of any step after the state.

        Returns:
          The state as it was, on the devices.

        Raises:
          NotFinite: the step's loss is not finite.
          TrainingError: the state cannot be written.
        """
        waiting = self._waiting
        try_step(self._run, waiting.step, state, batch)
        self.write()
        processes.from_first(self._checkpoints.finish)
        return self._run.runner.put(waiting.state, self._run.spec)


def try_step(run: Run, step: int, state: TrainState, batch: tuple) -> None:
    """Takes a step and throws its result away.

    Args:
      run: the run of the state.
      step: the number of steps taken, at least 1; the last one made the state.
      state: on the devices; donated.
      batch: the arguments of any step after the state.

    Raises:
      NotFinite: the loss is not finite; blames the step that made the state.
    """
    _, metrics = run.step(state, *batch)
    tried = Window()
    tried.add(step, metrics)
    try:
        tried.settle()
    except NotFinite as error:
        after = {f"{name} after it": x for name, x in error.values.items()}
        raise NotFinite(step - 1, after) from error


def check_finite(step: int, state: Any) -> None:
    """Raises NotFinite for the first array of a state that has NaN or infinity.

    Args:
      step: the number of steps taken, at least 1; the last one made the state.
      state: pytree of NumPy arrays.
    """
    for name, leaf in leaves_of(state).items():
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            # NumPy does not count bfloat16 among its floating types.
            broken = ~np.isfinite(leaf.astype(np.float32, copy=False))
            if broken.any():
                raise NotFinite(step - 1, {name: float(leaf[broken][0])})
