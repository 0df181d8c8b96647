"""What is worth keeping between runs, in the user's cache folder."""

import contextlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from invariance_propagation.drafts import draft_of

UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def cache_path(name: str) -> Path:
    """Returns where something of that name is kept; the folder need not be there."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "invariance_propagation" / name


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a .npz file; {} where it is missing or damaged."""
    try:
        # NumPy leaves open a file that it opened and found damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except UNREADABLE:
        return {}


def keep_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes them; where that fails they are made anew next time."""
    with contextlib.suppress(OSError), draft_of(path) as draft:
        with draft.open("wb") as file:
            np.savez(file, **arrays)
