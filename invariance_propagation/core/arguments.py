"""Checks of what people give to the public functions.

Shapes and dtypes are checked always. Values are checked where they are known: inside of
`jit` and the maps over devices they are not, and there an id beyond the end is silently
another one.
"""

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from invariance_propagation.errors import UserError


def check_ids(
    name: str, ids: Any, *, ndim: int, below: int | None = None, unique: bool = False
) -> None:
    """Checks ids of images.

    Args:
      name: of the argument.
      ids: int, with `ndim` axes and at least one element; an array, or what NumPy makes
        one of.
      ndim: how many axes it must have.
      below: N; each id must be from 0 to N - 1. None: 0 or above.
      unique: whether no id may occur twice.

    Raises:
      ValueError: the first of these that does not hold, by the name of the argument.
    """
    ids = _array(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} is {ids.dtype}: give integers, the ids of images")
    _check_shape(name, ids, ndim)
    if isinstance(ids, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # a constant of a function that is traced
        least, largest = int(ids.min()), int(ids.max())
    if below is None and least < 0:
        raise ValueError(f"{name} holds the id {least}: ids are from 0 on")
    if below is not None and (least < 0 or largest >= below):
        wrong = least if least < 0 else largest
        raise ValueError(
            f"{name} holds the id {wrong}, but there are {below} images: ids are from 0 "
            f"to {below - 1}"
        )
    if unique:
        values, counts = np.unique(np.asarray(ids), return_counts=True)
        if counts.max() > 1:
            raise ValueError(
                f"{name} holds the id {values[counts.argmax()]} more than once: an "
                "image may be in a batch only once"
            )


def check_vectors(name: str, vectors: Any, *, like: tuple[int | None, int | None]):
    """Checks rows of floating-point numbers.

    Args:
      name: of the argument.
      vectors: float [n, d].
      like: (n, d), None where any number will do.

    Raises:
      ValueError: another dtype or shape, by the name of the argument.
    """
    vectors = _array(vectors)
    if not jnp.issubdtype(vectors.dtype, jnp.floating):
        raise ValueError(f"{name} is {vectors.dtype}: give floating-point numbers")
    _check_shape(name, vectors, 2)
    for axis, (found, wanted) in enumerate(zip(vectors.shape, like, strict=True)):
        if wanted is not None and found != wanted:
            raise ValueError(
                f"{name} has the shape {list(vectors.shape)}, but axis {axis} must be "
                f"{wanted} long, as that of the other arguments"
            )


def integer(name: str, value: Any, *, least: int = 1) -> int:
    """Returns an option as an int.

    Args:
      name: of the option.
      value: an integer of any kind, known when the program is compiled.
      least: the smallest that is allowed.

    Raises:
      UserError, a ValueError: a float, a text, a bool, a traced value; one below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise UserError(f"{name}={_shown(value)}: give an integer{_when_traced(value)}")
    if number < least:
        raise UserError(f"{name}={number}: set it to {least} or above")
    return number


def real(name: str, value: Any) -> float:
    """Returns an option as a float.

    Args:
      name: of the option.
      value: a finite number of any kind, known when the program is compiled.

    Raises:
      UserError, a ValueError: anything else.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{name}={_shown(value)}: give a finite number{_when_traced(value)}"
        )
    return number


def _shown(value: Any) -> str:
    return "(traced)" if isinstance(value, jax.core.Tracer) else repr(value)


def _when_traced(value: Any) -> str:
    if not isinstance(value, jax.core.Tracer):
        return ""
    return " that is known when the function is compiled (static_argnames of jax.jit)"


def _array(x: Any) -> Any:
    return x if hasattr(x, "dtype") and hasattr(x, "ndim") else np.asarray(x)


def _check_shape(name: str, x: Any, ndim: int) -> None:
    if x.ndim != ndim or 0 in x.shape:
        axes = {1: "one axis", 2: "two axes"}[ndim]
        raise ValueError(
            f"{name} has the shape {list(x.shape)}: give an array of {axes}, and at "
            "least one element"
        )
