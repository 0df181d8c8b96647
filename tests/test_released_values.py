"""All that is tagged [code] is what the authors' code has."""

import ast
import importlib
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import methods
from invariance_propagation.evaluation.classifier import training
from invariance_propagation.evaluation.protocols import linear, semi, transfer
from invariance_propagation.methods.invariance_propagation.schedule import ramp_up
from invariance_propagation.optimizer import make_optimizer
from tests.reference import released_values as released
from tests.tiny_run import ROOT

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("[!_]*.py"))
# Section of configs/evaluate.py -> the module that has its numbers.
RECIPES = {"linear": linear, "semi": semi, "finetune": transfer}


@pytest.mark.parametrize("name", sorted(released.CONFIGS))
def test_a_config_has_the_released_value(name: str) -> None:
    config, *method, key = name.split(":")
    section, field = key.split(".")
    options = importlib.import_module(f"configs.{config}").get_config(*method)
    assert options.to_dict()[section][field] == released.CONFIGS[name].value


@pytest.mark.parametrize("name", sorted(released.RECIPES))
def test_a_recipe_has_the_released_value(name: str) -> None:
    kind, section, field = name.split(".")
    found = getattr(getattr(RECIPES[section], kind), field)
    assert found == released.RECIPES[name].value


def test_every_place_is_a_file_and_a_line() -> None:
    for table in (released.CONFIGS, released.RECIPES):
        for name, entry in table.items():
            file, line = entry.place.split(" ")[0].split(":")
            assert file.endswith((".py", ".md", ".sh")) and line[0].isdigit(), name


def test_every_tag_is_in_the_table() -> None:
    files = [(config, ROOT / f"configs/{config}.py") for config in CONFIGS]
    # Their values are those of every data set that changes nothing.
    for method in methods.names():
        which = "" if method == methods.DEFAULT else f":{method}"
        files.append((f"default{which}", ROOT / f"configs/methods/{method}.py"))
    for config, path in files:
        for key in tagged(path, "[code"):
            assert f"{config}:{key.removeprefix('config.')}" in released.CONFIGS
        assert not tagged_text(path, "[code]") or config == "default"  # explains tags
    assert tagged_recipes("[code") == set(released.RECIPES)


def test_every_number_of_a_recipe_has_a_tag() -> None:
    tags = tagged_recipes("[code") | tagged_recipes("[ours")
    for part, protocol in RECIPES.items():
        for field in protocol.IMAGENET._fields:
            assert f"IMAGENET.{part}.{field}" in tags
    for field in linear.SMALL._fields:
        assert f"SMALL.linear.{field}" in tags


def test_departures_are_said() -> None:
    keys = set(tagged(ROOT / "configs/default.py", "[ours"))
    assert {"config.optimizer.schedule", "config.train.epochs"} <= keys
    keys = tagged_recipes("[ours")
    assert {"IMAGENET.semi.std", "SMALL.linear.learning_rate"} <= keys


def test_the_milestones_are_where_the_released_code_drops() -> None:
    steps = 3
    options = importlib.import_module("configs.default").get_config().optimizer
    rate, _ = make_optimizer(
        **dict(options) | {"schedule": "steps"}, epochs=800, steps_per_epoch=steps
    )
    for epoch in (0, 1, 398, 399, 400, 598, 599, 698, 699, 799):
        wanted = released.pretraining_rate(epoch, rate=0.03, milestones=(400, 600, 700))
        for step in (epoch * steps, epoch * steps + steps - 1):
            np.testing.assert_allclose(rate(step), wanted, rtol=1e-5)


RATES = {
    "semi": {"head": (0.06, 0.06, ()), "backbone": (0.0012, 0.0012, (15, 20, 25))},
    "finetune": {
        "head": (0.05, 0.005, (50, 70, 80)),
        "backbone": (0.001, 0.001, (50, 70, 80)),
    },
}


