"""Invariance Propagation in JAX: the public names."""

from invariance_propagation.core.bank import init_bank, update_bank
from invariance_propagation.core.graph import (
    distinct,
    init_graph,
    propagate,
    update_graph,
)
from invariance_propagation.core.objective import Losses, invp_losses
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
