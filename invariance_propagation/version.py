"""Holds the package's version, where the build can read it without importing JAX."""

import importlib.metadata
import platform

__version__ = "0.1.0"
LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of everything that affects the numbers of a run."""
    return {
        "invariance-propagation": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }
