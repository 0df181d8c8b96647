"""The table of self-supervised methods, all behind the contract in `methods.base`."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from invariance_propagation import settings
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
from invariance_propagation.methods.invariance_propagation import invariance_propagation

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
    "make_method",
    "part_of",
]

METHODS = {"invariance_propagation": invariance_propagation}


def make_method(config: Mapping[str, Any], problem: Problem) -> Method:
    """Makes the method that the config's section `method` names and sets up.

    Raises:
      UserError: there is no such method, or an option does not fit.
    """
    options = dict(config["method"])
    factory = find_method(options.pop("name"))
    return settings.call(factory, "method", {"method": options}, problem=problem)


def find_method(name: str) -> Callable[..., Method]:
    """Returns the function that makes a method from its options.

    Args:
      name: a key of `METHODS`, or 'MODULE:FUNCTION' for a method of your own.

    Raises:
      UserError: there is no method of this name.
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
