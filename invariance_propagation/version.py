"""Versions, where the build can read the package's without importing JAX."""

import importlib.metadata
import platform

__version__ = "0.1.0"
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of all that decides what numbers come out, by name."""
    return {
        "invariance-propagation": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
