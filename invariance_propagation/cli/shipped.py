"""The configs that come with the package, by name."""

import ast
import importlib.util
import sys
from pathlib import Path

# In a wheel they lie in the package, in the sources beside it.
_PACKAGED, _SOURCE = (Path(__file__).parents[i] / "configs" for i in (1, 2))
FOLDER = _PACKAGED if _PACKAGED.is_dir() else _SOURCE


def names() -> list[str]:
    """Returns the names of all shipped configs, in alphabetical order."""
    return _modules_in(FOLDER)


def methods() -> list[str]:
    """Returns the names of the methods that have shipped options, in alphabetical order."""
    return _modules_in(FOLDER / "methods")


def _modules_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def title(name: str) -> str:
    """Returns the first line of a config's docstring, without running the config."""
    return title_of(FOLDER / f"{name}.py")


def title_of(path: Path) -> str:
    """Returns the first line of the docstring of a Python file, without running it."""
    source = path.read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def path_of(config: str) -> str:
    """Replaces the name of a shipped config by the path of its file.

    Args:
      config: as typed: 'digits', 'configs/digits.py', a path of your own file, and any
        of them with ':METHOD'. A file that exists under a path that was typed comes
        first.

    Returns:
      A path, with ':METHOD' where it was typed.
    """
    typed, colon, method = config.partition(":")
    path = Path(typed)
    is_name = path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py")
    if not path.is_file() and is_name and path.stem in names():
        path = FOLDER / f"{path.stem}.py"
        return f"{path}{colon}{method}"
    return config


def make_importable() -> None:
    """Lets a config say `from configs import default`, wherever the package lies."""
    if "configs" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "configs", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["configs"] = module
    spec.loader.exec_module(module)
