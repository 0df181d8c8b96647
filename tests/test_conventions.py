"""Rules that the code keeps and that no single module could test."""

import ast
import functools
import importlib
import importlib.util
import inspect
import io
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest

import invariance_propagation
from configs import default, digits, methods
from invariance_propagation.cli import tasks
from invariance_propagation.evaluation.protocols import PROTOCOLS, find_protocol
from invariance_propagation.methods import METHODS

ROOT = Path(__file__).parents[1]
NAME = "invariance_propagation"

# Who may import whom: a room, which is a folder or a module of the package's root,
# imports rooms of lower floors. Inside a room imports are free.
FLOORS = (
    {"errors", "parallel", "phases", "signals", "version"},
    {"files", "settings"},
    {"core", "devices", "models", "optimizer"},
    {"data", "methods"},
    {"store", "__init__"},
    {"evaluation"},
    {"train"},
    {"report", "tasks"},
    {"cli"},
)
# The method's mathematics, to be lifted out as it is: arrays in, arrays out, with
# nothing of networks, configs, data or files below it.
CORE = {"core"}
BELOW_CORE = {"errors", "parallel", "version"}
CORE_LIBRARIES = {"jax", "numpy"}
# The rooms that see a config; below them options are arguments.
SEE_CONFIG = {"train", "tasks", "cli"}
# What is built on the package.
OUTSIDE = {"configs", "tests", "benchmarks", "notebooks", "main"}
# A corridor that is longer hides what is in it.
MODULES_AT_THE_ROOT, MODULES_IN_A_FOLDER = 8, 11
# Longer ones want to be several. The docstring does not count.
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 300, 60


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / NAME).rglob("*.py"))}


def unit_of(module: str) -> str:
    """'invariance_propagation.data.order' -> 'data'; the package -> '__init__'."""
    return [*module.split("."), "__init__"][1]


def parse_imports(source: str, module: str, *, is_folder: bool) -> Iterator[str]:
    """Full names of what a module imports, at its top or inside a function."""
    folder = module if is_folder else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, folder)
            for alias in node.names:
                member = f"{base}.{alias.name}"
                yield member if member in MODULES else base


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    path = MODULES[module]
    is_folder = path.name == "__init__.py"
    return frozenset(parse_imports(path.read_text(), module, is_folder=is_folder))


def is_own(name: str) -> bool:
    return name.split(".")[0] == NAME


def libraries_of(module: str) -> set[str]:
    names = {name.split(".")[0] for name in imports_of(module) if not is_own(name)}
    return names - set(sys.stdlib_module_names)


def allowed(importer: str, target: str) -> bool:
    """Whether FLOORS let one room import the other."""
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    return importer == target or floor[target] < floor[importer]


def closure(unit: str) -> tuple[set[str], set[str]]:
    """The units that a unit needs, itself among them, and their libraries."""
    units, libraries, waiting = set(), set(), [unit]
    while waiting:
        unit = waiting.pop()
        if unit not in units:
            units.add(unit)
            for module in (m for m in MODULES if unit_of(m) == unit):
                libraries |= libraries_of(module)
                waiting += [unit_of(m) for m in imports_of(module) if is_own(m)]
    return units, libraries


def test_every_room_has_its_floor() -> None:
    # Whoever adds one decides here where it belongs.
    rooms = [room for floor in FLOORS for room in floor]
    assert sorted(rooms) == sorted({unit_of(module) for module in MODULES})


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_too_long(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and node.body[1:] else node
            assert node.end_lineno - first.lineno < LINES_OF_A_FUNCTION, node.name


def test_no_folder_is_a_corridor() -> None:
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        count = sum(path.name != "__init__.py" for path in folder.glob("*.py"))
        is_root = folder.name == NAME
        assert count <= (MODULES_AT_THE_ROOT if is_root else MODULES_IN_A_FOLDER), (
            folder
        )


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module: str) -> None:
    importer = unit_of(module)
    targets = {unit_of(name) for name in imports_of(module) if is_own(name)}
    upward = sorted(unit for unit in targets if not allowed(importer, unit))
    assert not upward, f"{module} imports {upward}, which FLOORS put no lower"
    assert not libraries_of(module) & OUTSIDE


@pytest.mark.parametrize(
    "importer, target",
    [
        ("data", "methods"),
        ("methods", "data"),
        ("data", "store"),
        ("models", "methods"),
        ("store", "train"),
        ("store", "evaluation"),
        ("evaluation", "train"),
        ("train", "report"),
        ("methods", "__init__"),
        *(("core", room) for room in ("data", "methods", "models", "devices")),
    ],
)
def test_the_floors_forbid_what_they_are_for(importer: str, target: str) -> None:
    # Whoever moves a unit up to make an import possible is stopped here.
    assert not allowed(importer, target)


