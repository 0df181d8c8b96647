"""Checks the arguments of the public functions.

Shapes and dtypes are always checked. Values are checked only where they are known. Inside
`jit` and maps over devices they are not, and an id beyond the end silently becomes
another id there.
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
      name: name of the argument.
      ids: int array (or nested lists) with `ndim` axes and at least one element.
      ndim: the number of axes it must have.
      below: N; each id must be from 0 to N - 1. None: 0 or above.
      unique: whether ids must differ.

    Raises:
      ValueError: a condition does not hold; the message names the argument.
    """
    ids = _array(ids)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} is {ids.dtype}: pass integers, the ids of images")
    _check_shape(name, ids, ndim)
    if isinstance(ids, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # a constant inside a traced function
        least, largest = int(ids.min()), int(ids.max())
    if below is None and least < 0:
        raise ValueError(f"{name} holds the id {least}: ids start at 0")
    if below is not None and (least < 0 or largest >= below):
        wrong = least if least < 0 else largest
        raise ValueError(
            f"{name} holds the id {wrong}, but there are {below} images: ids go from 0 "
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
      name: name of the argument.
      vectors: float [n, d].
      like: (n, d); None where any number is allowed.

    Raises:
      ValueError: a dtype or shape is wrong, or a finite number is too large for float32;
        the message names the argument.
    """
    vectors = _array(vectors)
    if not jnp.issubdtype(vectors.dtype, jnp.floating):
        raise ValueError(f"{name} is {vectors.dtype}: pass floating-point numbers")
    _check_shape(name, vectors, 2)
    for axis, (length, wanted) in enumerate(zip(vectors.shape, like, strict=True)):
        if wanted is not None and length != wanted:
            raise ValueError(
                f"{name} has the shape {list(vectors.shape)}, but axis {axis} must be "
                f"{wanted} long to fit the other arguments"
            )
    if isinstance(vectors, np.ndarray) and vectors.dtype.itemsize > 4:
        _check_float32(name, vectors)


def _check_float32(name: str, vectors: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        overflown = np.isinf(vectors.astype(np.float32)) & np.isfinite(vectors)
    if overflown.any():
        raise ValueError(
            f"{name} holds {vectors[overflown][0]:.3g}: all arithmetic is in float32, "
            f"which ends at {np.finfo(np.float32).max:.3g}"
        )


def integer(name: str, value: Any, *, least: int = 1) -> int:
    """Returns an option as an int.

    Args:
      name: name of the option.
      value: an integer of any type, known when the program is compiled.
      least: the smallest value that is allowed.

    Raises:
      UserError: (a ValueError) the value is a float, a string, a bool or traced, or it
        is below `least`.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool | np.bool_):
        raise UserError(f"{name}={_shown(value)}: pass an integer{_when_traced(value)}")
    if number < least:
        raise UserError(f"{name}={number}: set it to {least} or above")
    return number


def real(name: str, value: Any) -> float:
    """Returns an option as a float.

    Args:
      name: name of the option.
      value: a finite number of any type, known when the program is compiled.

    Raises:
      UserError: (a ValueError) the value is anything else.
    """
    try:
        refused = isinstance(value, str | bool | np.bool_)
        number = math.nan if refused else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{name}={_shown(value)}: pass a finite number{_when_traced(value)}"
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
            f"{name} has the shape {list(x.shape)}: pass an array of {axes} with at "
            "least one element"
        )
