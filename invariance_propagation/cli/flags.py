"""The flags, and how the command line is read."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from invariance_propagation.cli import keys, shipped
from invariance_propagation.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to run: the name of a config above, e.g. digits, or a file, e.g. "
    "configs/digits.py. Any key can be set on the command line: "
    "--config.train.epochs=200. configs/default.py explains the keys of training; "
    "evaluate, embed, export and report have keys of their own.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The folder of the run, in every task that has to do with one. In training, "
    "checkpoints and logs are written there, and the same command continues from the "
    "last checkpoint.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "Train with one process per host, this command on each: 'auto' on a TPU pod or "
    "under SLURM, else HOST:PORT of process 0. See docs/pods.md.",
)
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "With --coordinator=HOST:PORT: how many processes there are.",
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id",
    None,
    "With --coordinator=HOST:PORT: the number of this process, from 0.",
)
JOIN_TIMEOUT = flags.DEFINE_float(
    "join_timeout",
    300.0,
    "With --coordinator: seconds to wait for the other processes at the start.",
)
OWN = tuple(
    flag.name
    for flag in (
        CONFIG,
        WORKDIR,
        COORDINATOR,
        NUM_PROCESSES,
        PROCESS_ID,
        JOIN_TIMEOUT,
    )
)


def help_of(name: str) -> str:
    """Returns the description of a flag."""
    return flags.FLAGS[name].help


def parse(argv: list[str]) -> list[str]:
    """Reads the command line into the flags.

    Returns:
      The arguments that are no flags, the program's name first.

    Raises:
      UserError: a flag, file, key or value is not valid.
    """
    shipped.make_importable()
    argv = _with_paths(argv)
    path = keys.config_path(argv)
    if path is not None:
        _check_file(path.partition(":")[0])
    known: dict[str, Any] = {}
    with _explained(argv, known):
        if path is not None:
            known |= keys.leaves(flags.FLAGS[CONFIG.name].parser.parse(path))
    argv = keys.rename(argv, known)
    sys.argv[:] = argv  # where ml_collections looks for the keys
    with _explained(argv, known):
        rest = flags.FLAGS(argv)
    fault = keys.check_tuples(typed_keys(), known) if path is not None else None
    if fault:
        raise UserError(fault)
    return rest


@contextlib.contextmanager
def _explained(argv: list[str], known: dict[str, Any]) -> Iterator[None]:
    """Raises UserError for what absl, ml_collections or a config raise."""
    try:
        yield
    except SyntaxError as error:
        raise UserError(
            f"{error.filename}, line {error.lineno}: {error.msg}; a config is a Python "
            "file with a function get_config, such as configs/digits.py"
        ) from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(keys.explain(error, argv, known)) from error


def typed() -> list[str]:
    """Returns the names of the flags on the command line."""
    return [name for name in OWN if flags.FLAGS[name].present]


def typed_keys() -> dict[str, object]:
    """Returns the values of the config keys that are on the command line."""
    return config_flags.get_override_values(flags.FLAGS[CONFIG.name])


def read_config() -> ConfigDict:
    """Returns the config named on the command line, with the keys set there.

    Raises:
      UserError: none is named.
    """
    if CONFIG.name not in typed():
        raise UserError("--config is missing, e.g. --config=configs/digits.py")
    return CONFIG.value


def _with_paths(argv: list[str]) -> list[str]:
    """Puts the path of the config in place of its name, and of ~.

    A shell puts the home folder in place of ~ only after a space.
    """
    argv = list(argv)
    for i, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name not in ("--config", "-config"):
            continue
        if equals:
            argv[i] = f"{name}={shipped.path_of(os.path.expanduser(value))}"
        elif i + 1 < len(argv):
            argv[i + 1] = shipped.path_of(argv[i + 1])
    return argv


def _check_file(path: str) -> None:
    try:
        open(path, "rb").close()
    except FileNotFoundError:
        names = shipped.names()
        hint = keys.did_you_mean(path, names, "--config=")
        hint = hint or f": name a file, or one of {', '.join(names)}"
        raise UserError(f"there is no {path}{hint}") from None
    except OSError as error:
        raise UserError(
            f"--config={path} cannot be read ({error.strerror}): name a file"
        ) from error
