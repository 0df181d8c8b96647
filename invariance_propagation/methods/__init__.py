"""Self-supervised methods, each behind the contract of `methods.base`."""

from invariance_propagation.methods.base import Aux, Batch, Method
from invariance_propagation.methods.invp import invariance_propagation

__all__ = ["Aux", "Batch", "Method", "invariance_propagation"]