@pytest.mark.parametrize("part", ["semi", "finetune"])
@pytest.mark.parametrize("which", ["head", "backbone"])
def test_fine_tuning_has_the_rates_of_the_released_loop(part: str, which: str) -> None:
    steps = 2
    options = RECIPES[part].IMAGENET._replace(weight_decay=0.0)
    optimizer = training.optimizers(options, steps)[which]
    first, later, milestones = RATES[part][which]
    wanted = released.tuning_rates(
        options.epochs, first=first, later=later, milestones=milestones
    )
    np.testing.assert_allclose(
        rates_of(optimizer, options.epochs * steps)[::2], wanted, rtol=1e-4
    )
    if (part, which) == ("finetune", "head"):
        assert [wanted[e] for e in (0, 1, 50)] == [0.05, 0.005, 0.005]
        np.testing.assert_allclose([wanted[e] for e in (51, 70)], 0.0005)
        np.testing.assert_allclose([wanted[e] for e in (71, 80)], 5e-5)


def rates_of(optimizer: optax.GradientTransformation, count: int) -> np.ndarray:
    """Of each step: what it does to a velocity of 1."""
    params = jnp.float32(0)
    state, rates, velocity = optimizer.init(params), [], 0.0
    for _ in range(count):
        update, state = optimizer.update(jnp.float32(1), state, params)
        velocity = 0.9 * velocity + 1
        rates.append(-float(update) / velocity)
    return np.array(rates)


def test_the_ramp_grows_as_the_released_one() -> None:
    for epoch in range(40):
        counted = epoch + 1  # main.py:148
        wanted = np.exp(-5 * max(1 - counted / 30, 0) ** 2)  # objective.py:15-18
        found = ramp_up(jnp.int32(epoch), start_epoch=30, ramp="gaussian")
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        on = counted > 30  # objective.py:20-21
        assert ramp_up(jnp.int32(epoch), start_epoch=30, ramp="binary") == on


def tagged(path: Path, tag: str) -> list[str]:
    """The keys whose comment has a tag: on their line, or right above."""
    source = path.read_text()
    leaves = list(keys_of(ast.parse(source)))
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or tag not in token.string:
            continue
        line, alone = token.start[0], token.line.strip().startswith("#")
        if alone:
            after = min(first for _, first, _ in leaves if first > line)
            found += [key for key, first, _ in leaves if first == after]
        else:
            here = [key for key, _, last in leaves if last == line]
            assert here, f"{path}:{line} has a tag and no key"
            found += here
    return found


def tagged_recipes(tag: str) -> set[str]:
    """The keys of all recipes that have a tag, such as 'IMAGENET.linear.epochs'."""
    found = set()
    for section, protocol in RECIPES.items():
        for key in tagged(Path(protocol.__file__), tag):
            kind, *field = key.split(".")
            found.add(".".join((kind, section, *field)))
    return found


def tagged_text(path: Path, tag: str) -> bool:
    """Whether a docstring has a tag, which `tagged` would not see."""
    nodes = ast.walk(ast.parse(path.read_text()))
    texts = (x.value for x in nodes if isinstance(x, ast.Constant))
    return any(tag in text for text in texts if isinstance(text, str))


def keys_of(tree: ast.AST) -> Iterator[tuple[str, int, int]]:
    """(key, first line, last line) of what is assigned, or passed by its name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            if isinstance(node.value, ast.Call) and node.value.keywords:
                yield from keywords_of(node.value, name)
            elif name == "VALUES":
                yield from values_of(ast.literal_eval(node.value), node.value)
            else:
                yield name, node.lineno, node.end_lineno
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = ast.unparse(node.value.func)
            if function.endswith(".update"):
                yield from keywords_of(node.value, function.removesuffix(".update"))


def values_of(values: dict, node: ast.Dict) -> Iterator[tuple[str, int, int]]:
    """The keys of a config's table of values for each method, as `methods.adapt` reads it."""
    for method, sections in zip(values, node.values, strict=True):
        which = "" if method == methods.DEFAULT else f"{method}:"
        for section, changes in zip(values[method], sections.values, strict=True):
            for field, value in zip(changes.keys, changes.values, strict=True):
                key = f"{which}{section}.{field.value}"
                yield key, value.lineno, value.end_lineno


def keywords_of(call: ast.Call, name: str) -> Iterator[tuple[str, int, int]]:
    for keyword in call.keywords:
        key, value = f"{name}.{keyword.arg}", keyword.value
        if isinstance(value, ast.Call) and value.keywords:
            yield from keywords_of(value, key)
        else:
            yield key, value.lineno, value.end_lineno
