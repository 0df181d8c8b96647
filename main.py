"""Flags only: python main.py --config=configs/digits.py --workdir=runs/digits."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "What to run, e.g. configs/digits.py. Any key can be set on the command line: "
    "--config.train.epochs=200. configs/default.py lists them all.",
)
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where checkpoints and logs lie. The same command continues from the last "
    "checkpoint there.",
)


def main(argv: list[str]) -> None:
    """Runs the task of the config."""
    # Imported after the flags, so that --help and a misspelt key answer at once.
    from invariance_propagation.errors import Stopped, TrainingError, UserError
    from invariance_propagation.train import train_and_evaluate

    tasks = {"pretrain": train_and_evaluate}
    try:
        if len(argv) > 1:
            raise UserError(f"unknown argument {argv[1]!r}: options start with --")
        for name, flag in (("config", CONFIG), ("workdir", WORKDIR)):
            if flag.value is None:
                raise UserError(f"--{name} is missing; see python main.py --help")
        task = CONFIG.value.get("task", "pretrain")
        if task not in tasks:
            raise UserError(f"task={task!r}: choose one of {', '.join(tasks)}")
        tasks[task](CONFIG.value, WORKDIR.value)
    except UserError as error:
        _exit(error, 2)
    except Stopped as stopped:
        _exit(stopped, 128 + stopped.signal)
    except TrainingError as error:
        _exit(error, 1)


def parse_flags(argv: list[str]) -> list[str]:
    """As absl does, but one line and status 2 for what it does not understand."""
    try:
        return flags.FLAGS(argv)
    except (
        flags.Error,
        OSError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        _exit(error, 2)


def _exit(error: Exception, status: int) -> None:
    text = str(error.args[0] if isinstance(error, KeyError) else error)
    print("error: " + " ".join(text.split()), file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main, flags_parser=parse_flags)
