"""Weights and images that are the same wherever they are drawn."""

import numpy as np


def trained_like(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Weights that are neither 0 nor 1, the same wherever they are drawn."""
    random = np.random.RandomState(0)  # NumPy promises its stream
    weights = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith("num_batches_tracked"):
            x = np.int64(1000)
        elif len(shape) > 1:
            x = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith(("running_mean", "bias")):
            x = 0.2 * random.standard_normal(shape)
        elif name.endswith("running_var"):
            x = random.uniform(0.5, 1.5, shape)
        else:
            # As small as training makes them: features come out of order 1.
            x = random.uniform(0.1, 0.6, shape)
        weights[name] = np.asarray(x, np.int64 if np.ndim(x) == 0 else np.float32)
    return weights


def fixed_images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """float32 [count, channels, size, size]."""
    images = np.random.RandomState(1).standard_normal((count, channels, size, size))
    return images.astype(np.float32)
