"""Invariance Propagation in JAX: the public names.

They are imported when they are first used, because JAX takes a second, and --help of
the command line should not.
"""

import importlib
from typing import TYPE_CHECKING

from invariance_propagation.version import __version__

__all__ = [
    "Losses",
    "__version__",
    "distinct",
    "init_bank",
    "init_graph",
    "invp_losses",
    "propagate",
    "update_bank",
    "update_graph",
]

if TYPE_CHECKING:
    from invariance_propagation.core import (
        Losses,
        distinct,
        init_bank,
        init_graph,
        invp_losses,
        propagate,
        update_bank,
        update_graph,
    )
else:

    def __getattr__(name: str):
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.core"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