@pytest.mark.parametrize("unit", sorted(CORE | {"__init__"}))
def test_the_core_needs_jax_alone(unit: str) -> None:
    # Directly or by way of others: no flax, ml_collections, data or models.
    units, libraries = closure(unit)
    assert units <= CORE | BELOW_CORE | {"__init__"}
    assert libraries <= CORE_LIBRARIES
    if unit in CORE:
        assert units <= CORE | BELOW_CORE


def test_the_config_is_seen_at_the_top_alone() -> None:
    users = {unit_of(m) for m in MODULES if "ml_collections" in libraries_of(m)}
    assert users <= SEE_CONFIG


def test_the_parser_sees_every_kind_of_import() -> None:
    source = textwrap.dedent("""
        import numpy as np, os.path
        from jax import lax
        from invariance_propagation import parallel, init_bank
        from invariance_propagation.data import order
        from .. import settings
        from ..evaluation.knn import knn_predict
        from . import base
        def function():
            from invariance_propagation.train import train_and_evaluate
    """)
    own = ["parallel", "data.order", "settings", "evaluation.knn", "methods.base"]
    expected = {"numpy", "os.path", "jax", NAME, f"{NAME}.train"}
    expected |= {f"{NAME}.{name}" for name in own}
    module = f"{NAME}.methods.invp"
    assert set(parse_imports(source, module, is_folder=False)) == expected
    source = "from .base import Method"
    module = f"{NAME}.methods"
    assert [*parse_imports(source, module, is_folder=True)] == [f"{module}.base"]


# What the public names say of themselves.

PUBLIC = {
    name: getattr(invariance_propagation, name)
    for name in invariance_propagation.__all__
    if callable(getattr(invariance_propagation, name))
}
FUNCTIONS = {name: f for name, f in PUBLIC.items() if not inspect.isclass(f)}
RECORDS = {name: c for name, c in PUBLIC.items() if inspect.isclass(c)}


def entries(function: Callable, title: str) -> dict[str, str]:
    """The entries of one section of a docstring: name -> text.

    An entry starts two spaces in from the title, and goes on four spaces in.
    """
    doc = inspect.getdoc(function)
    section = re.search(rf"^{title}:\n((?:  .*\n|\n)*)", doc + "\n", re.MULTILINE)
    found = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", section[1], re.MULTILINE)
    return dict(found)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_names_its_shapes(name: str) -> None:
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function)
    assert re.search(r"^Returns:\n", doc, re.MULTILINE)
    returned = doc.split("\nReturns:\n")[1].split("\n\n")[0]
    # Of an array; `invp_losses` returns a record, which names the shapes itself.
    assert "[" in returned or returned.split()[0].strip(",") in RECORDS

    parameters = inspect.signature(function).parameters
    arrays = [n for n, p in parameters.items() if p.annotation is jax.Array]
    arrays = [n for n in arrays if n != "key"]
    options = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    if arrays or options:
        described = entries(function, "Args")
        assert list(described) == list(parameters)
        for array in arrays:
            assert re.search(r"(int|int32|float|float32|bool) \[", described[array])


@pytest.mark.parametrize("name", RECORDS)
def test_a_public_record_names_its_shapes(name: str) -> None:
    described = entries(RECORDS[name], "Attributes")
    assert list(described) == list(RECORDS[name]._fields)
    assert all("[" in text for text in described.values())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_with_defaults_are_keyword_only(name: str) -> None:
    # And only they, so that a call reads arrays first and then names.
    for parameter in inspect.signature(FUNCTIONS[name]).parameters.values():
        has_default = parameter.default is not parameter.empty
        is_option = parameter.kind is parameter.KEYWORD_ONLY
        assert has_default == is_option, parameter


