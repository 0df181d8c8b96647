"""Methods that a config can name after a colon: --config=configs/digits.py:METHOD.

A file for each method sets the section `method`, and whatever else in the config the
method needs changed: another optimiser, other views. OUTER+METHOD wraps one method by
another, such as unmix+odc.
"""

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from invariance_propagation.errors import UserError

DEFAULT = "invariance_propagation"


def configure(config: ConfigDict, method: str) -> None:
    """Adds the section `method` of a method to a config.

    Args:
      config: with all other sections.
      method: name of a file beside this one, 'MODULE:FUNCTION' for a method of your own
        (its options are the keyword arguments of the function that have a default), or ''
        for Invariance Propagation. OUTER+METHOD puts the options of METHOD into the
        section `method.inner` of OUTER.

    Raises:
      UserError: there is no such method, or OUTER wraps no other method.
    """
    name, plus, inner = method.partition("+")
    name = name or DEFAULT
    config.method = ConfigDict({"name": name})
    if ":" in name:
        config.method.update(_defaults(name))
    elif name in names():
        importlib.import_module(f"{__name__}.{name}").configure(config)
    else:
        raise UserError(
            f"there is no method {name!r}: choose one of {', '.join(names())}, or name "
            "your own as --config=CONFIG.py:MODULE:FUNCTION"
        )
    if plus and "inner" not in config.method:
        raise UserError(f"{name} wraps no other method: leave out +{inner}")
    if "inner" in config.method:
        outer = config.method
        configure(config, inner)
        outer.inner = config.method
        config.method = outer


def adapt(config: ConfigDict, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Sets what a data set changes for the chosen method, and for the one it wraps.

    Args:
      config: as `configure` left it.
      values: for each method, changes by section, such as {"optimizer": {...}}.
    """
    sections = [config.method]
    while "inner" in sections[-1]:
        sections.append(sections[-1].inner)
    for section in reversed(sections):  # the outermost method has the last word
        for name, changes in values.get(section.name, {}).items():
            (section if name == "method" else config[name]).update(changes)


def names() -> list[str]:
    """Returns the names of the methods that have a file here."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def _defaults(name: str) -> dict[str, object]:
    module, _, function = name.partition(":")
    try:
        parameters = inspect.signature(
            getattr(importlib.import_module(module), function)
        ).parameters
    except (ImportError, AttributeError) as error:
        raise UserError(f"method {name!r}: {error}") from error
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not parameter.empty
    }
