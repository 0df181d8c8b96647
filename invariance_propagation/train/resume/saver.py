"""Saves a state only once a step taken from it has shown that it is sound.

A step can break the weights and still have a finite loss, which was computed before the
update. So a state waits on the host until the next step's loss is known, and is
written then. A state that no step follows, as at the end of a run, is tried by a step
whose result is thrown away.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.devices import processes
from invariance_propagation.store.checkpoint import Checkpoints, leaves_of
from invariance_propagation.train.averages import NotFinite, Window
from invariance_propagation.train.run import Run
from invariance_propagation.train.step import TrainState


class Waiting(NamedTuple):
    """A state on the host that is to be written, with its facts."""

    step: int
    state: Any
    facts: dict[str, Any]


class Saver:
    """Writes checkpoints of a run, each after a step has been taken from it."""

    def __init__(self, run: Run, checkpoints: Checkpoints):
        self._run, self._checkpoints = run, checkpoints
        self._waiting: Waiting | None = None

    @property
    def holds(self) -> bool:
        """Whether a state waits to be written."""
        return self._waiting is not None

    def hold(self, step: int, state: TrainState, facts: dict[str, Any]) -> None:
        """Copies a state to the host, to be written by `write`.

        Args:
          step: steps done.
          state: placed; the next step may donate it.
          facts: as for `Checkpoints.save`.

        Raises:
          NotFinite: an array of it has NaN or infinity.
        """
        run = self._run
        host_state = run.runner.fetch(state, run.spec, run.num_examples)
        check_finite(step, host_state)
        self._waiting = Waiting(step, host_state, facts)

    def write(self) -> None:
        """Starts to write the state that waits, if one does.

        To be called once the loss of the next step is known to be finite.

        Raises:
          TrainingError: it cannot be written.
        """
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            processes.from_first(self._checkpoints.save, *waiting)
            if not processes.is_first():
                self._checkpoints.on_disk = waiting.step

    def try_and_write(self, state: TrainState, given: tuple) -> TrainState:
        """Tries the state that waits by one more step, writes it, and waits for the disk.

        Args:
          state: the same, placed; donated.
          given: indices and images of any step, placed.

        Returns:
          The state as it was, placed.

        Raises:
          NotFinite: the step's loss is not finite.
          TrainingError: it cannot be written.
        """
        waiting = self._waiting
        try_step(self._run, waiting.step, state, given)
        self.write()
        processes.from_first(self._checkpoints.finish)
        return self._run.runner.put(waiting.state, self._run.spec)


def try_step(run: Run, step: int, state: TrainState, given: tuple) -> None:
    """Takes a step whose result is thrown away.

    Args:
      run: that the state is of.
      step: steps done, at least 1; the last of them made the state.
      state: placed; donated.
      given: indices and images of any step, placed.

    Raises:
      NotFinite: of the step that made the state, since the loss after it is not finite.
    """
    _, metrics = run.step(state, *given)
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
      step: steps done, at least 1; the last of them made the state.
      state: pytree of NumPy arrays.
    """
    for name, leaf in leaves_of(state).items():
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            # bfloat16 is no floating type to NumPy.
            broken = ~np.isfinite(leaf.astype(np.float32, copy=False))
            if broken.any():
                raise NotFinite(step - 1, {name: float(leaf[broken][0])})
