"""Invariance Propagation (Wang, Liu, Guo, Sun; NeurIPS 2020, arXiv 2010.11694)."""

from invariance_propagation.methods.invariance_propagation.method import (
    Memory,
    invariance_propagation,
)

__all__ = ["Memory", "invariance_propagation"]
