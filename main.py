"""Flags only: python main.py --config=configs/digits.py --workdir=runs/digits."""

# ruff: noqa: E402
import os
import signal


def _end(number: int, frame: object) -> None:
    """Obeys a signal until `ending.watch` does: nothing has been begun by then."""
    del frame
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    os.write(2, f"error: interrupted{by}; nothing was left half written\n".encode())
    os._exit(128 + number)


# Before the imports, which take seconds. Worker processes import this file too;
# they end with the main one.
_HANDLERS = {"__main__": _end, "__mp_main__": signal.SIG_IGN}
if __name__ in _HANDLERS:
    for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(_number) != signal.SIG_IGN:
            signal.signal(_number, _HANDLERS[__name__])

import contextlib
import re
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

CONFIGS = Path(__file__).parent / "configs"
# Tasks that take the config of a run.
OF_TRAINING = ("pretrain", "plan", "preview", "scan", "replay", "verify_resume")

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to run, e.g. configs/digits.py. Any key can be set on the command line: "
    "--config.train.epochs=200. configs/default.py lists those of training; evaluate, "
    "embed, export and report have their own.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Of training: where checkpoints and logs lie. The same command continues from the "
    "last checkpoint there.",
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
    "How many processes there are, if --coordinator is HOST:PORT.",
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0, likewise."
)
JOIN_TIMEOUT = flags.DEFINE_float(
    "join_timeout", 300.0, "Seconds to wait for the other processes at the start."
)


def main(argv: list[str]) -> None:
    """Runs the task of the config; what goes wrong is one line, and the status."""
    try:
        _main(argv)
        sys.stdout.flush()
        _begin_to_end()
    except BrokenPipeError:
        _exit("nobody reads the output any more: run the same command to go on", 1)
    except OSError as error:  # of what has no better words for it
        _exit(_describe(error), 1)


def _main(argv: list[str]) -> None:
    # Imported after the flags, so that --help and a misspelt key answer at once.
    from invariance_propagation import signals

    signals.watch()

    import jax

    from invariance_propagation.devices import processes
    from invariance_propagation.errors import Stopped, TrainingError, UserError
    from invariance_propagation.evaluation.evaluate import evaluate
    from invariance_propagation.tasks.embed import embed_folder
    from invariance_propagation.tasks.export import export
    from invariance_propagation.tasks.plan import print_plan
    from invariance_propagation.tasks.preview import draw_preview
    from invariance_propagation.tasks.replay import replay
    from invariance_propagation.tasks.scan import print_scan
    from invariance_propagation.tasks.verify import verify_resume
    from invariance_propagation.train.loop import train_and_evaluate

    for stream in (sys.stdout, sys.stderr):
        # No name of a file and no terminal may end a run.
        stream.reconfigure(errors="backslashreplace")
    tasks = {
        "pretrain": lambda config: train_and_evaluate(config, workdir()),
        "evaluate": lambda config: evaluate(**arguments(config)),
        "embed": lambda config: embed_folder(**arguments(config)),
        "plan": print_plan,
        "preview": draw_preview,
        "scan": print_scan,
        "replay": lambda config: replay(config, workdir()),
        "verify_resume": verify_resume,
        "export": lambda config: export(**arguments(config)),
        "report": report,
    }
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}: options start with --")
        config = read_config()
        task = config.get("task", "pretrain")
        if task not in tasks:
            raise UserError(f"task={task!r}: choose one of {', '.join(tasks)}")
        check_fits(task, config)
        join_processes(task)
        tasks[task](config)
    except UserError as error:
        _exit(error, 2)
    except Stopped as stopped:
        _print_last(str(stopped))
        _leave(stopped.status)
    except TrainingError as error:
        _exit(error, 1)
    except OSError:
        raise
    except Exception as error:
        if not processes.joined():
            raise
        if not isinstance(error, jax.errors.JaxRuntimeError):
            traceback.print_exc()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _exit(
            f"this process cannot go on, as when another one is gone ({reason}): run "
            "the same command on every host to go on from the last checkpoint",
            1,
        )


def check_fits(task: str, config: ConfigDict) -> None:
    """A training config has a method; those of other tasks have not."""
    from invariance_propagation.errors import UserError

    of_training = task in OF_TRAINING
    if of_training and "method" not in config:
        raise UserError(
            f"task={task!r} needs the config of a run, e.g. --config=configs/digits.py"
        )
    if not of_training and "method" in config:
        raise UserError(f"task={task!r} has a config: --config=configs/{task}.py")


