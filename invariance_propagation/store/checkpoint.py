"""Checkpoints: all that the next step depends on, written by Orbax.

A checkpoint holds host copies in global shapes, without the rows that pad them, so
that any number of devices can restore it. Beside the state lie facts about
the run and a CRC-32 per array, because Orbax returns a flipped bit unnoticed.
"""

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import plain, reason, remedy
from invariance_propagation.store.damage import check_machine

FOLDER = "checkpoints"
DAMAGED = "damaged_checkpoints"
MAX_IDS_BYTES = 2**30  # a thousand of each of a million images


class NoneWhole(TrainingError):
    """There are checkpoints, and all of them are damaged."""


class Checkpoints:
    """The checkpoints of one workdir; nothing is created before the first save."""

    def __init__(self, workdir: str | Path, *, keep: int):
        # Orbax wants an absolute path.
        self.workdir = Path(workdir).absolute()
        self.folder = self.workdir / FOLDER
        self._keep = keep
        self.newest: int | None = None  # step that was restored, or handed to Orbax
        self.on_disk: int | None = None  # the same, once all of it is written
        self._has_failed = False
        self._manager: ocp.CheckpointManager | None = None
        self._plain = contextlib.ExitStack()

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Starts writing; returns once the arrays can change.

        Args:
          step: steps done.
          state: pytree of NumPy arrays of the caller's to keep.
          facts: JSON about the run, checked or read on restore.

        Raises:
          TrainingError: this or the previous save failed; it is named by its step.
        """
        self._check_folder()
        self.finish()
        arrays = leaves_of(state)
        known = {name: _describe(x) for name, x in arrays.items()}
        facts = facts | {"step": step, "arrays": known}
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
        """Looks at what became of the last save, and waits for nothing.

        Raises:
          TrainingError: it failed in the background, or the folder is not there any
            more.
        """
        if self._manager is None:
            return
        self._check_folder()
        if self.on_disk != self.newest and not self._manager.is_saving_in_progress():
            self.finish()

    def close(self) -> None:
        """Waits, and lets go of the folder.

        Raises:
          TrainingError: a save failed in the background.
        """
        manager, self._manager = self._manager, None
        with self._plain:
            try:
                if manager is not None:
                    manager.close()
            except Exception as error:
                if not self._has_failed:  # else it has been told
                    raise self._failed(self.newest, error) from error

    def facts(self) -> dict[str, Any] | None:
        """The facts of the newest checkpoint that has any; None without one.

        Raises:
          TrainingError: the machine cannot read them now.
        """
        for step in steps_in(self.workdir):
            try:
                return self._read_facts(step)
            except Exception as error:
                check_machine(error, self.folder / str(step))
                logging.debug("facts of step %d: %s", step, error)
        return None

    def sample_ids(self) -> list[str] | None:
        """What the source calls the image of each row; None where it has no names."""
        facts = self.facts() or {}
        if "sample_ids" not in facts:
            return None
        return unpack_ids(facts["sample_ids"], count=facts.get("num_examples"))

    def restore(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest checkpoint that is whole.

        One that is damaged, which its checksums or what cannot be decoded prove, is
        passed over. Once an older one turns out whole, the damaged ones are moved to
        `damaged_checkpoints` with a warning; otherwise nothing is moved.

        Args:
          target: pytree of jax.ShapeDtypeStruct; or a function that makes it of the
            facts of a checkpoint.

        Returns:
          Step, state as NumPy arrays, and facts; None without any checkpoint.

        Raises:
          UserError: an array of another shape, as after a change of the network.
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
            for other, why in damaged.items():
                self._set_aside(other, why)
            self.newest = self.on_disk = step
            return step, state, facts
        if damaged:
            newest, why = next(iter(damaged.items()))
            raise NoneWhole(
                f"no checkpoint in {self.folder} is whole (step {newest}: {why}); "
                "nothing was moved"
            )
        return None

    def read(self, step: int, target: Any) -> tuple[Any, dict[str, Any]]:
        """Reads and checks one checkpoint, and moves nothing.

        Args:
          step: of the checkpoint.
          target: as for `restore`.

        Returns:
          State as NumPy arrays, and facts.

        Raises:
          UserError: an array of another shape.
          Exception: it cannot be read, or is not what was written.
        """
        facts = self._read_facts(step)
        target = target(facts) if callable(target) else target
        _check_shapes(facts["arrays"], target, step)
        state = self._read_state(step, target)
        _check_contents(facts["arrays"], state)
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
                    multiprocessing_options=_alone(),
                ),
            )
        return self._manager

    def _read_facts(self, step: int) -> dict[str, Any]:
        return read_facts(self.folder / str(step))

    def _read_state(self, step: int, target: Any) -> Any:
        # NumPy leaves in the target make Orbax return NumPy arrays, wherever the
        # checkpoint was written.
        target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), target)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._open().restore(step, args=args).state

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
        """Raises TrainingError where somebody has removed the folder meanwhile.

        Orbax would make it again, and the run would go on without what was in it.
        """
        if self._manager is None:
            return
        try:
            there = stat.S_ISDIR(os.stat(self.folder).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except OSError:  # of the machine, which the next save may get over
            return
        if not there:
            self._has_failed = True
            raise TrainingError(
                f"{self.folder} is gone: it was removed or replaced while the run was "
                "writing to it; put it back, and run the same command to go on from "
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
    """Returns the steps that a workdir has checkpoints of, newest first.

    Raises:
      UserError: the folder of the checkpoints cannot be looked into.
    """
    folder = workdir / FOLDER
    try:
        # A save that was killed left a name that is no number.
        names = [name for name in os.listdir(folder) if name.isdigit()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({reason(error)}): mend that, or name another"
        ) from error
    return sorted(map(int, names), reverse=True)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of one checkpoint; nothing but these is read or touched.

    Args:
      folder: of the checkpoint. A name that is a number must be its step.

    Raises:
      ValueError: they are not what was written, or of another step.
      Exception: they cannot be read.
    """
    # Not by a manager, which clears away what another process is writing.
    stored = read_item(ocp.JsonCheckpointHandler(), folder / "facts")
    if "arrays" in stored:  # older ones have no digest
        facts = stored
    else:
        facts = stored.get("facts")
        if stored.get("digest") != digest_of_facts(facts):
            raise ValueError("its facts have changed since they were written")
    if folder.name.isdigit() and facts["step"] != int(folder.name):
        raise ValueError(f"it is the checkpoint of step {facts['step']}, renamed")
    return facts


