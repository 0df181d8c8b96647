"""Tells damage of a checkpoint from trouble of the machine, and moves what is damaged."""

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import causes, reason

# Errors that damage explains: a file of the checkpoint is gone, or a folder instead.
OF_CONTENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
# What every run has noted about itself since the first version, with its type.
NOTED = {
    "step": int,
    "dataset": str,
    "num_examples": int,
    "batch_size": int,
    "digest": str,
    "config.seed": int,
    "config.augment.size": int,
    "config.data.name": str,
    "config.data.folder": str,
    "config.encoder": dict,
    "config.method": dict,
    "config.optimizer": dict,
    "config.train": dict,
}


def check_noted(facts: Mapping[str, Any], folder: Path) -> None:
    """Checks that the facts of a checkpoint are those of a run of this program.

    Their digest shows that nobody has changed them, but not who wrote them.

    Args:
      facts: as from `read_facts`.
      folder: of the checkpoint, for the message.

    Raises:
      UserError: a fact is missing, or has another type.
    """
    for name, kind in NOTED.items():
        value: Any = facts
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            said = "notes nothing" if value is None else f"notes {value!r:.60}"
            raise UserError(
                f"{folder}: this checkpoint {said} as {name} of its run, so this "
                "program did not write all of it: choose another"
            )


def check_files(folder: Path) -> None:
    """Checks that a checkpoint consists of files; opens none, which might wait for ever.

    Raises:
      ValueError: there is a pipe, a socket or a device.
      OSError: a folder cannot be listed, or a link leads nowhere.
    """
    for path in _files_in(folder):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path.relative_to(folder)} is a pipe, socket or device")


def check_there(folder: Path) -> None:
    """Raises TrainingError if somebody has removed a folder that a run writes to.

    Orbax would create it again, and the run would continue without its old checkpoints.
    """
    try:
        there = stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError:  # the machine may have recovered by the next save
        return
    if not there:
        raise TrainingError(
            f"{folder} is gone: it was removed or replaced while the run was writing to "
            "it; put it back, and run the same command to continue from what is in it"
        )


def check_machine(error: BaseException, folder: Path) -> None:
    """Raises TrainingError if the machine is why a checkpoint cannot be read.

    Args:
      error: the error that reading it raised.
      folder: of the checkpoint; all its files are read once more.
    """
    trouble = trouble_of_machine(error, folder)
    if trouble is not None:
        raise unreadable(str(folder), trouble) from error


def unreadable(what: str, trouble: str) -> TrainingError:
    """Makes the error that says why the machine cannot read a checkpoint."""
    return TrainingError(
        f"{what} cannot be read now ({trouble}); nothing was moved: fix that, and run "
        "the same command again"
    )


def trouble_of_machine(error: BaseException, folder: Path) -> str | None:
    """Returns the system's words if the machine is why a checkpoint cannot be read.

    A checkpoint is damaged if its files can be read, but content is missing, cut short or
    changed. Any other trouble passes and says nothing about the checkpoint: missing
    permission, too many open files, no memory, a failing disk or network.

    Takes the arguments of `check_machine`.
    """
    for cause in causes(error):
        if isinstance(cause, MemoryError):
            return str(cause) or "out of memory"
    # TensorStore hides these words in the long text of another type of error.
    words = reason(error)
    of_system = {os.strerror(x) for x in errno.errorcode if x not in OF_CONTENT}
    if words in of_system:
        return words
    try:
        _read_all(folder)
    except OSError as trouble:
        if trouble.errno not in OF_CONTENT:
            return reason(trouble)
    return None


def set_aside(paths: Sequence[Path], aside: Path) -> None:
    """Moves what belongs together into a folder, beside what lies there.

    Raises:
      TrainingError: something cannot be moved, with the system's reason.
    """
    suffix = ""
    while any((aside / (path.name + suffix)).exists() for path in paths):
        suffix += "_"
    for path in paths:
        place = aside / (path.name + suffix)
        try:
            aside.mkdir(exist_ok=True)
            path.rename(place)
        except OSError as error:
            raise TrainingError(
                f"{path} is damaged, and cannot be moved to {place} ({reason(error)}): "
                "move it away, and run the same command again"
            ) from error


def _read_all(folder: Path) -> None:
    """Raises OSError for the first file that cannot be read."""
    for path in _files_in(folder):
        if path.is_file():  # reading a FIFO would wait for ever
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass


def _files_in(folder: Path) -> Iterator[Path]:
    """Yields every file below a folder; raises OSError if a folder cannot be listed."""

    def stop(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=stop):
        yield from (Path(place) / name for name in names)
