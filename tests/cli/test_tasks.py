"""What each task takes of the command line."""

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from configs import digits
from invariance_propagation.cli.tasks import (
    TASKS,
    arguments,
    check_config,
    check_flags,
    name_run,
    start,
)
from invariance_propagation.errors import UserError

OF_A_RUN = [name for name, task in TASKS.items() if task.run_key]
WITHOUT = [name for name, task in TASKS.items() if task.run_key is None]


def config_of(name: str) -> ConfigDict:
    of_training = TASKS[name].of_training
    module = "configs.digits" if of_training else f"configs.{name}"
    return importlib.import_module(module).get_config()


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_a_function(name: str) -> None:
    assert callable(
        pkgutil.resolve_name(f"invariance_propagation.{TASKS[name].function}")
    )
    check_config(name, config_of(name))


@pytest.mark.parametrize("name", OF_A_RUN)
def test_workdir_names_the_run_in_every_task(name: str) -> None:
    config, key = config_of(name), TASKS[name].run_key
    name_run(name, config, "runs/a")
    assert config[key] == arguments(config)[key] == "runs/a"
    # The key alone goes on working, and both where they agree.
    for workdir in (None, "", "runs/a/"):
        name_run(name, config, workdir)
        assert config[key].rstrip("/") == "runs/a"
    with pytest.raises(UserError, match=rf"--workdir=b and --config.{key}=runs/a"):
        name_run(name, config, "b")
    with pytest.raises(UserError, match=rf"--workdir or --config.{key} is missing"):
        name_run(name, config_of(name), None)


@pytest.mark.parametrize("name", ["pretrain", "replay"])
def test_training_needs_a_workdir(name: str) -> None:
    name_run(name, digits.get_config(), "runs/a")
    for missing in (None, ""):
        with pytest.raises(UserError, match="--workdir is missing"):
            name_run(name, digits.get_config(), missing)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_task_without_a_run_takes_no_workdir(name: str) -> None:
    name_run(name, digits.get_config(), None)
    with pytest.raises(UserError, match=f"task='{name}' takes no --workdir"):
        name_run(name, digits.get_config(), "runs/a")


@pytest.mark.parametrize("flag", ["num_processes", "process_id", "join_timeout"])
def test_flags_of_several_processes_need_the_coordinator(flag: str) -> None:
    with pytest.raises(
        UserError, match=f"--{flag} has no effect without --coordinator"
    ):
        check_flags("pretrain", ["config", flag], [])
    check_flags("pretrain", ["config", "coordinator", flag], [])


@pytest.mark.parametrize("name", [name for name in TASKS if name != "pretrain"])
def test_other_tasks_are_for_one_process(name: str) -> None:
    with pytest.raises(UserError, match="for one process: leave out --coordinator"):
        check_flags(name, ["coordinator"], [])


def test_an_output_that_nothing_is_written_to_is_refused() -> None:
    for name, task in TASKS.items():
        if task.of_training and name != "preview":
            with pytest.raises(UserError, match="ignores --config.output"):
                check_flags(name, [], ["output"])
        else:
            check_flags(name, [], ["output"])


@pytest.mark.parametrize("key", ["topology", "data.num_examples"])
def test_a_scan_refuses_what_describes_a_plan(key: str) -> None:
    with pytest.raises(UserError, match=f"{key} is for --config.task=plan alone"):
        check_flags("scan", [], [key])
    check_flags("plan", [], [key])


@pytest.mark.parametrize("name", TASKS)
def test_only_the_plan_hides_what_the_compiler_warns_of(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It compiles steps that are too large, and says so itself."""
    level, seen = "TF_CPP_MIN_LOG_LEVEL", []
    monkeypatch.setenv(level, "")
    monkeypatch.delenv(level)

    def resolve(place: str) -> Callable:
        seen.append(os.environ.get(level))  # JAX reads it when it is imported
        return lambda *args, **options: None

    monkeypatch.setattr(pkgutil, "resolve_name", resolve)
    start(name, config_of(name), "runs/x")
    assert seen == ["2" if name == "plan" else None]


def test_jax_is_not_imported_before_the_task_is_known() -> None:
    code = (
        "import sys\n"
        "from invariance_propagation.cli import command\n"
        "command.tasks.start = lambda *x: print('jax' in sys.modules)\n"
        "sys.argv += ['--config=configs/digits.py', '--config.task=plan']\n"
        "command.run()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"
