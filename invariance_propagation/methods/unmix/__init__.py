"""Un-Mix (Shen, Liu, Liu, Savvides, Darrell, Xing; AAAI 2022, arXiv 2003.05438)."""

from invariance_propagation.methods.unmix.method import unmix

__all__ = ["unmix"]