# The configs.

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
# What starts from a run has keys of its own: the arguments of one function.
TASKS = {name: task for name, task in tasks.TASKS.items() if not task.of_training}
TRAINING = [name for name in CONFIGS if name not in TASKS]


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """'section.key' -> value."""
    found = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def comment_lines(source: str) -> tuple[set[int], set[int]]:
    """Numbers of the lines that have a comment, and of those that are one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    alone = {t.start[0] for t in comments if t.line.lstrip().startswith("#")}
    return {token.start[0] for token in comments}, alone


@functools.cache
def commented(name: str) -> dict[str, bool]:
    """For each key that a config assigns: is there a comment on its line or above?

    Above means a line of its own: the comment at the end of another key's line is
    that other key's.
    """
    source = (ROOT / "configs" / f"{name}.py").read_text()
    having, alone = comment_lines(source)
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            key = ast.unparse(node.targets[0]).removeprefix("config.")
            own = range(node.lineno, node.end_lineno + 1)
            found[key] = bool(having.intersection(own)) or node.lineno - 1 in alone
    return found


@pytest.mark.parametrize("method", methods.names())
def test_every_key_is_explained_once(method: str) -> None:
    own = commented(f"methods/{method}")
    explained = commented("default") | own
    for key in leaves(default.get_config(method).to_dict()):
        # Another file explains what is inside of a method that is wrapped.
        if key != "method.name" and not key.startswith("method.inner."):
            while key not in explained and "." in key:  # one comment for a whole tree
                key = key.rpartition(".")[0]
            assert explained[key], f"nothing is said about {key}"
            assert key in own or not key.startswith("method.")


@pytest.mark.parametrize("method", methods.names())
@pytest.mark.parametrize("name", TRAINING)
def test_every_data_set_takes_every_method(name: str, method: str) -> None:
    config = importlib.import_module(f"configs.{name}").get_config(method)
    assert config.method.name == method
    assert methods.names() == sorted(METHODS)


def test_a_method_of_ones_own_brings_its_defaults(monkeypatch) -> None:
    def make(*, rate: float, power: int = 3, problem: Any) -> None: ...

    module = types.ModuleType("somebodys")
    module.make = make
    monkeypatch.setitem(sys.modules, "somebodys", module)
    config = digits.get_config("somebodys:make")
    assert config.method.to_dict() == {"name": "somebodys:make", "power": 3}
    assert config.augment.size == 8 and config.optimizer.learning_rate == 0.03


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("moco", "no method 'moco': choose one of .*invariance_propagation"),
        ("nowhere:make", "nowhere"),
        ("types:nothing", "nothing"),
    ],
)
def test_a_method_that_is_not_there_is_one_line(method: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        digits.get_config(method)


def parameters_of(function: Callable) -> Iterator[str]:
    """The names of its parameters; '**sections' are those that protocols read."""
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield name
            continue
        read = {x for name in PROTOCOLS for x in find_protocol(name).sections}
        yield from sorted(read)


@pytest.mark.parametrize("name", TASKS)
def test_the_config_of_a_task_is_the_arguments_of_a_function(name: str) -> None:
    function = pkgutil.resolve_name(f"{NAME}.{TASKS[name].function}")
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.task == name and config.is_locked
    parameters = [*parameters_of(function)]
    assert set(config.keys()) == {"task", *parameters}
    assert all(commented(name)[key] for key in parameters)
    doc = inspect.getdoc(importlib.import_module(f"configs.{name}"))
    assert next(iter(parameters)) == TASKS[name].run_key  # what it starts from
    assert f"    python main.py --config=configs/{name}.py --workdir=" in doc


def test_comments_are_told_apart() -> None:
    source = "# of a\na = 1\nb = 2  # of b, not of c\nc = 'no # comment'\n"
    assert comment_lines(source) == ({1, 3}, {1})


@pytest.mark.parametrize("name", TRAINING)
def test_a_config_has_the_keys_of_the_default(name: str) -> None:
    config = importlib.import_module(f"configs.{name}").get_config()
    keys = leaves(default.get_config().to_dict())
    assert leaves(config.to_dict()).keys() == keys.keys()
    # So that a misspelt key on the command line is an error.
    assert config.is_locked


@pytest.mark.parametrize("name", [name for name in TRAINING if name != "default"])
def test_a_config_says_what_to_type_and_what_to_expect(name: str) -> None:
    doc = inspect.getdoc(importlib.import_module(f"configs.{name}"))
    command = f"python main.py --config=configs/{name}.py --workdir=runs/{name}"
    assert f"    {command}\n" in doc
    for title in ("Time", "Result"):
        assert re.search(rf"^{title}: \w", doc, re.MULTILINE), title


# What an import costs.

IMPORT_ALL = f"""
import importlib, pkgutil, sys
from jax._src import xla_bridge
package = importlib.import_module("{NAME}")
names = [m.name for m in pkgutil.walk_packages(package.__path__, "{NAME}.")]
assert len(names) == {len(MODULES) - 1}, names
for name in ["{NAME}", *names]:
    importlib.import_module(name)
    slow = {{"tensorflow", "tensorflow_datasets", "sklearn"}} & set(sys.modules)
    assert not slow, f"{{name}} imports {{slow}}"
    assert not xla_bridge.backends_are_initialized(), f"{{name}} starts JAX"
import jax
jax.devices()
# Else the question above would have been the wrong one.
assert xla_bridge.backends_are_initialized()
"""


def test_importing_is_light() -> None:
    # A backend that an import has started can no longer be told how many devices to
    # have; TensorFlow takes seconds, memory, and on a GPU all of it.
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
