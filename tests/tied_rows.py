"""Rows of similarities that are not kind to a search."""

import numpy as np


def rows(kind: str, columns: int) -> np.ndarray:
    """float32 [5, columns] of a distribution that is not kind to interpolation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, columns))
    return {
        "normal": x,
        "grid": np.round(4 * x) / 4,
        "equal": np.zeros_like(x),
        "two values": np.sign(x),
        "near zero": x * 1e-39,
        "far apart": x * 10.0 ** rng.integers(-30, 30, x.shape),
        "sorted": np.sort(x, axis=1),
        "one outlier": np.where(np.arange(columns) == 3, 1e30, x),
    }[kind].astype(np.float32)


KINDS = (
    "normal",
    "grid",
    "equal",
    "two values",
    "near zero",
    "far apart",
    "sorted",
    "one outlier",
)