def digest_of_facts(facts: Any) -> str:
    """SHA-256 of JSON, whatever the order of its keys."""
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_item(handler: ocp.CheckpointHandler, folder: Path, **options: Any) -> Any:
    """One item of a checkpoint; nothing but this is read or touched."""
    with (
        plain(folder) as place,
        ocp.Checkpointer(handler, multiprocessing_options=_alone()) as reader,
    ):
        return reader.restore(place, **options)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Whoever reads or writes does so alone: Orbax must not wait for other processes."""
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})


def pack_ids(ids: Sequence[str]) -> str:
    """Ids for `facts`: a million of TFDS's take some 3 MB, and 60 MB as they are."""
    return base64.b64encode(zlib.compress(os.fsencode("\0".join(ids)))).decode()


def unpack_ids(packed: str, *, count: int | None = None) -> list[str]:
    """The reverse.

    Args:
      packed: as from `pack_ids`.
      count: how many ids there must be; None where that is not known.

    Raises:
      TrainingError: there are others, or they take more than `MAX_IDS_BYTES`.
    """
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(base64.b64decode(packed), MAX_IDS_BYTES)
        if not unpacking.eof:
            raise ValueError(f"cut off, or more than {MAX_IDS_BYTES:,} bytes")
        # Counted before they are parted, which takes far more memory.
        if count is not None and text.count(b"\0") + 1 != count:
            raise ValueError(f"{text.count(0) + 1:,} for {count:,} images")
    except (ValueError, zlib.error) as error:
        raise TrainingError(
            f"the checkpoint's ids of its images are damaged ({error}): choose another"
        ) from error
    return os.fsdecode(text).split("\0")


def pack_checksums(checksums: np.ndarray) -> str:
    """uint32 [n] for `facts`: a million take 5.3 MB, as random bits cannot be packed."""
    return base64.b64encode(checksums.astype("<u4").tobytes()).decode()


def unpack_checksums(packed: str) -> np.ndarray:
    """The reverse."""
    return np.frombuffer(base64.b64decode(packed), "<u4")


def leaves_of(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by the names that facts have for them.

    A name is as in ".params['backbone']['stem_conv']['kernel']".
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


def path_of(name: str) -> tuple[str, ...]:
    """Returns the parts of a name of `leaves_of`."""
    return tuple(re.findall(r"\w+", name))


def _describe(x: np.ndarray) -> dict[str, Any]:
    return {"shape": list(x.shape), "dtype": str(x.dtype), "crc32": checksum(x)}


def checksum(x: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8))


def _check_shapes(arrays: dict[str, Any], target: Any, step: int) -> None:
    wanted = {name: list(x.shape) for name, x in leaves_of(target).items()}
    stored = {name: fact["shape"] for name, fact in arrays.items()}
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            raise UserError(
                f"the checkpoint of step {step} has {name} of shape "
                f"{stored.get(name)}, this config makes it {wanted.get(name)}: run "
                "with the config it was made with, or choose another --workdir"
            )


def _check_contents(arrays: dict[str, Any], state: Any) -> None:
    for name, x in leaves_of(state).items():
        if checksum(x) != arrays[name]["crc32"]:
            raise ValueError(
                f"the contents of {name} have changed since it was written"
            )
