"""Runs the task of the command line; whatever goes wrong is one line and a status.

Statuses: 2 for bad input, 1 for work that cannot continue, 128 + N for signal number N.
"""

import contextlib
import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

from absl import app, logging
from ml_collections import ConfigDict

from invariance_propagation import signals
from invariance_propagation.cli import flags, keys, tasks
from invariance_propagation.errors import (
    ENCODABLE,
    Stopped,
    TrainingError,
    UserError,
)


def run() -> None:
    """Reads the command line, does what it says, and ends the process."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(_is_not_orbaxs)
    sys.excepthook = _print_uncaught
    sys.unraisablehook = _print_unraisable
    for stream in (sys.stdout, sys.stderr):
        _show_all(stream)
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.parse(argv)
    except UserError as error:
        _exit(error, 2)


def _main(argv: list[str]) -> None:
    try:
        _run_task(argv)
        sys.stdout.flush()
        signals.begin()
    except BrokenPipeError:
        _exit("the output was closed: run the same command to continue", 1)
    except OSError as error:  # not described anywhere else
        _exit(_describe(error), 1)


def _run_task(argv: list[str]) -> None:
    signals.watch()
    config = ConfigDict()
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}: options start with --")
        config = flags.read_config()
        name = _check(config)
        # JAX is imported from here on.
        _join_processes()
        tasks.start(name, config, flags.WORKDIR.value)
    except UserError as error:
        _exit(keys.with_flags(str(error), config), 2)
    except Stopped as stopped:
        _print_last(str(stopped))
        _leave(stopped.status)
    except TrainingError as error:
        _exit(keys.with_flags(str(error), config), 1)
    except OSError:
        raise
    except Exception as error:
        _exit_if_joined(error)
        raise


def _check(config: ConfigDict) -> str:
    """Returns the task, once its config and its flags are known to fit it."""
    name = config.get("task", "pretrain")
    tasks.check_config(name, config)
    tasks.check_flags(name, flags.typed(), flags.typed_keys())
    tasks.name_run(name, config, flags.WORKDIR.value)
    return name


def _join_processes() -> None:
    """Waits for the processes of the other hosts, if there are any."""
    if flags.COORDINATOR.value is None:
        return
    from invariance_propagation.devices import processes

    processes.join(
        coordinator=flags.COORDINATOR.value,
        num_processes=flags.NUM_PROCESSES.value,
        process_id=flags.PROCESS_ID.value,
        timeout=flags.JOIN_TIMEOUT.value,
    )


def _exit_if_joined(error: Exception) -> None:
    """Ends the process in one line where another process is the likely reason."""
    import jax

    from invariance_propagation.devices import processes

    if not processes.joined():
        return
    if not isinstance(error, jax.errors.JaxRuntimeError):
        traceback.print_exc()
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    _exit(
        f"this process cannot continue, probably because another one has ended "
        f"({reason}): run the same command on every host to continue from the last "
        "checkpoint",
        1,
    )


def _show_all(stream: TextIO) -> None:
    """Escapes what a stream cannot encode: no name and no terminal may end a run."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=ENCODABLE)


def _is_not_orbaxs(record: Any) -> bool:
    """Drops tracebacks that Orbax logs for each failure in each thread and task.

    Orbax also raises the error, which becomes one line in `_exit`.
    """
    return record.name != "asyncio" and "orbax" not in Path(record.pathname).parts


def _is_tensorstores(error: BaseException | None) -> bool:
    """Threads of TensorStore raise this one for each file of a save that has failed."""
    return str(error) == "Event loop is closed"


def _print_uncaught(kind: type, error: BaseException, trace: Any) -> None:
    if not _is_tensorstores(error):
        sys.__excepthook__(kind, error, trace)


def _print_unraisable(found: Any) -> None:
    if not _is_tensorstores(found.exc_value):
        sys.__unraisablehook__(found)


def _describe(error: OSError) -> str:
    """Names the path that the system has refused, and what to do."""
    from invariance_propagation.files.paths import reason, remedy

    names = [x for x in (error.filename, error.filename2) if isinstance(x, str | bytes)]
    where = " or ".join(map(os.fsdecode, names)) or "standard output"
    return f"{where} cannot be used ({reason(error)}): {remedy(error)}"


def _exit(error: Exception | str, status: int) -> NoReturn:
    _print_last("error: " + " ".join(str(error).split()))
    _leave(status)


def _print_last(line: str) -> None:
    # From here on, no signal and no other process can change the exit status.
    signals.begin()
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        # Python would fail once more when it empties its buffer at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # JAX, if there is any, is imported by now.
    processes = sys.modules.get("invariance_propagation.devices.processes")
    if processes is not None and processes.joined():
        processes.leave(status)
    if status:
        signals.leave(status)
    sys.exit(status)
