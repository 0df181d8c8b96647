"""A run's claim to its workdir: made and tried out before the first step is taken."""

import itertools
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import check_folder, not_writable, reason
from invariance_propagation.store.checkpoint import FOLDER, Checkpoints
from invariance_propagation.store.lock import Lock

KEY = "--workdir"
# No number, as the name of a checkpoint is, so nobody takes it for one.
PROBE = ".probe"


def look_at(folder: Path) -> None:
    """Raises UserError where the run could not write its checkpoints; makes nothing.

    A run asks before it reads the data, which may take hours.
    """
    check_folder(folder / FOLDER, key=KEY)


def enter(folder: Path, lock: Lock) -> None:
    """Makes a workdir and takes its lock.

    Raises:
      UserError: another run is in it, or nothing can be made there.
    """
    look_at(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise not_writable(folder, error, key=KEY) from error


def claim(folder: Path, files: Sequence[str]) -> None:
    """Makes a workdir, and tries out whether checkpoints and files can be kept in it.

    Writes a small checkpoint beside the place of the real ones, reads it back by the
    same code, and removes it. What is left of an earlier claim, which was killed, is
    removed first.

    Args:
      folder: the workdir, absolute.
      files: names of those that the run will write in it.

    Raises:
      UserError: something cannot be written or read, with the system's reason.
    """
    probe = folder / FOLDER / PROBE
    look_at(folder)
    try:
        probe.parent.mkdir(parents=True, exist_ok=True)
        if probe.exists():
            shutil.rmtree(probe)
        for name in files:
            _check_file(folder / name)
        check_folder(folder, key=KEY)
        _check_checkpoint(probe)
        shutil.rmtree(probe)
    except OSError as error:
        raise not_writable(folder, error, key=KEY) from error
    except TrainingError as error:  # of the small checkpoint
        raise not_writable(folder, error.__cause__ or error, key=KEY) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def traces_in(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns which of these are there: a file with content, a folder of checkpoints."""
    return [name for name in names if _is_trace(folder / name)]


def _is_trace(path: Path) -> bool:
    if path.is_dir():
        # A second damaged checkpoint of step 5 is 5_, a save that was killed no number.
        return any(name.rstrip("_").isdigit() for name in os.listdir(path))
    return path.exists() and path.stat().st_size > 0


def move_aside(folder: Path, names: Sequence[str]) -> Path:
    """Moves what is there of `names` into a new folder of the workdir; returns that.

    Raises:
      UserError: it cannot be moved, with the system's reason.
    """
    numbers = itertools.count(1)
    place = next(
        path for n in numbers if not (path := folder / f"replaced_{n}").exists()
    )
    try:
        place.mkdir()
        for name in names:
            if (folder / name).exists():
                (folder / name).rename(place / name)
    except OSError as error:
        raise not_writable(folder, error, key=KEY) from error
    return place


def _check_file(path: Path) -> None:
    """Raises OSError or UserError unless a file can take this place."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise UserError(
            f"{KEY}: {path} is no file, and the run writes one there: move it"
        )
    with path.open("rb"):
        pass


def _check_checkpoint(place: Path) -> None:
    state = {"probe": np.arange(6, dtype=np.float32).reshape(3, 2)}
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    checkpoints = Checkpoints(place, keep=1)
    try:
        checkpoints.save(0, state, {})
        checkpoints.finish()
        try:
            checkpoints.read(0, target)
        except Exception as error:
            raise UserError(
                f"{KEY}={place}: a checkpoint that was written there cannot be read "
                f"back ({reason(error)}): name another place"
            ) from error
    finally:
        checkpoints.close()
