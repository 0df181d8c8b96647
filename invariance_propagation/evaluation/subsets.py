"""Which images have their label: a few per class, fixed by a seed."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from invariance_propagation.errors import printable
from invariance_propagation.files.atomic import draft_of

FOLDER = "label_lists"


def draw_share(labels: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """ceil(share * n_c) images of each class c, as the released code draws them.

    Args:
      labels: int [n].
      share: above 0 and up to 1.
      seed: fixes the draw, for these labels.

    Returns:
      int [m], indices in ascending order.
    """
    sizes = np.bincount(labels)
    # 0.1 * 30 is a little above 3.
    counts = {c: math.ceil(round(share * n, 9)) for c, n in enumerate(sizes) if n}
    order = shuffled(len(labels), seed=seed)
    chosen = [order[labels[order] == c][:count] for c, count in counts.items()]
    return np.sort(np.concatenate(chosen))


def shuffled(count: int, *, seed: int) -> np.ndarray:
    """The numbers below `count` in an order that the seed fixes for good."""
    # NumPy may change its permutation, but not the bits of Philox.
    bits = np.random.Philox(key=seed).random_raw(count)
    return np.argsort(bits, kind="stable")


def list_digest(indices: Sequence[int]) -> str:
    """Names a list of images, 16 hex digits of SHA-256."""
    text = "\n".join(map(str, indices))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_list(
    indices: np.ndarray, ids: Sequence[str] | None, folder: Path, name: str
) -> Path:
    """Keeps which images were used: an index a line, then its name if it has one."""
    path = folder / FOLDER / f"{name}-{list_digest(indices.tolist())}.txt"
    if not path.exists():
        names = ["" if ids is None else f" {printable(ids[int(i)])}" for i in indices]
        lines = [f"{i}{name}\n" for i, name in zip(indices, names, strict=True)]
        with draft_of(path) as draft:
            draft.write_text("".join(lines), encoding="utf-8")
    return path
