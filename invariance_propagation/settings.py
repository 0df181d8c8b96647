"""Calls functions with config sections, and reports keys that do not fit in one line."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from invariance_propagation.errors import UserError

AUTO = "auto"
Result = TypeVar("Result")


def options(
    function: Callable, section: str, config: Mapping[str, Any], *, bound: Any = ()
) -> dict[str, Any]:
    """The section as keyword arguments of `function`, its names checked.

    Args:
      function: what will be called.
      section: name of the section.
      config: the config that holds the section.
      bound: names of the parameters that come from elsewhere.

    Raises:
      UserError: a key of the section that is no parameter of the function, a parameter
        without default that the section lacks, or a number that is not finite.
    """
    if section not in config:
        raise UserError(
            f"config section {section} is missing: start from configs/default.py"
        )
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name not in bound]
    check_names(config[section], known, prefix=f"{section}.")
    for name in known:
        required = parameters[name].default is inspect.Parameter.empty
        if required and name not in config[section]:
            raise UserError(
                f"config key {section}.{name} is missing: start from configs/default.py"
            )
    check_finite(config[section], prefix=f"{section}.")
    return dict(config[section])


def check_finite(values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Raises UserError for the first value that is, or holds, NaN or infinity.

    No comparison with NaN holds, so a check of a range may let it pass.
    """
    for name, value in values.items():
        if hasattr(value, "items"):  # a ConfigDict is no Mapping
            check_finite(value, prefix=f"{prefix}{name}.")
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(math.isfinite(x) for x in numbers if isinstance(x, float)):
            raise UserError(f"{prefix}{name}={value}: write finite numbers")


def call(
    function: Callable[..., Result],
    section: str,
    config: Mapping[str, Any],
    **more: Any,
) -> Result:
    """Calls `function` with the keys of a section and `more`; raises as `options` does."""
    return function(**options(function, section, config, bound=more), **more)


def override(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a section with the values that `changes` sets.

    Only None means that a key is not set: 0, False, '' and () are values.
    """
    changed = {name: value for name, value in changes.items() if value is not None}
    return {**section, **changed}


def check_names(
    names: Iterable[str], known: Iterable[str], *, prefix: str = ""
) -> None:
    """Raises UserError for the first of `names` that is not known."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {prefix}{near[0]}?" if near else "see configs/default.py"
            )
            raise UserError(f"unknown config key {prefix}{name}: {hint}")


def is_auto(value: Any, name: str) -> bool:
    """Returns whether a setting is 'auto', to be derived from the data.

    Args:
      value: the setting's value.
      name: its key in the config.

    Raises:
      UserError: the value is neither a whole number nor 'auto'.
    """
    if value != AUTO and (not isinstance(value, int) or isinstance(value, bool)):
        raise UserError(f"{name}={value!r}: set it to a whole number, or to 'auto'")
    return value == AUTO


def by_new_names(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Translates a checkpoint's config from an earlier version's keys.

    Before `norm_group`, `cross_replica_norm` chose between batch statistics over all
    devices, which is 0 now, and over each device's images. The config does not say how
    many images a device had, so that becomes None; a trained network is not affected.
    """
    encoder = dict(stored["encoder"])
    if "cross_replica_norm" in encoder:
        over_all = encoder.pop("cross_replica_norm")
        encoder["norm_group"] = 0 if over_all else None
    return {**stored, "encoder": encoder}


def keywords_of(fields: Callable) -> Callable[[Result], Result]:
    """Declares which keywords a function takes as `**options`: the fields of a record.

    `options` reads a function's signature to check a config section. With this decorator
    a function of many options need not list them a second time.
    """
    listed = inspect.signature(fields).parameters.values()

    def declare(function: Result) -> Result:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind != p.VAR_KEYWORD]
        parameters = [*named, *(p.replace(kind=p.KEYWORD_ONLY) for p in listed)]
        function.__signature__ = signature.replace(parameters=parameters)
        return function

    return declare
