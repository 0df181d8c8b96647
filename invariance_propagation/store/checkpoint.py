"""Checkpoints: everything that the next step depends on, written by Orbax.

A checkpoint holds host copies in global shapes, without padding rows, so any number of
devices can restore it. Facts about the run stand beside the state; see `facts`.
"""

import contextlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import plain, reason, remedy
from invariance_propagation.store.damage import check_machine, check_there, set_aside
from invariance_propagation.store.facts import (
    check_contents,
    check_shapes,
    describe_arrays,
    digest_of_facts,
    read_facts,
    single_process,
)
from invariance_propagation.store.rows import (
    describe_rows,
    fill_rows,
    folder_of,
    forget_rows,
    paths_of,
    to_read,
)

FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"


class NoneWhole(TrainingError):
    """Reports that there are checkpoints, and all of them are damaged."""


class Checkpoints:
    """Saves and restores the checkpoints of one workdir.

    Creates nothing before the first save.

    Attributes:
      workdir, folder: absolute paths of the workdir and of the checkpoints in it.
      newest: int, the step restored or last handed to Orbax; None before that.
      on_disk: the same, once all of it is written.
      unread: by step, why `facts` skipped a checkpoint when it looked last.
    """

    def __init__(self, workdir: str | Path, *, keep: int):
        self.workdir = Path(workdir).absolute()  # as Orbax wants it
        self.folder = self.workdir / FOLDER
        self._keep = keep
        self.newest: int | None = None
        self.on_disk: int | None = None
        self.unread: dict[int, str] = {}
        self._has_failed = False
        self._manager: ocp.CheckpointManager | None = None
        self._plain = contextlib.ExitStack()

    def save(
        self, step: int, state: Any, facts: dict[str, Any], rows: Sequence = ()
    ) -> None:
        """Starts to write a checkpoint; returns once the caller may change the arrays.

        Args:
          step: steps done.
          state: pytree of NumPy arrays; None for arrays whose rows are in files.
          facts: JSON about the run.
          rows: what `write_rows` returned in all processes.

        Raises:
          TrainingError: this or the previous save failed; the message names its step.
        """
        self._check_folder()
        self.finish(pending=[step])
        arrays = describe_arrays(state) | describe_rows(rows)
        facts = facts | {"step": step, "arrays": arrays}
        stored = {"facts": facts, "digest": digest_of_facts(facts)}
        try:
            saved = self._open().save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), facts=ocp.args.JsonSave(stored)
                ),
            )
        except Exception as error:
            raise self._failed(step, error) from error
        self.newest = step
        if not saved:
            raise TrainingError(
                f"the checkpoint of step {step} could not be written to {self.folder}: "
                f"step {self._open().latest_step()} is there; choose another --workdir"
            )

    def finish(self, *, pending: Sequence[int] = ()) -> None:
        """Waits until everything is on disk, and removes rows without a checkpoint.

        Args:
          pending: steps whose rows are written, and their checkpoint is not yet.

        Raises:
          TrainingError: a save failed in the background.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(self.newest, error) from error
        self.on_disk = self.newest
        forget_rows(self.folder, keep=[*pending, *steps_in(self.workdir)])

    def check(self) -> None:
        """Checks without waiting whether the last save failed.

        Raises:
          TrainingError: it failed in the background, or the folder is gone.
        """
        if self._manager is None:
            return
        self._check_folder()
        if self.on_disk != self.newest and not self._manager.is_saving_in_progress():
            self.finish()

    def close(self) -> None:
        """Waits until everything is on disk, and closes Orbax's manager.

        Raises:
          TrainingError: a save failed in the background.
        """
        manager, self._manager = self._manager, None
        with self._plain:
            try:
                if manager is not None:
                    manager.close()
            except Exception as error:
                if not self._has_failed:  # otherwise the failure was reported
                    raise self._failed(self.newest, error) from error

    def facts(self) -> dict[str, Any] | None:
        """Returns the facts of the newest checkpoint whose facts are whole, or None.

        Raises:
          TrainingError: the machine cannot read them now.
        """
        self.unread = {}
        for step in steps_in(self.workdir):
            try:
                return read_facts(self.folder / str(step))
            except Exception as error:
                check_machine(error, self.folder / str(step))
                self.unread[step] = reason(error)
        return None

    def restore(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Finds the newest checkpoint that is whole, as `find` does, and settles on it."""
        damaged: dict[int, str] = {}
        found = self.find(target, damaged)
        if found is not None:
            self.settle(found[0], damaged)
        return found

    def find(
        self, target: Any, damaged: dict[int, str], *, rows: Any = True
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest checkpoint that can be decoded and matches its checksums.

        Args:
          target, rows: as for `read`.
          damaged: why checkpoints are not whole, by step; these are not read, and others
            are added.

        Returns:
          Step, state as NumPy arrays, and facts; None if there is no checkpoint.

        Raises:
          UserError: an array has another shape, as after a change of the network.
          NoneWhole: there are checkpoints, and all are damaged.
          TrainingError: the machine cannot read one now.
        """
        for step in steps_in(self.workdir):
            if step in damaged:
                continue
            try:
                return step, *self.read(step, target, rows=rows)
            except UserError:
                raise
            except Exception as error:
                check_machine(error, self.folder / str(step))
                damaged[step] = reason(error)
        if damaged:
            step, why = max(damaged.items())
            where = f"no checkpoint in {self.folder} is whole"
            raise NoneWhole(f"{where} (step {step}: {why})")
        return None

    def settle(self, step: int, damaged: Mapping[int, str]) -> None:
        """Takes a checkpoint for the newest; moves damaged ones to `damaged_checkpoints`.

        Raises:
          TrainingError: one cannot be moved.
        """
        aside = self.workdir / DAMAGED
        for number, why in damaged.items():
            logging.warning(
                f"checkpoint of step {number} is damaged ({why}); moved to {aside}, "
                "trying the one before"
            )
            self.close()
            set_aside(paths_of(self.folder, number), aside)
        self.newest = self.on_disk = step

    def read(
        self, step: int, target: Any, *, rows: Any = True
    ) -> tuple[Any, dict[str, Any]]:
        """Reads and checks one checkpoint; moves nothing.

        Args:
          step: of the checkpoint.
          target: pytree of jax.ShapeDtypeStruct, or a function from the facts of a
            checkpoint to that.
          rows: whether to read arrays whose rows are in files, instead of leaving None in
            their place; or a function from the facts to that.

        Returns:
          State as NumPy arrays, and facts.

        Raises:
          UserError: an array has another shape.
          Exception: the checkpoint cannot be read, or has changed since it was written.
        """
        facts = read_facts(self.folder / str(step))
        target = target(facts) if callable(target) else target
        check_shapes(facts["arrays"], target, step)
        args = ocp.args.StandardRestore(to_read(target, facts["arrays"]))
        restored = self._open().restore(step, args=ocp.args.Composite(state=args))
        state = restored.state
        check_contents(facts["arrays"], state)
        if callable(rows):
            rows = rows(facts)
        if rows:
            state = fill_rows(state, folder_of(self.folder, step), facts["arrays"])
        return state, facts

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self._plain.enter_context(plain(self.folder)),
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    cleanup_tmp_directories=True,
                    create=False,
                    multiprocessing_options=single_process(),
                ),
            )
        return self._manager

    def _check_folder(self) -> None:
        try:
            if self._manager is not None:
                check_there(self.folder)
        except TrainingError:
            self._has_failed = True
            raise

    def _failed(self, step: int | None, error: Exception) -> TrainingError:
        self._has_failed = True
        which = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        return TrainingError(
            f"{which} could not be written to {self.folder} ({reason(error)}): "
            f"{remedy(error)}"
        )


def steps_in(workdir: Path) -> list[int]:
    """Lists the steps of a workdir's checkpoints, newest first.

    Raises:
      TrainingError: the machine cannot list the folder of the checkpoints now.
    """
    folder = workdir / FOLDER
    try:
        # A save that was killed leaves a name that is not a number.
        names = [x for x in os.listdir(folder) if re.fullmatch("0|[1-9][0-9]*", x)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TrainingError(
            f"{folder} cannot be read ({reason(error)}): fix that, and run it again"
        ) from error
    return sorted(map(int, names), reverse=True)
