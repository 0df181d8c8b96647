"""Claims a workdir for a run, and tries it out before the first step."""

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
# Names of checkpoints are numbers, so nothing takes this for a checkpoint.
PROBE = ".probe"


def check_place(folder: Path) -> None:
    """Raises UserError if the run could not write checkpoints; creates nothing.

    A run calls this before it reads the data, which may take hours.
    """
    check_folder(folder / FOLDER, key=KEY)


def enter(folder: Path, lock: Lock) -> None:
    """Creates a workdir and takes its lock.

    Raises:
      UserError: another run is using it, or nothing can be written there.
    """
    check_place(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise not_writable(folder, error, key=KEY) from error


def claim(folder: Path, files: Sequence[str]) -> None:
    """Creates a workdir, and tries out whether checkpoints and files can be kept in it.

    Writes a small checkpoint beside the place of the real ones, reads it back by the same
    code, and removes it. First removes what an earlier claim left when it was killed.

    Args:
      folder: the workdir, absolute.
      files: names of the files that the run will write in it.

    Raises:
      UserError: something cannot be written or read, with the system's reason.
    """
    probe = folder / FOLDER / PROBE
    check_place(folder)
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
    except TrainingError as error:  # from the small checkpoint
        raise not_writable(folder, error.__cause__ or error, key=KEY) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def traces_in(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns the names that exist: files with content, and folders of checkpoints."""
    return [name for name in names if _is_trace(folder / name)]


def _is_trace(path: Path) -> bool:
    if path.is_dir():
        # A second damaged checkpoint of step 5 is named 5_; a killed save, no number.
        return any(name.rstrip("_").isdigit() for name in os.listdir(path))
    return path.exists() and path.stat().st_size > 0


def move_aside(folder: Path, names: Sequence[str]) -> Path:
    """Moves those of `names` that exist into a new folder of the workdir.

    Returns:
      The new folder.

    Raises:
      UserError: something cannot be moved, with the system's reason.
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
    """Raises UserError unless a file can take this place."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(
                f"{KEY}: {path} is not a file, and the run writes a file there: move it"
            )
        with path.open("rb"):
            pass
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({reason(error)}): fix that, or name another place "
            f"by {KEY}"
        ) from error


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
