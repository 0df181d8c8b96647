"""Self-supervised methods, each behind the contract of `methods.base`."""

import importlib
from collections.abc import Callable

from invariance_propagation.errors import UserError
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
from invariance_propagation.methods.invp import invariance_propagation

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
    "invariance_propagation",
    "part_of",
]

METHODS = {"invariance_propagation": invariance_propagation}


def find_method(name: str) -> Callable[..., Method]:
    """What makes a method of its options.

    Args:
      name: of ours, or 'MODULE:FUNCTION' for one of your own.

    Raises:
      UserError: there is none of this name.
    """
    if name in METHODS:
        return METHODS[name]
    module, _, function = name.partition(":")
    if not function:
        raise UserError(
            f"method.name={name!r}: choose one of {', '.join(METHODS)}, or "
            "'MODULE:FUNCTION' for a method of your own"
        )
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"method.name={name!r}: {error}") from error
