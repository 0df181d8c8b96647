"""Sentences about config keys and flags that are typed wrongly."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import FlagOrderError

from invariance_propagation.errors import UserError

KINDS = {"int": "a whole number", "float": "a number", "bool": "True or False"}
SHOWN = 3  # suggestions in a line
CONFIG = "--config"
# Training configs call embed's `folder` `data.folder`.
OTHER_NAMES = {"data.folder": "folder"}


def leaves(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns 'section.key' -> value, for all keys except sections with keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def explain(error: Exception, argv: list[str], known: Mapping[str, Any]) -> str:
    """Says in a sentence what absl or ml_collections found wrong.

    Args:
      error: what they raised.
      argv: the command line.
      known: the config's keys and values; {} where it cannot be made.
    """
    text = " ".join(str(error).split())
    if isinstance(error, FlagOrderError) and text.startswith("Found"):
        return f"{text}: put --config=... before the keys that change it"
    if isinstance(error, flags.UnrecognizedFlagError) and "'config." in text:
        return f"{text}: its keys can be set only after --config=..."
    path = config_path(argv)
    if "Error whilst parsing config file" in text:
        # A UserError has its lines in one, see `errors.printable`.
        raised = str(error).replace(r"\n", "\n").strip().splitlines()[-1]
        reason = raised.split("errors.UserError: ")[-1]
        if "get_config() takes 0 positional arguments" in reason:
            name, _, method = str(path).rpartition(":")
            reason = f"{name} does not train a method: leave out :{method}"
        return f"--config={path} cannot be used: {reason}"
    if isinstance(error, AttributeError | KeyError) and path is not None:
        for key in typed_keys(argv) if known else ():
            if not _is_key(key, known):
                return unknown_key(key, known)
        return f"--config={path} cannot be used: {type(error).__name__}: {text}"
    flag = re.match(r"flag --([\w.]+)=", text)
    if isinstance(error, flags.IllegalFlagValueError) and flag:
        return _wrong_value(flag[1], argv) or text
    return text


def rename(argv: list[str], known: Collection[str]) -> list[str]:
    """Puts a config's own name of a key in place of another name that was typed.

    Args:
      argv: the command line.
      known: the config's keys.

    Raises:
      UserError: both names are typed, with different values.
    """
    argv = list(argv)
    for other, key in OTHER_NAMES.items():
        if other in known or key not in known:
            continue
        typed = {}
        for i, argument in enumerate(argv):
            name, equals, value = argument.partition("=")
            if name.lstrip("-") in (f"config.{other}", f"config.{key}"):
                typed[name.lstrip("-")] = value if equals else _next(argv, i)
                argv[i] = f"{CONFIG}.{key}{equals}{value}"
        if len(typed) == 2 and len(set(typed.values())) == 2:
            raise UserError(
                f"{CONFIG}.{other} and {CONFIG}.{key} are two names of one thing, and "
                "differ: leave out one of them"
            )
    return argv


def config_path(argv: list[str]) -> str | None:
    """Returns the value of --config, None where there is none."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else _next(argv, i) or None
    return None


def _next(argv: list[str], i: int) -> str:
    """Returns the argument after number `i`, '' after the last."""
    return argv[i + 1] if i + 1 < len(argv) else ""


def typed_keys(argv: list[str]) -> list[str]:
    """Returns the keys of the config that the command line sets."""
    found = (re.match(r"--?(?:no)?config\.([^=]+)", argument) for argument in argv)
    return [match[1] for match in found if match]


def _is_key(key: str, known: Mapping[str, Any]) -> bool:
    return key in known or any(name.startswith(f"{key}.") for name in known)


def unknown_key(key: str, known: Mapping[str, Any]) -> str:
    """Says that there is no such key, and which one may be meant.

    A key of the same name in another section is the best guess, then one that is spelt
    nearly so, with its section or without.
    """
    section, _, last = key.rpartition(".")
    if isinstance(known.get(section), ConfigDict):  # one without keys
        return (
            f"unknown key {CONFIG}.{key}: {section} has no keys that the command line "
            "could set; a config file may give it some"
        )
    by_name: dict[str, list[str]] = {}
    for name in known:
        by_name.setdefault(name.rpartition(".")[2], []).append(name)
    near = by_name.get(last) or difflib.get_close_matches(key, known, n=1)
    if not near:
        for name in difflib.get_close_matches(last, by_name, n=1, cutoff=0.7):
            near = by_name[name]
    sections = sorted({name.partition(".")[0] for name in known})
    hint = _or(near) or f"the config has {', '.join(sections)}"
    return f"unknown key {CONFIG}.{key}: {hint}"


def did_you_mean(typed: str, names: Iterable[str], prefix: str) -> str:
    """Returns '; did you mean PREFIX...?' with the nearest name, '' if none is near."""
    stem = typed.rpartition("/")[2].removesuffix(".py")
    near = difflib.get_close_matches(stem, list(names), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _or(keys: list[str]) -> str:
    shown = [f"{CONFIG}.{key}" for key in keys[:SHOWN]]
    return f"did you mean {' or '.join(shown)}?" if shown else ""


def _wrong_value(name: str, argv: list[str]) -> str | None:
    """Says what kind of value a flag takes, with the config's value as an example."""
    value = ""
    for i, argument in enumerate(argv):
        typed, equals, after = argument.partition("=")
        if typed in (f"--{name}", f"-{name}"):
            value = after if equals else _next(argv, i)
    default: Any = None
    if name.startswith("config."):
        default = flags.FLAGS["config"].value
        for part in name.split(".")[1:]:
            default = default[part]
    if isinstance(default, ConfigDict):
        inside = "".join(
            f": set one of its keys, e.g. --{name}.{x}" for x in [*default][:1]
        )
        return f"--{name} is a section{inside}"
    kind = KINDS.get(flags.FLAGS[name].flag_type())
    if kind is None:
        return None
    example = "" if default is None else f", e.g. --{name}={default}"
    return f"--{name}={value}: write {kind}{example}"


def check_tuples(typed: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with a typed tuple that should hold numbers, if anything.

    Args:
      typed: 'section.key' -> value on the command line.
      config: 'section.key' -> value of the same config without the command line.
    """
    for key, value in typed.items():
        usual = config.get(key)
        if not isinstance(value, tuple) or any(isinstance(x, str) for x in usual or ()):
            continue
        for item in value:
            if isinstance(item, str):
                example = usual or (0.2, 1.0)
                shown = ",".join(map(str, example))
                return (
                    f"{CONFIG}.{key}={item}: write numbers with commas between, e.g. "
                    f'"{CONFIG}.{key}=({shown})"'
                )
    return None


def with_flags(text: str, config: ConfigDict) -> str:
    """Writes the config's keys in a message as they are typed, with --config before.

    Args:
      text: e.g. 'set train.batch_size to at most 64'.
      config: the config that the message is about.
    """
    known = leaves(config)
    within = "|".join(re.escape(key) for key in known if "." in key)
    alone = "|".join(re.escape(key) for key in known if "." not in key)
    before, after = r"(?<![\w./-])", r"(?!\w|\.\w)"
    pattern = rf"{before}(?:(?:{within or '(?!)'}){after}|(?:{alone or '(?!)'})(?==))"
    return re.sub(pattern, lambda match: f"{CONFIG}.{match[0]}", text)
