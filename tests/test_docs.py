"""README, docs/ and the notebook: what they name is there, and README is one page."""

import ast
import functools
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import methods
from invariance_propagation.errors import UserError
from invariance_propagation.optimizer import make_schedule

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.name != "changelog.md"  # it is the file at the root
]
NOTEBOOK = ROOT / "notebooks" / "invariance_propagation_colab.ipynb"
CONFIGS = {path.stem for path in (ROOT / "configs").glob("[!_]*.py")}
OF_TASKS = {"embed", "evaluate", "export", "report"}
# Configs that a page tells its reader to write.
OF_READERS = {"my_config.py"}
# Where the path of a module that a page names may begin.
FOLDERS = (ROOT, ROOT / "invariance_propagation", ROOT / "invariance_propagation/core")


@functools.cache
def config_of(name: str, *method: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config(*method)


def slug(heading: str) -> str:
    """The anchor that MkDocs and GitHub make of a heading."""
    text = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", text))


def anchors_of(path: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def broken_links(text: str, page: Path) -> Iterator[str]:
    """Yields relative links that lead nowhere; anchors in reference/ are MkDocs' to check."""
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists():
            yield link
        elif anchor and "reference" not in target.parts:
            if anchor not in anchors_of(target):
                yield link


def missing_configs(text: str) -> Iterator[str]:
    """Yields configs that are not shipped."""
    for name in re.findall(r"--config=([\w./]+)", text):
        stem = name.removeprefix("configs/").removesuffix(".py")
        is_example = stem.isupper() or name in OF_READERS
        if not is_example and (stem not in CONFIGS or stem == "default"):
            yield name


def missing_targets(text: str) -> Iterator[str]:
    """Yields targets of make that the Makefile has not."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    code = re.findall(r"`make ([\w-]+)|^    make ([\w-]+)", text, re.MULTILINE)
    yield from ({a or b for a, b in code} - targets)


def unknown_keys(text: str) -> Iterator[str]:
    """Yields keys that no config has, and tasks that there are not."""
    if text.startswith("# Migration"):  # the first column has other people's names
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    configs = [config_of("default"), *map(config_of, sorted(OF_TASKS))]
    configs += [config_of("default", method) for method in methods.names()]
    for key in re.findall(r"--config\.([a-z][\w.]*)=", text):
        if not any(_has(config, key) for config in configs):
            yield key
    sections = "|".join(key for key, x in configs[0].items() if _is_section(x))
    for key in re.findall(rf"`((?:{sections})\.(?!py`)[a-z_.]+)[`=]", text):
        if not any(_has(config, key) for config in configs):
            yield key
    tasks = {"plan", "scan", "preview", "replay", "verify_resume"}
    yield from set(re.findall(r"--config\.task=(\w+)", text)) - tasks


def _is_section(value: object) -> bool:
    return isinstance(value, ConfigDict)


def _has(config: ConfigDict, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(config, ConfigDict) or part not in config:
            # Groups are named by the method.
            return key.startswith(("optimizer.groups.", "views."))
        config = config[part]
    return True


def missing_files(text: str) -> Iterator[str]:
    """Yields modules and scripts, named with their folder, that are not there."""
    for name in re.findall(r"`([\w./]+/\w+\.py)`|python ([\w./]+\.py)", text):
        name = "".join(name)
        if not any((folder / name).is_file() for folder in FOLDERS):
            yield name


def missing_names(text: str) -> Iterator[str]:
    """Yields names of the reference that the package does not have."""
    for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
        try:
            importlib.import_module(name)
        except ImportError:
            module, _, attribute = name.rpartition(".")
            if not hasattr(importlib.import_module(module), attribute):
                yield name


def refused_schedules(text: str) -> Iterator[str]:
    """Yields what is wrong with commands that train fewer epochs than their config needs."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.search(r"--config=(?:configs/)?(\w+)(?:\.py)?(?::([\w+]+))?", line)
        if not found or found[1] not in CONFIGS - OF_TASKS:
            continue
        method = found[2] or methods.DEFAULT
        if not set(method.split("+")) <= set(methods.names()):  # the reader's own
            continue
        module = importlib.import_module(f"configs.{found[1]}")
        config = module.get_config(method)
        flags = re.findall(r"--config\.((?:train|optimizer)\.\w+)=([\w.]+)", line)
        config.update_from_flattened_dict(
            {key: ast.literal_eval(x) for key, x in flags if x[0].isdigit()}
        )
        names = inspect.signature(make_schedule).parameters.keys()
        options = {k: v for k, v in config.optimizer.items() if k in names}
        try:
            make_schedule(**options, epochs=config.train.epochs, steps_per_epoch=10)
        except UserError as error:
            yield str(error)


CHECKS = (
    refused_schedules,
    missing_configs,
    missing_targets,
    unknown_keys,
    missing_files,
    missing_names,
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_names_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [*broken_links(text, path)] == []
    for check in CHECKS:
        assert [*check(text)] == [], check.__name__


def test_what_the_notebook_names_is_there() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            text = "".join(cell["source"])
            assert [*broken_links(text, NOTEBOOK)] == []
            for name in re.findall(r"`([\w/]+/\w+\.(?:py|md))`", text):
                assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
    "check, text",
    [
        (refused_schedules, "--config=configs/digits.py \\\n  --config.train.epochs=2"),
        (refused_schedules, "--config=digits:odc --config.optimizer.warmup_epochs=900"),
        (missing_configs, "python main.py --config=configs/digit.py"),
        (missing_configs, "invariance-propagation --config=digit"),
        (missing_targets, "    make dmeo"),
        (missing_targets, "run `make tests` now"),
        (unknown_keys, "--config.trian.epochs=3"),
        (unknown_keys, "--config.train.epoch=3"),
        (unknown_keys, "set `train.epoch=3`"),
        (unknown_keys, "--config.task=sing"),
        (missing_files, "see `core/serch.py`"),
        (missing_files, "python benchmarks/none.py"),
        (missing_names, "::: invariance_propagation.core.losses.none"),
    ],
)
def test_a_check_sees_a_fault(check, text: str) -> None:
    assert len([*check(text)]) == 1


@pytest.mark.parametrize("link", ["none.md", "README.md#none", "docs/none/"])
def test_a_link_that_leads_nowhere_is_seen(link: str) -> None:
    assert [*broken_links(f"[a]({link}) [b](#what-it-is)", PAGES[0])] == [link]


def test_the_readme_is_one_page_that_begins_with_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines[2:4] == ["    make demo", "    make test"]
    assert len(lines) <= 100


def test_the_example_of_the_readme_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    *first, last = block.strip().splitlines()
    call, expected = last.split("  # ")
    names: dict = {}
    exec("\n".join(first), names)
    assert str(eval(call, names)) == expected
