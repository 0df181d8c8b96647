"""The text of --help."""

import shutil
import sys
import textwrap
from pathlib import Path

from invariance_propagation.cli import shipped
from invariance_propagation.cli.flags import OWN, help_of
from invariance_propagation.cli.tasks import TASKS

EXAMPLES = """\
{program} --config=CONFIG --workdir=FOLDER [--config.KEY=VALUE ...]

  {program} --config=digits --workdir=runs/digits
  {program} --config=digits --config.task=plan
  {program} --config=evaluate --workdir=runs/digits"""
NAME_WIDTH = 15
METHODS = Path(__file__).parents[1] / "methods"
# `devices.topologies` has them too, but imports JAX; a test compares.
TOPOLOGIES = {
    "v3": "8, 32 (TPU cores)",
    "v4, v5p": "8, 16, 32, 64, 128, 256, 512, 1024, 2048 (TPU cores, two a device)",
    "v5e, v6e": "1, 4, 8, 16, 32, 64, 128, 256 (TPU chips)",
    "a100, h100": "1, 2, 4, 8 (NVIDIA GPUs with 80 GB)",
}


def print_usage() -> None:
    """Prints how to call the program, its tasks, its configs and its flags."""
    width = min(88, shutil.get_terminal_size().columns)
    own = [name for name, task in TASKS.items() if not task.of_training]
    of_data = [name for name in shipped.names() if name not in own]
    script = Path(sys.argv[0]).name
    program = f"python {script}" if script.endswith(".py") else script
    print(EXAMPLES.format(program=program))
    print("\nTasks of a training config, by --config.task=NAME:")
    _print_rows(
        {name: task.about for name, task in TASKS.items() if task.of_training}, width
    )
    print("\nTasks with a config of their own, by --config=NAME:")
    _print_rows({name: TASKS[name].about for name in own}, width)
    print("\nTraining configs, by --config=NAME, or --config=FILE of your own:")
    _print_rows({name: shipped.title(name) for name in of_data}, width)
    print("\nMethods beside Invariance Propagation, by --config=NAME:METHOD:")
    _print_rows(_methods(), width)
    print("\nDevices to plan for, by --config.task=plan --config.topology=NAME-COUNT:")
    _print_rows(TOPOLOGIES, width)
    print("\nFlags:")
    for name in OWN:
        print(f"  --{name}")
        print(textwrap.indent(textwrap.fill(help_of(name), width - 6), " " * 6))


def _methods() -> dict[str, str]:
    """Returns the title of each method but the default, without importing it."""
    others = [name for name in shipped.methods() if name != "invariance_propagation"]
    return {
        name: shipped.title_of(_source_of(name)).partition(" (")[0] for name in others
    }


def _source_of(method: str) -> Path:
    folder = METHODS / method
    return folder / "__init__.py" if folder.is_dir() else METHODS / f"{method}.py"


def _print_rows(rows: dict[str, str], width: int) -> None:
    for name, text in rows.items():
        text = textwrap.fill(text, width - NAME_WIDTH - 3)
        lines = textwrap.indent(text, " " * (NAME_WIDTH + 3))
        print(f"  {name:{NAME_WIDTH}} {lines.lstrip()}")
