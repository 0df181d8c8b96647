"""Invariance Propagation in JAX: the public names."""

from invariance_propagation.bank import init_bank, update_bank
from invariance_propagation.methods.invp import Losses, invp_losses
from invariance_propagation.propagation import (
    distinct,
    init_graph,
    propagate,
    update_graph,
)

__version__ = "0.1.0"
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
