"""Saves a state only after a further step has shown that it is sound.

A step can break the weights and still report a finite loss, because the loss was computed
before the update. So a state waits on the host until the loss of the next step is known.
If no step follows, as at the end of a run, one is taken and its result thrown away.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from invariance_propagation.devices import processes
from invariance_propagation.errors import TrainingError
from invariance_propagation.files.paths import writing
from invariance_propagation.parallel import SHARDED
from invariance_propagation.store.checkpoint import Checkpoints
from invariance_propagation.store.facts import leaves_of, map_named
from invariance_propagation.store.lock import Lock
from invariance_propagation.store.rows import (
    check_seen,
    folder_of,
    leave_out,
    write_rows,
)
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
        fetch = run.runner.fetch if run.gathers else run.runner.fetch_own
        host_state = fetch(state, run.spec, run.num_examples)
        broken = first_broken(host_state)
        if not run.gathers:  # each process has other rows
            broken = next(filter(None, processes.from_each(broken)), None)
        if broken:
            raise NotFinite(step - 1, broken)
        self._waiting = Waiting(step, host_state, facts)

    def write(self) -> None:
        """Starts to write the waiting state, if there is one.

        Call this once the loss of the next step is known to be finite.

        Raises:
          TrainingError: the state cannot be written, or another run has the workdir.
        """
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            rows = []
            if not self._run.gathers:
                waiting, rows = self._write_own(waiting)
            processes.from_first(self._save, *waiting, rows)
            if not processes.is_first():
                self._checkpoints.on_disk = waiting.step

    def _save(self, step: int, state: Any, facts: dict, rows: list) -> None:
        self._lock.check()
        check_seen(folder_of(self._checkpoints.folder, step), rows)
        self._checkpoints.save(step, state, facts, rows)

    def _write_own(self, waiting: Waiting) -> tuple[Waiting, list[dict[str, Any]]]:
        """Writes this process's rows; returns what is left, and the files of all."""
        folder = folder_of(self._checkpoints.folder, waiting.step)
        names = sharded_names(self._run.spec, waiting.state)
        leaves = leaves_of(waiting.state)
        own = {name: leaves[name] for name in leaves if name in names}
        rest = leave_out(names, waiting.state)
        try:
            with writing(folder):
                # Between steps, process 0 removes rows without a checkpoint, so all wait
                # until it is here.
                processes.from_first(self._lock.check)
                written = write_rows(
                    folder,
                    own,
                    process=jax.process_index(),
                    num_processes=jax.process_count(),
                    first=self._run.runner.own_rows(self._run.num_examples).start,
                )
            failure = ""
        except TrainingError as error:
            written, failure = [], str(error)
        told = processes.from_each((written, failure))
        for process, (_, failure) in enumerate(told):
            if failure:
                raise TrainingError(f"process {process}: {failure}")
        pieces = [piece for written, _ in told for piece in written]
        return waiting._replace(state=rest), pieces

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
        return put(self._run, waiting.state)


def put(run: Run, state: Any) -> TrainState:
    """Puts a state on the devices.

    Args:
      run: the run of the state.
      state: NumPy arrays; sharded ones with all rows or, unless the run gathers them,
        with those of this process.
    """
    if run.gathers:
        return run.runner.put(state, run.spec)
    own = run.runner.own_rows(run.num_examples)
    names = sharded_names(run.spec, state)

    def cut(name: str, x: np.ndarray) -> np.ndarray:
        return x[own] if name in names and len(x) == run.num_examples else x

    return run.runner.put_own(map_named(cut, state), run.spec, run.num_examples)


def sharded_names(spec: Any, state: Any) -> set[str]:
    """Returns the names, as in `leaves_of`, of the arrays that lie in shards.

    Args:
      spec: which parts of the state are sharded.
      state: pytree of arrays or their shapes.
    """
    of_leaf = jax.tree.map(
        lambda spec, part: jax.tree.map(lambda _: spec, part), spec, state
    )
    return {name for name, spec in leaves_of(of_leaf).items() if spec == SHARDED}


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


def first_broken(state: Any) -> dict[str, float] | None:
    """Returns the first NaN or infinity of a state by the name of its array, or None.

    Args:
      state: pytree of NumPy arrays.
    """
    for name, leaf in leaves_of(state).items():
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
            # NumPy does not count bfloat16 among its floating types.
            broken = ~np.isfinite(leaf.astype(np.float32, copy=False))
            if broken.any():
                return {name: float(leaf[broken][0])}
    return None
