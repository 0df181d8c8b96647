"""Data sets of TFDS: found on disk, or prepared on first use, and read by record.

Reading them needs no TensorFlow; preparing one does, in a separate process.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from invariance_propagation.data.dataset import Dataset
from invariance_propagation.data.sources.tfds import prepare
from invariance_propagation.data.sources.tfds.splits import open_set
from invariance_propagation.errors import TrainingError, UserError
from invariance_propagation.files.paths import local, reason
from invariance_propagation.signals import undone_at_end

TFDS = "tfds:"
FOLDER_KEY = "--config.data.folder"
# TensorFlow would take all of a GPU's memory, and it prints a lot.
QUIET_TENSORFLOW = {
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


class TfdsSet(NamedTuple):
    """Loads one data set of TFDS when it is called.

    Attributes:
      name: of the set in TFDS, with its config.
      train: the split to train on.
    """

    name: str
    train: str = "train"

    def __call__(
        self,
        folder: str,
        *,
        split: str = "",
        size: int = 224,
        stretch_depth: bool = False,
    ) -> Dataset:
        """Loads the set, and prepares it first if it is not on disk.

        The arguments are those of `sources.load`.

        Raises:
          UserError: the set cannot be found, prepared or read.
          TrainingError: one of its pictures is damaged.
        """
        root = _root(folder)
        if folder and not root.is_dir():  # a typing mistake must not start a download
            raise UserError(
                f"there is no folder {root}: make it, or name the folder that holds "
                f"TFDS's sets ({FOLDER_KEY}=DIR)"
            )
        place = find(self.name, root)
        if place is None:
            _prepare(self.name, root)
            place = find(self.name, root)
        with damage_named(place):
            return open_set(
                place, split or self.train, size=size, stretch_depth=stretch_depth
            )

    def is_prepared(self, folder: str) -> bool:
        """Returns whether the set is on disk, so that nothing would be downloaded."""
        return find(self.name, _root(folder)) is not None


@contextlib.contextmanager
def damage_named(place: object) -> Iterator[None]:
    """Turns what TFDS and its readers raise about damaged files into a UserError."""
    try:
        yield
    except (UserError, TrainingError):
        raise
    except Exception as error:
        raise UserError(
            f"{place} cannot be read ({reason(error)}): if its files are damaged, move "
            "them away, so that TFDS prepares them anew"
        ) from error


def find(name: str, root: Path) -> Path | None:
    """Returns the folder of a prepared set's newest version; None if there is none."""
    folders = [path.parent for path in (root / name).glob("*.*.*/dataset_info.json")]
    versions = {
        tuple(map(int, path.name.split("."))): path
        for path in folders
        if path.name.replace(".", "").isdecimal()
    }
    return versions[max(versions)] if versions else None


def _root(folder: str) -> Path:
    # Imported here: it takes half a second, and other sources do not need it.
    import tensorflow_datasets as tfds

    return local(folder or tfds.core.constants.DATA_DIR, key=FOLDER_KEY)


def _prepare(name: str, root: Path) -> None:
    print(f"{name} is not in {root} yet: TFDS downloads and prepares it, once")
    process = subprocess.Popen(
        # Run as a script, Python would look for modules in its folder first.
        [sys.executable, "-P", prepare.__file__, name, str(root)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET_TENSORFLOW,
        start_new_session=True,  # a terminal's Ctrl-C is for this process
    )
    with process, undone_at_end(process.kill):
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        reason = " ".join(output.split()) or f"status {process.returncode}"
        raise UserError(
            f"TFDS could not prepare {name} in {root} (if it is stored elsewhere, name "
            f"the folder that holds it: {FOLDER_KEY}=DIR): {reason[:600]}"
        )
