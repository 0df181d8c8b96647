"""Draws the images that keep their labels: a few per class, decided by a seed."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invariance_propagation.errors import printable
from invariance_propagation.files.atomic import draft_of

FOLDER = "label_lists"


def draw_share(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Draws ceil(share * n_c) of the n_c images of each class c, as in the authors' code.

    Args:
      labels: int [n].
      share: above 0 and up to 1.
      seed: decides the draw, for the same labels.

    Returns:
      int [m], indices in ascending order. A smaller share draws a part of the images
      that a larger one draws by the same seed.
    """
    sizes = np.bincount(labels)
    # In floating point 0.1 * 30 is a little above 3.
    counts = {c: math.ceil(round(share * n, 9)) for c, n in enumerate(sizes) if n}
    order = shuffled(len(labels), seed=seed)
    chosen = [order[labels[order] == c][:count] for c, count in counts.items()]
    return np.sort(np.concatenate(chosen))


def shuffled(count: int, *, seed: int) -> np.ndarray:
    """Returns int [count], the numbers below `count` in an order decided by `seed`."""
    # NumPy may change how it permutes, but not the bits of Philox.
    bits = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(bits, kind="stable")


def list_digest(indices: Sequence[int]) -> str:
    """Returns 16 hex digits of SHA-256 that identify a list of images."""
    text = "\n".join(map(str, indices))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_list(
    indices: np.ndarray, ids: Sequence[str] | None, folder: Path, name: str
) -> Path:
    """Writes which images were used: an index per line, then the name if it has one."""
    path = folder / FOLDER / f"{name}-{list_digest(indices.tolist())}.txt"
    if not path.exists():
        names = ["" if ids is None else f" {printable(ids[int(i)])}" for i in indices]
        lines = [f"{i}{name}\n" for i, name in zip(indices, names, strict=True)]
        with draft_of(path) as draft:
            draft.write_text("".join(lines), encoding="utf-8")
    return path
