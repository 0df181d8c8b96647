"""Keeps results between runs, in the user's cache folder."""

import contextlib
import os
from pathlib import Path

import numpy as np

from invariance_propagation.files.archives import open_arrays
from invariance_propagation.files.atomic import draft_of


def cache_path(name: str) -> Path:
    """Returns the path that a name has in the cache; its folder may not exist."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "invariance_propagation" / name


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file; {} if it is missing or damaged."""
    try:
        with open_arrays(path) as arrays:
            return {name: arrays[name] for name in arrays.names}
    except Exception:  # zipfile and NumPy raise nearly everything
        return {}


def keep_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays to an .npz file; if that fails, the next run computes them again."""
    with contextlib.suppress(OSError), draft_of(path) as draft:
        with draft.open("wb") as file:
            np.savez(file, **arrays)