def join_processes(task: str) -> None:
    """Waits for the other hosts' processes, if there are to be any."""
    from invariance_propagation.devices import processes
    from invariance_propagation.errors import UserError

    if COORDINATOR.value is not None:
        if task != "pretrain":
            raise UserError(f"task={task!r} is for one process: omit --coordinator")
        processes.join(
            coordinator=COORDINATOR.value,
            num_processes=NUM_PROCESSES.value,
            process_id=PROCESS_ID.value,
            timeout=JOIN_TIMEOUT.value,
        )
    elif NUM_PROCESSES.value is not None or PROCESS_ID.value is not None:
        raise UserError(
            "--num_processes and --process_id need --coordinator=HOST:PORT of process 0"
        )


def parse_flags(argv: list[str]) -> list[str]:
    """As absl does, but one line and status 2 for what it does not understand."""
    try:
        return flags.FLAGS([_with_home(argument) for argument in argv])
    except OSError as error:  # of the config
        _exit(_describe(error), 2)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        _exit(_without_traceback(str(error)) or error, 2)


def _without_traceback(text: str) -> str:
    """Returns what a config file has raised; '' where the text holds no traceback."""
    head, found, trace = text.partition("Traceback (most recent call last)")
    return trace.strip().splitlines()[-1].removeprefix("ValueError: ") if found else ""


def _with_home(argument: str) -> str:
    """`--config=~/mine.py` with the home folder, which a shell only puts after a space."""
    name, equals, value = argument.partition("=")
    if name not in ("--config", "-config"):
        return argument
    return name + equals + os.path.expanduser(value)


def _is_not_orbaxs(record: Any) -> bool:
    """Orbax logs the traceback of each failure in each of its threads and tasks.

    It also raises it, and then it is one line, of `_exit`.
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


def read_config() -> ConfigDict:
    """The config named on the command line, with its overrides."""
    from invariance_propagation.errors import UserError

    if not flags.FLAGS["config"].present:
        raise UserError("--config is missing, e.g. --config=configs/digits.py")
    # What follows a colon is the method.
    filename = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]
    if not Path(filename).is_file():
        there = sorted(path.name for path in CONFIGS.glob("[!_]*.py"))
        if f"{filename}.py" in there:
            raise UserError(
                f"there is no {filename}: did you mean "
                f"--config={CONFIGS.name}/{filename}.py?"
            )
        raise UserError(
            f"there is no {filename}; {CONFIGS.name}/ holds {', '.join(there)}"
        )
    return CONFIG.value


def report(config: ConfigDict) -> None:
    """Writes a page about runs."""
    # Imported here: matplotlib takes half a second, and nothing else needs it.
    from invariance_propagation.report import write_report

    write_report(**arguments(config))


def arguments(config: ConfigDict) -> dict[str, Any]:
    """Those of a task whose config holds nothing else."""
    return {name: value for name, value in config.items() if name != "task"}


def workdir() -> str:
    """Where this run lies."""
    from invariance_propagation.errors import UserError

    if not WORKDIR.value:
        raise UserError(
            "--workdir is missing: where the run shall lie, e.g. --workdir=runs/digits"
        )
    return WORKDIR.value


def _describe(error: OSError) -> str:
    """Names the path that the system has refused, and what to do."""
    from invariance_propagation.files.paths import reason, remedy

    names = [x for x in (error.filename, error.filename2) if isinstance(x, str | bytes)]
    where = " or ".join(map(os.fsdecode, names)) or "standard output"
    return f"{where} cannot be used ({reason(error)}): {remedy(error)}"


def _exit(error: Exception | str, status: int) -> NoReturn:
    text = str(error)
    if isinstance(error, KeyError | AttributeError):  # from an override
        # ml_collections quotes the key, and sometimes the whole message.
        hint = re.sub(r"\\n|\n", ". ", str(error.args[0]))
        text = "unknown config key " + re.sub(r"[\\']", "", hint)
    _print_last("error: " + " ".join(text.split()))
    _leave(status)


def _begin_to_end() -> None:
    """From here on no signal and no other process has a word in how this one ends."""
    # Imported by now, unless it was the flags that could not be understood.
    if signals := sys.modules.get("invariance_propagation.signals"):
        signals.begin()


def _print_last(line: str) -> None:
    _begin_to_end()
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
    if status and (signals := sys.modules.get("invariance_propagation.signals")):
        signals.leave(status)
    sys.exit(status)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().addFilter(_is_not_orbaxs)
    sys.excepthook = _print_uncaught
    sys.unraisablehook = _print_unraisable
    # A path may have bytes that are no text; they are printed as they are.
    sys.stdout.reconfigure(errors="surrogateescape")
    app.run(main, flags_parser=parse_flags)
