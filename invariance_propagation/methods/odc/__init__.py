"""Online Deep Clustering (Zhan, Xie, Liu, Ong, Loy; CVPR 2020, arXiv 2006.10645)."""

from invariance_propagation.methods.odc.method import odc
from invariance_propagation.methods.odc.options import Memory

__all__ = ["Memory", "odc"]
