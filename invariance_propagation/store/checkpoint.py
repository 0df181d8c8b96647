"""Checkpoints: everything that the next step depends on, written by Orbax.

A checkpoint holds host copies in global shapes, without padding rows, so any number of
devices can restore it. Facts about the run stand beside the state; see `facts`.
"""

import contextlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import plain, reason, remedy
from invariance_propagation.store.damage import check_machine
from invariance_propagation.store.facts import (
    check_contents,
    check_shapes,
    describe_arrays,
    digest_of_facts,
    read_facts,
    single_process,
    unpack_ids,
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

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts to write a checkpoint; returns once the caller may change the arrays.

        Args:
          step: steps done.
          state: pytree of NumPy arrays.
          facts: JSON about the run.

        Raises:
          TrainingError: this or the previous save failed; the message names its step.
        """
        self._check_folder()
        self.finish()
        facts = facts | {"step": step, "arrays": describe_arrays(state)}
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

    def finish(self) -> None:
        """Waits until everything is on disk.

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

    def sample_ids(self) -> list[str] | None:
        """Returns the source's name of each row's image; None if it has no names."""
        facts = self.facts() or {}
        packed = facts.get("sample_ids")
        return packed and unpack_ids(packed, count=facts.get("num_examples"))

    def restore(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest checkpoint that is whole.

        Skips checkpoints that cannot be decoded or do not match their checksums. If an
        older checkpoint is whole, the damaged ones are moved to `damaged_checkpoints`
        with a warning; otherwise nothing is moved.

        Args:
          target: pytree of jax.ShapeDtypeStruct, or a function from the facts of a
            checkpoint to that.

        Returns:
          Step, state as NumPy arrays, and facts; None if there is no checkpoint.

        Raises:
          UserError: an array has another shape, as after a change of the network.
          NoneWhole: there are checkpoints, and all are damaged.
          TrainingError: the machine cannot read one now.
        """
        damaged: dict[int, str] = {}
        for step in steps_in(self.workdir):
            try:
                state, facts = self.read(step, target)
            except UserError:
                raise
            except Exception as error:
                check_machine(error, self.folder / str(step))
                damaged[step] = reason(error)
                continue
            for damaged_step, why in damaged.items():
                self._set_aside(damaged_step, why)
            self.newest = self.on_disk = step
            return step, state, facts
        if damaged:
            step, why = next(iter(damaged.items()))
            raise NoneWhole(
                f"no checkpoint in {self.folder} is whole (step {step}: {why})"
            )
        return None

    def read(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """Reads and checks one checkpoint; moves nothing.

        Args:
          step: of the checkpoint.
          target: as for `restore`.

        Returns:
          State as NumPy arrays, and facts.

        Raises:
          UserError: an array has another shape.
          Exception: the checkpoint cannot be read, or has changed since it was written.
        """
        facts = read_facts(self.folder / str(step))
        target = target(facts) if callable(target) else target
        check_shapes(facts["arrays"], target, step)
        # NumPy leaves make Orbax return NumPy arrays, whatever devices wrote them.
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = self._open().restore(step, args=args).state
        check_contents(facts["arrays"], state)
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

    def _set_aside(self, step: int, why: str) -> None:
        logging.warning(
            "checkpoint of step %d is damaged (%s); moved to %s, trying the one before",
            step,
            why,
            self.workdir / DAMAGED,
        )
        self.close()
        place = self.workdir / DAMAGED / str(step)
        try:
            place.parent.mkdir(exist_ok=True)
            while place.exists():
                place = place.with_name(place.name + "_")
            (self.folder / str(step)).rename(place)
        except OSError as error:
            raise TrainingError(
                f"{self.folder / str(step)} is damaged, and cannot be moved to {place} "
                f"({reason(error)}): move it away, and run the same command again"
            ) from error

    def _check_folder(self) -> None:
        """Raises TrainingError if somebody has removed the folder since the last save.

        Orbax would create it again, and the run would continue without its old checkpoints.
        """
        if self._manager is None:
            return
        try:
            there = stat.S_ISDIR(os.stat(self.folder).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError:  # the machine may have recovered by the next save
            return
        if not there:
            self._has_failed = True
            raise TrainingError(
                f"{self.folder} is gone: it was removed or replaced while the run was "
                "writing to it; put it back, and run the same command to continue from "
                "what is in it"
            )

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
