"""The method's mathematics: arrays in, arrays out, JAX and NumPy alone."""

from invariance_propagation.core.bank import init_bank, update_bank
from invariance_propagation.core.graph import (
    distinct,
    init_graph,
    propagate,
    update_graph,
)
from invariance_propagation.core.objective import Losses, invp_losses

__all__ = [
    "Losses",
    "distinct",
    "init_bank",
    "init_graph",
    "invp_losses",
    "propagate",
    "update_bank",
    "update_graph",
]
