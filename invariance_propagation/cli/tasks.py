"""The tasks: what each is called, does, and takes."""

import os
import pkgutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from invariance_propagation.errors import UserError


class Task(NamedTuple):
    """One value of the config key `task`.

    Attributes:
      about: one line for --help.
      function: MODULE:FUNCTION in this package.
      of_training: whether it takes the config of a training run, as the function's
        argument; else configs/ holds a config of its name, whose keys are the arguments.
      run_key: the config key that --workdir sets; '' where --workdir is an argument
        of the function; None where the task has no use for a run.
      warns: whether XLA's own warnings are shown. A task that compiles programs only to
        try them out says itself what came of them.
    """

    about: str
    function: str
    of_training: bool = True
    run_key: str | None = None
    warns: bool = True


TASKS = {
    "pretrain": Task(
        "train, or continue the run in --workdir (the default)",
        "train.pretrain:train_and_evaluate",
        run_key="",
    ),
    "plan": Task(
        "print the memory that a run would take", "tasks.plan:print_plan", warns=False
    ),
    "preview": Task("draw augmented views of images", "tasks.preview:draw_preview"),
    "scan": Task("list the pictures that cannot be used", "tasks.scan:print_scan"),
    "replay": Task(
        "repeat the step that ended a run", "tasks.replay:replay", run_key=""
    ),
    "verify_resume": Task(
        "check that an interrupted run ends with the same numbers here",
        "tasks.verify:verify_resume",
    ),
    "evaluate": Task(
        "measure a trained encoder by kNN, linear probes and others",
        "evaluation.evaluate:evaluate",
        of_training=False,
        run_key="checkpoint",
    ),
    "embed": Task(
        "write new pictures' features and nearest training images",
        "tasks.embed:embed_folder",
        of_training=False,
        run_key="checkpoint",
    ),
    "export": Task(
        "write weights for other programs",
        "tasks.export:export",
        of_training=False,
        run_key="checkpoint",
    ),
    "report": Task(
        "write a page with the curves and pictures of a run",
        "report:write_report",
        of_training=False,
        run_key="workdir",
    ),
}


def start(name: str, config: ConfigDict, workdir: str | None) -> None:
    """Runs a task whose config and flags have been checked.

    Args:
      name: of the task.
      config: its config, with `run_key` filled in.
      workdir: value of --workdir.
    """
    task = TASKS[name]
    if not task.warns:  # read when JAX is imported
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    function = pkgutil.resolve_name(f"invariance_propagation.{task.function}")
    if not task.of_training:
        function(**arguments(config))
    elif task.run_key is None:
        function(config)
    else:
        function(config, workdir)


def arguments(config: ConfigDict) -> dict[str, Any]:
    """Returns the keys of a task's own config as the arguments of its function."""
    return {key: value for key, value in config.items() if key != "task"}


def check_flags(name: str, typed: Collection[str], keys: Collection[str]) -> None:
    """Refuses what the task would ignore.

    Args:
      name: of the task.
      typed: names of the flags on the command line.
      keys: names of the config's keys on the command line.

    Raises:
      UserError: one of them has no effect.
    """
    if "coordinator" not in typed:
        for flag in ("num_processes", "process_id", "join_timeout"):
            if flag in typed:
                raise UserError(
                    f"--{flag} has no effect without --coordinator: add "
                    "--coordinator=HOST:PORT (the address of process 0), or leave out "
                    f"--{flag}"
                )
    elif name != "pretrain":
        raise UserError(f"task={name!r} is for one process: leave out --coordinator")
    if "output" in keys and TASKS[name].of_training and name != "preview":
        raise UserError(f"task={name!r} ignores --config.output: leave it out")
    for key in ("topology", "data.num_examples"):
        if name == "scan" and key in keys:
            raise UserError(
                f"--config.{key} is for --config.task=plan alone: leave it out"
            )


def check_config(name: str, config: ConfigDict) -> None:
    """Raises UserError where the task does not exist or has another config."""
    if name not in TASKS:
        raise UserError(f"task={name!r}: choose one of {', '.join(TASKS)}")
    of_training = TASKS[name].of_training
    if of_training and "method" not in config:
        raise UserError(
            f"task={name!r} needs the config of a run, e.g. --config=configs/digits.py"
        )
    if not of_training and "method" in config:
        raise UserError(
            f"task={name!r} takes no training config: use --config=configs/{name}.py"
        )


def name_run(name: str, config: ConfigDict, workdir: str | None) -> None:
    """Sets the config key of a run to --workdir, for a task that has one.

    Args:
      name: of the task.
      config: its config; changed.
      workdir: value of --workdir, None where it was not typed.

    Raises:
      UserError: the task needs a run and none is named, or two are, or it needs none
        and one is named.
    """
    key = TASKS[name].run_key
    if key is None:
        if workdir is not None:
            raise UserError(f"task={name!r} takes no --workdir: leave it out")
        return
    if not key:
        if not workdir:
            raise UserError(
                "--workdir is missing: the folder of the run, e.g. --workdir=runs/digits"
            )
        return
    typed = config[key]
    if workdir and typed and not _is_same(workdir, typed):
        raise UserError(
            f"--workdir={workdir} and --config.{key}={typed} name different runs: "
            "leave one of them out"
        )
    if not workdir and not typed:
        raise UserError(
            f"--workdir or --config.{key} is missing: name a run, e.g. "
            "--workdir=runs/digits"
        )
    config[key] = workdir or typed


def _is_same(path: str, other: str) -> bool:
    return Path(path).expanduser() == Path(other).expanduser()
