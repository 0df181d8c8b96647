"""The table of self-supervised methods, and how a config picks one."""

import contextlib
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from invariance_propagation import settings
from invariance_propagation.errors import UserError
from invariance_propagation.methods.base import Method, Notes, Problem

_HERE = "invariance_propagation.methods"
METHODS = {
    "coke": f"{_HERE}.coke:coke",
    "invariance_propagation": f"{_HERE}.invariance_propagation:invariance_propagation",
    "odc": f"{_HERE}.odc:odc",
    "unmix": f"{_HERE}.unmix:unmix",
}
# How a method names its options in messages: 'method.temperature'.
_OPTION = re.compile(r"\bmethod\.(?=[a-z_])")


def make_method(config: Mapping[str, Any], problem: Problem) -> Method:
    """Makes the method that the config's section `method` names and sets up.

    Raises:
      UserError: there is no such method, or an option does not fit.
    """
    return make_from(config["method"], problem, key="method")


def make_from(section: Mapping[str, Any], problem: Problem, *, key: str) -> Method:
    """Makes a method from its options; a method may make the one it wraps by this.

    Every method writes its messages as if its options were the config's section
    `method`. Errors, warnings and notices of a method in another section come out with
    the keys of that section.

    Args:
      section: `name`, as for `find_method`, and the options of the method.
      problem: what the method is made for.
      key: where the section stands in the config, for messages.

    Raises:
      UserError: there is no such method, or an option does not fit.
    """
    options = dict(section)
    try:
        factory = find_method(options.pop("name", ""))
        _check_factory(factory, section["name"])
        method = settings.call(factory, "method", {"method": options}, problem=problem)
    except UserError as error:
        raise UserError(_with_key(str(error), key)) from error
    return method._replace(notes=_notes_with_key(method.notes, key))


def _with_key(text: str, key: str) -> str:
    return _OPTION.sub(f"{key}.", text)


def _notes_with_key(notes: Notes, key: str) -> Notes:
    def moved(sentences: Callable[..., list[str]]) -> Callable[..., list[str]]:
        return lambda *args: [_with_key(text, key) for text in sentences(*args)]

    return notes._replace(
        warnings=moved(notes.warnings),
        notices=moved(notes.notices),
        remarks=moved(notes.remarks),
    )


def find_method(name: str) -> Callable[..., Method]:
    """Returns the function that makes a method from its options.

    Args:
      name: a key of `METHODS`, or 'MODULE:FUNCTION' for a method of your own.

    Raises:
      UserError: there is no method of this name.
    """
    module, _, function = METHODS.get(name, name).partition(":")
    if not function:
        raise UserError(
            f"method.name={name!r}: choose one of {', '.join(METHODS)}, or "
            "'MODULE:FUNCTION' for a method of your own"
        )
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"method.name={name!r}: {error}") from error


def _check_factory(factory: Any, name: str) -> None:
    takes: Mapping[str, Any] = {}
    # Raised if there is nothing to call, or if it does not say what it takes.
    with contextlib.suppress(TypeError, ValueError):
        takes = inspect.signature(factory).parameters
    if "problem" not in takes:
        raise UserError(
            f"method.name={name!r}: a function that makes a method takes `problem`, as "
            "docs/own_method.md shows"
        )


def is_shipped(section: Mapping[str, Any]) -> bool:
    """Returns whether a section names methods of this package only.

    Code from elsewhere must not run because a checkpoint names it.
    """
    return all(name in METHODS for name in _names(section))


def _names(section: Mapping[str, Any]) -> Iterator[str]:
    for key, value in section.items():
        if key == "name":
            yield value
        elif isinstance(value, Mapping):
            yield from _names(value)
