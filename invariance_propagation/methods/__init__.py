"""Self-supervised methods, all behind the contract in `methods.base`."""

from invariance_propagation.methods.base import (
    Aux,
    Batch,
    Gallery,
    Method,
    Moment,
    Notes,
    Panel,
    Problem,
    Requires,
    Strip,
    part_of,
)
from invariance_propagation.methods.table import (
    METHODS,
    find_method,
    is_shipped,
    make_from,
    make_method,
)

__all__ = [
    "METHODS",
    "Aux",
    "Batch",
    "Gallery",
    "Method",
    "Moment",
    "Notes",
    "Panel",
    "Problem",
    "Requires",
    "Strip",
    "find_method",
    "is_shipped",
    "make_from",
    "make_method",
    "part_of",
]
