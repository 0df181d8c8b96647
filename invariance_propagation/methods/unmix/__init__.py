"""Un-Mix over another method, as unmix+METHOD (AAAI 2022, arXiv 2003.05438).

By Shen, Liu, Liu, Savvides, Darrell and Xing.
"""

from invariance_propagation.methods.unmix.method import unmix

__all__ = ["unmix"]
