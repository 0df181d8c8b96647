"""CoKe, online constrained k-means (Qian et al.; CVPR 2022, arXiv 2105.11527)."""

from invariance_propagation.methods.coke.memory import Memory
from invariance_propagation.methods.coke.method import coke

__all__ = ["Memory", "coke"]
